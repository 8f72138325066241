"""The sicknesses of a run, told from its log: each is a plain warning, given once.

A window is the log's last `WINDOW` entries; nothing is said before there are two of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

WINDOW = 8
Log = Sequence[Mapping[str, float]]


def sicknesses(log: Log, kl_target: float, warmup: int) -> Iterator[tuple[str, str]]:
    """(name, warning) of each that the log shows now. `log`: an entry for each step, `warmup`: the critic's steps."""
    if len(log) < 2 * WINDOW:
        return
    first, last = log[:WINDOW], log[-WINDOW:]
    for name, find in (("length", _length), ("entropy", _entropy)):
        if warning := find(first, last):
            yield name, warning
    if warning := _divergence(first, last, kl_target):
        yield "kl", warning
    if warning := _critic(last, warmup):
        yield "critic", warning


def _length(first: Log, last: Log) -> str:
    """Longer answers, and scores that follow length within the steps."""
    before, after = _mean(first, "tokens"), _mean(last, "tokens")
    follows = _mean(last, "score_length_correlation")
    if not (after > 1.5 * before > 0 and follows > 0.5 and _mean(last, "score") > _mean(first, "score")):
        return ""
    return (
        f"answers grew from {before:.0f} to {after:.0f} tokens, and scores follow length (correlation {follows:.2f}): "
        "the reward may be won by length alone. Read the samples; a truncated_penalty or another reward helps"
    )


def _entropy(first: Log, last: Log) -> str:
    before, after = _mean(first, "entropy"), _mean(last, "entropy")
    if not 0 <= after < 0.2 * before:
        return ""
    return (
        f"the policy's entropy fell from {before:.3g} to {after:.3g} nats: it says nearly the same every time. A "
        "larger kl_coefficient, an entropy_coefficient or a lower learning_rate keeps it open"
    )


def _divergence(first: Log, last: Log, target: float) -> str:
    """Far above the target, or without one far above the start and still rising."""
    now, half = _mean(last, "kl"), WINDOW // 2
    rises = _mean(last[half:], "kl") > 1.2 * _mean(last[:half], "kl")
    if not (now > 3 * target if target else now > 20 and now > 4 * _mean(first, "kl") and rises):
        return ""
    beyond = f" against a target of {target:g}" if target else " and rises"
    return (
        f"an answer's KL to the reference is {now:.3g} nats{beyond}: the policy runs away from it. Raise "
        "kl_coefficient, or lower learning_rate or inner_epochs"
    )


def _critic(last: Log, warmup: int) -> str:
    learned = [
        entry["explained_variance"] for entry in last if entry["step"] > warmup and "explained_variance" in entry
    ]
    if len(learned) < WINDOW or max(learned) >= 0:
        return ""
    return (
        f"the critic explains less than nothing of the returns (explained variance {mean(learned):.2f} over {WINDOW} "
        "entries): its advantages are noise. Raise critic_learning_rate or critic_warmup, or use rloo"
    )


def _mean(log: Log, name: str) -> float:
    values = [entry[name] for entry in log if name in entry]
    return mean(values) if values else 0.0

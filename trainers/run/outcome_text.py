"""What a run prints when it ends: the held-out numbers before and after, and the command that comes next."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SHOWN = (
    "score",
    "loss",
    "accuracy",
    "rewards/accuracies",
    "rewards/margins",
    "perplexity",
    "mean_token_accuracy",
    "exact_match",
)


def epilogue(run: Mapping[str, Any], out: Path) -> str:
    """A few lines for a terminal, from what run.json holds."""
    lines = list(changes(run.get("heldout_before", {}), run.get("heldout", {})))
    if best := run.get("best"):
        lines.append(f"best: {best['measure']} {best['value']:.4g} at step {best['step']}, which is what final holds")
    lines.append(f"next: trimtab export --run {out} --out {out.name}-model")
    return "\n".join(lines)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """ "held out: loss 0.6931 → 0.41, …"; a line that says so where nothing was held out."""
    found = {name: after[name] for name in SHOWN if isinstance(after.get(name), float | int)}
    if not found:
        yield "held out: nothing was measured"
        return
    size = next((f" ({after[unit]} {unit})" for unit in ("pairs", "prompts") if after.get(unit)), "")
    told = (f"{name} {shown(before.get(name))} → {shown(value)}" for name, value in found.items())
    yield f"held out{size}: {', '.join(told)}"


def shown(value: Any) -> str:
    """A number in four digits; "?" where it was not measured."""
    return f"{value:.4g}" if isinstance(value, float | int) else "?"

"""`trimtab eval --pairs`: every pair under every arm's whole prompt, scored by the engine, compared, written down.

The folder holds run.json, questions.jsonl, scores.jsonl (a line a score, on disk before it counts) and report.json. An
interrupted run resumes with the same command. Arms take turns in blocks of pairs, so that an engine that keeps one
prefix reads what an arm puts before every question once a block.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainers.ask.journal import Journal
from trainers.evaluation import folder
from trainers.evaluation.arms.arm import Arm, ArmError, Identity, find, read_arm
from trainers.evaluation.likelihood.likelihood_report import write_report
from trainers.evaluation.likelihood.margin import Row, key_of, read_row, write_row
from trainers.evaluation.likelihood.pair_file import Pair, read_pairs
from trainers.evaluation.likelihood.scoring import Found, left_of, score_all
from trainers.evaluation.plan import Plan
from trainers.run.recipe import RecipeError


def run(plan: Plan, out: Path | None, dry: bool, argv: Sequence[str]) -> int:
    """The command's status; without `out`, or `dry`, only what it would take is said.

    Raises:
        ArmError, RecipeError, DataError, FolderError: the plan is wrong, or another one. EngineError: a server is away,
        or cannot score. JournalError: the folder is in use.
    """
    pairs, notes = read_pairs(plan.pairs, plan.limit, plan.sample, plan.seed)
    found = [find(arm) for arm in plan.read_arms()]
    engines = {arm.name: _engine(plan, arm, identity) for arm, identity in found}
    count = sum(len(pair.answers) for pair in pairs) * len(found)
    print(f"{len(pairs):,} pairs x {len(found)} arms: {count:,} answers to score")
    for note in notes:
        print(f"note: {note}")
    if dry or out is None:
        return 0
    what = _fixed(plan, found, engines, pairs)
    with Journal(out / "scores.jsonl", read_row, write_row) as kept:
        before = folder.begin(out, what, [pair.question for pair in pairs], len(kept.known))
        told: dict[str, Any] = {
            "version": version("trimtab"), "command": ["trimtab", "eval", *argv],
            "started": before.get("started") or time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": before.get("seconds", 0.0), "plan": asdict(plan), "notes": notes,
        }  # fmt: skip
        folder.write(out / "run.json", {**told, "fixed": what})
        began = time.monotonic()
        try:
            score_all(plan, found, engines, left_of(found, pairs, kept, plan.seed), kept)
        finally:
            told["seconds"] = round(told["seconds"] + time.monotonic() - began, 1)
            folder.write(out / "run.json", {**told, "fixed": what})
        rows = _by_arm([arm.name for arm, _ in found], pairs, kept)
    told["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    folder.write(out / "run.json", {**told, "fixed": what})
    write_report(plan.baseline or found[0][0].name, out, {**told, "fixed": what}, pairs, rows, plan.seed)
    return 0


def rebuild(out: Path, told: Mapping[str, Any], plan: Plan) -> int:
    """Write the report of a run from its folder and its files of pairs, finished or not; no server is asked.

    Args:
        told: the folder's run.json.

    Raises:
        RecipeError: the baseline is no arm. FolderError: the pairs are others. DataError: they cannot be read.
    """
    names = list(told["fixed"]["arms"])
    baseline = plan.baseline or names[0]
    if baseline not in names:
        raise RecipeError(f"the baseline {baseline!r} is no arm; the arms are {', '.join(names)}")
    pairs, _ = read_pairs(plan.pairs, plan.limit, plan.sample, plan.seed)
    if _hash(pairs) != told["fixed"]["pairs_sha256"]:
        raise folder.FolderError(f"the pairs are not those that {out} scored: their hash is another")
    with Journal(out / "scores.jsonl", read_row, write_row) as kept:
        rows = _by_arm(names, pairs, kept)
    write_report(baseline, out, told, pairs, rows, plan.seed)
    return 0


def _by_arm(names: Sequence[str], pairs: Sequence[Pair], kept: Journal[Row]) -> dict[str, list[Row]]:
    return {name: [row for pair in pairs if (row := kept.get(key_of(name, pair.id)))] for name in names}


def _engine(plan: Plan, arm: Arm, identity: Identity) -> Arm:
    """Who scores an arm: `--scorer`, or the arm's own engine where nothing stands before it."""
    if plan.scorer:
        made = read_arm(f"scorer={plan.scorer}")
        return replace(made, key_env=plan.scorer_key_env)
    if identity.digest:
        raise ArmError(
            f"arm {arm.name!r} is a policy of {arm.url}; give --scorer URL#MODEL, the engine behind it, which must "
            "give log-probabilities of a prompt (/v1/completions with echo and logprobs)"
        )
    return arm


def _fixed(plan: Plan, found: Sequence[Found], engines: Mapping[str, Arm], pairs: Sequence[Pair]) -> dict[str, Any]:
    return {
        "arms": {arm.name: folder.fixed_arm(arm, identity) for arm, identity in found},
        "scorers": {name: {"url": engine.url, "model": engine.model} for name, engine in engines.items()},
        "pairs": [Path(text).name for text in plan.pairs],
        "pairs_sha256": _hash(pairs),
    }


def _hash(pairs: Sequence[Pair]) -> str:
    lines = "".join(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
    return hashlib.sha256(lines.encode("utf-8", "replace")).hexdigest()

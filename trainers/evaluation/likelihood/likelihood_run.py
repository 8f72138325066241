"""`trimtab eval --pairs`: every pair under every arm's whole prompt, scored by the engine, compared, written down.

The folder holds run.json, questions.jsonl, scores.jsonl (a line a score, on disk before it counts) and report.json. An
interrupted run resumes with the same command. Arms take turns in blocks of pairs, so that an engine that keeps one
prefix reads what an arm puts before every question once a block.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from trainers.ask.host import EngineError, Host
from trainers.ask.journal import Journal, write_whole
from trainers.evaluation import folder
from trainers.evaluation.arms.arm import Arm, ArmError, Identity, find, read_arm
from trainers.evaluation.likelihood.margin import MEASURES, Row, by_length, key_of, measured, read_row, write_row
from trainers.evaluation.likelihood.pair_file import Pair, read_pairs
from trainers.evaluation.likelihood.scorer import Prompt, Refused, Scorer, post
from trainers.evaluation.plan import Plan
from trainers.evaluation.report.terminal import table
from trainers.evaluation.report.wording import word
from trainers.evaluation.stats.compare import compare, compare_kinds, levels

SCHEMA = "trimtab-pairs-report/1"
BLOCK = 20  # pairs that an arm has in a row: long enough for a prefix cache, short enough for a run cut off
Found = tuple[Arm, Identity]


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
            _score_all(plan, found, engines, _left(found, pairs, kept, plan.seed), kept)
        finally:
            told["seconds"] = round(told["seconds"] + time.monotonic() - began, 1)
            folder.write(out / "run.json", {**told, "fixed": what})
        rows = _by_arm([arm.name for arm, _ in found], pairs, kept)
    told["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    folder.write(out / "run.json", {**told, "fixed": what})
    write_report(plan.baseline or found[0][0].name, out, {**told, "fixed": what}, pairs, rows, plan.seed)
    return 0


def rebuild(out: Path, plan: Plan) -> int:
    """Write the report of a run from its folder and its files of pairs, finished or not; no server is asked.

    Raises:
        FolderError: there is no run. DataError: the pairs cannot be read.
    """
    told = folder.run_of(out)
    pairs, _ = read_pairs(plan.pairs, plan.limit, plan.sample, plan.seed)
    if _hash(pairs) != told["fixed"]["pairs_sha256"]:
        raise folder.FolderError(f"the pairs are not those that {out} scored: their hash is another")
    names = list(told["fixed"]["arms"])
    with Journal(out / "scores.jsonl", read_row, write_row) as kept:
        rows = _by_arm(names, pairs, kept)
    write_report(plan.baseline or names[0], out, told, pairs, rows, plan.seed)
    return 0


def _left(found: Sequence[Found], pairs: Sequence[Pair], kept: Journal[Row], seed: int) -> list[tuple[Arm, Pair]]:
    """What is still to be scored: BLOCK pairs, of all kinds, under one arm, then the same under the next."""
    mixed = random.Random(f"order {seed}").sample(list(pairs), len(pairs))  # noqa: S311 (an order, no secret)
    return [
        (arm, pair)
        for start in range(0, len(pairs), BLOCK)
        for arm, _ in found
        for pair in mixed[start : start + BLOCK]
        if kept.get(key_of(arm.name, pair.id)) is None
    ]


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


def _score_all(
    plan: Plan, found: Sequence[Found], engines: Mapping[str, Arm], left: Sequence[tuple[Arm, Pair]],
    kept: Journal[Row],
) -> None:  # fmt: skip
    names = {arm.host for arm, _ in found} | {engine.host for engine in engines.values()}
    hosts = {name: Host(name, plan.concurrency, plan.requests_per_minute, plan.retries) for name in names}
    scorers: dict[tuple[str, str], Scorer] = {}
    mine = {
        name: scorers.setdefault((engine.url, engine.model), Scorer(engine, hosts[engine.host]))
        for name, engine in engines.items()
    }
    aligned = {arm.name: bool(identity.digest) for arm, identity in found}
    queue = deque(left)

    async def work(client: httpx.AsyncClient, bar: Any) -> None:
        while queue:
            arm, pair = queue.popleft()
            try:
                prompt = await _prompt(client, hosts[arm.host], arm, pair, aligned[arm.name])
                row = Row(arm.name, pair.id, tuple(await mine[arm.name].score(client, prompt, pair.answers)))
            except Refused as error:
                row = Row(arm.name, pair.id, error=str(error))
            kept.append(row.key, row)
            bar.update()

    async def everything() -> None:
        with tqdm(total=len(left), desc="pairs", unit="") as bar:
            async with httpx.AsyncClient(timeout=plan.timeout) as client, asyncio.TaskGroup() as group:
                for _ in range(plan.concurrency):
                    group.create_task(work(client, bar))

    try:
        asyncio.run(everything())
    except ExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def _prompt(client: httpx.AsyncClient, host: Host, arm: Arm, pair: Pair, aligned: bool) -> Prompt:
    """What the arm's engine would be sent: laid out by the server itself where the arm is a policy."""
    messages = [{"role": role, "content": text} for role, text in pair.messages]
    if not aligned:
        return messages
    told = await post(client, host, arm, "/v1/explain", arm.body(messages))
    prompt: Prompt | None = told.get("text") or told.get("messages")
    if not prompt:
        raise EngineError(f"{arm.url}/v1/explain shows no prompt")
    return prompt


# ---------------------------------------------------------------- what it comes to


def write_report(
    baseline: str, out: Path, told: Mapping[str, Any], pairs: Sequence[Pair], rows: Mapping[str, Sequence[Row]],
    seed: int,
) -> None:  # fmt: skip
    """report.json in the folder, and the table on the terminal."""
    by_id = {pair.id: pair for pair in pairs}
    marks = {
        arm: {row.pair: measured(by_id[row.pair], row.scores) for row in some if row.scores}
        for arm, some in rows.items()
    }
    marks = {arm: some for arm, some in marks.items() if some}
    questions = [pair.question for pair in pairs]
    if baseline not in marks or len(marks) < 2:
        print("nothing to compare: the baseline and one arm more must have scores")
        return
    empty: dict[str, list[Any]] = {arm: [] for arm in marks}
    comparisons = compare(questions, empty, baseline, marks, described=MEASURES, seed=seed)
    kinds = dict.fromkeys(question.kind for question in questions)
    split = (
        compare_kinds(questions, empty, baseline, marks, described=MEASURES, seed=seed) if 1 < len(kinds) <= 24 else {}
    )
    groups = {"": pairs} | ({kind: [p for p in pairs if p.kind == kind] for kind in kinds} if split else {})
    document = {
        "schema": SCHEMA, "baseline": baseline, "pairs": len(pairs),
        "length": {kind: {k: asdict(v) for k, v in by_length(some).items()} for kind, some in groups.items()},
        "arms": {
            arm: {
                "scored": len(marks.get(arm, {})), "refused": [row.error for row in some if row.error][:5],
                "levels": _levels(questions, marks.get(arm, {}), seed),
                "kinds": {kind: _levels([p.question for p in part], marks.get(arm, {}), seed)
                          for kind, part in groups.items() if kind},
            } for arm, some in rows.items()
        },
        "comparisons": [asdict(one) | {"word": word(one)} for one in comparisons],
        "kinds": {kind: [asdict(one) | {"word": word(one)} for one in some] for kind, some in split.items()},
        "run": told,
    }  # fmt: skip
    write_whole(out / "report.json", json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n")
    print(table(comparisons, shutil.get_terminal_size((120, 24)).columns))
    length = by_length(pairs)
    told_of = ", ".join(
        f"the {name} answer {each.value:.1%} ({each.low:.1%} to {each.high:.1%})" for name, each in length.items()
    )
    print(f"by length alone, the better one is {told_of}")
    for arm, some in rows.items():
        if lost := [row.error for row in some if row.error]:
            print(f"arm {arm!r}: {len(lost)} pairs without a score; the first: {lost[0]}")
    print(f"report: {out / 'report.json'}")


def _levels(questions: Sequence[Any], marks: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, Any]:
    found = levels(questions, [], marks, described=MEASURES, seed=seed)
    return {name: asdict(estimate) for name, estimate in found.items()}

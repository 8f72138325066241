"""The folder of a run, and what must not change in it between one start and the next.

run.json          the plan, the arms and what their servers said they are, the sets with their hashes; the outcome
questions.jsonl   what is asked
answers.jsonl     an answer a line, on disk before it counts
traces.jsonl      the principles' ids of answers that have some
judge/            what a judge said
report.json, report.html
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_whole
from trainers.data.jsonl import file_hash
from trainers.evaluation.arms.arm import Arm, Identity
from trainers.evaluation.core import Question
from trainers.evaluation.plan import Plan


class FolderError(Exception):
    """The folder holds another run; the message says what differs."""


def fixed(
    plan: Plan, arms: Sequence[tuple[Arm, Identity]], sets: Mapping[str, tuple[Path, str, list[Question]]],
    questions: Sequence[Question],
) -> dict[str, Any]:  # fmt: skip
    """What the answers depend on. Keys of engines, speed, prices and judges are not in it: they may change."""
    return {
        "arms": {arm.name: fixed_arm(arm, identity) for arm, identity in arms},
        "prompts": {
            name: {"file": path.name, "sha256": file_hash(path), "form": form, "questions": len(some)}
            for name, (path, form, some) in sets.items()
        },
        "questions_sha256": hashlib.sha256(_lines(questions).encode("utf-8", "replace")).hexdigest(),
        "limit": plan.limit, "sample": plan.sample, "samples": plan.samples, "seed": plan.seed,
        "letters": plan.letters,
        **({} if plan.stream else {"stream": False}),  # left out by default: older runs, without the key, resume
    }  # fmt: skip


def fixed_arm(arm: Arm, identity: Identity) -> dict[str, Any]:
    """An arm and what it said it is, for run.json."""
    return {
        "url": arm.url, "model": arm.model, "policy": arm.policy, "decoding": dict(arm.decoding),
        "identity": {**asdict(identity), "stages": list(identity.stages), "indexes": list(identity.indexes)},
    }  # fmt: skip


def begin(folder: Path, what: Mapping[str, Any], questions: Sequence[Question], answered: int) -> dict[str, Any]:
    """What run.json said before, {} in a new folder. Writes it, and the questions, where they are not there yet.

    Raises:
        FolderError: the folder's run is another one.
    """
    path = folder / "run.json"
    if path.is_file():
        before: dict[str, Any] = json.loads(path.read_text("utf-8"))
        now = json.loads(json.dumps(what))
        if changed := list(_differences(before["fixed"], now)):
            told = "; ".join(changed[:6]) + (f"; and {len(changed) - 6} more" if len(changed) > 6 else "")
            raise FolderError(f"{folder} holds a run of another plan ({told}); use another --out, or the same plan")
        return before
    if answered:
        raise FolderError(f"{folder} holds answers, but no run.json that says what they are to; use another --out")
    write_whole(folder / "questions.jsonl", _lines(questions))
    write(path, {"fixed": what})
    return {}


def questions_of(folder: Path, run: Mapping[str, Any]) -> list[Question]:
    """The questions of a run that asks for answers, whose run.json says `run`.

    Raises:
        FolderError: there are no answers, or other questions than were asked.
    """
    if not (folder / "answers.jsonl").is_file():
        raise FolderError(f"{folder} holds no run: no answers.jsonl")
    lines = (folder / "questions.jsonl").read_bytes()
    if hashlib.sha256(lines).hexdigest() != run["fixed"]["questions_sha256"]:
        raise FolderError(f"{folder}/questions.jsonl is not what was asked: its hash is not the one in run.json")
    return [question_of(json.loads(line)) for line in lines.decode().split("\n") if line]


def run_of(folder: Path) -> dict[str, Any]:
    """run.json. Raises FolderError where there is none, or one without the plan."""
    path = folder / "run.json"
    if not path.is_file():
        raise FolderError(f"{folder} holds no run: no run.json")
    run: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if "plan" not in run:
        raise FolderError(f"{folder} was made before run.json held the plan; run its own command once more")
    return run


def question_of(row: dict[str, Any]) -> Question:
    """The question of a line of questions.jsonl."""
    history = tuple((role, text) for role, text in row.pop("history"))
    return Question(**{**row, "turns": tuple(row["turns"])}, history=history)


def _differences(before: Any, now: Any, at: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [text for key in keys for text in _differences(before.get(key), now.get(key), f"{at}.{key}".lstrip("."))]
    return [] if before == now else [f"{at}: {_short(before)} then, {_short(now)} now"]


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def write(path: Path, what: Mapping[str, Any]) -> None:
    """Write JSON; the file appears whole or not at all."""
    write_whole(path, json.dumps(what, indent=2, ensure_ascii=False) + "\n")


def _lines(questions: Sequence[Question]) -> str:
    rows = (json.dumps(asdict(question), ensure_ascii=False) for question in questions)
    return "".join(row + "\n" for row in rows)

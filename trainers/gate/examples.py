"""The labelled rewrites that the gate's model learns from: `rewrites/`, a file for each writer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from tqdm import tqdm

from prompt_opt.gate.additions import Comparison, compare
from prompt_opt.gate.rules import Mode
from prompt_opt.gate.scorer import Array, Edit, Embed, Tokens, features
from prompt_opt.gate.verdict import judge

LANGUAGES = ("en", "de", "fr", "es", "zh")
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Labelled:
    """A rewrite that somebody labelled. `kind` is what it does to the prompt."""

    writer: str
    language: str
    kind: str
    harmful: bool
    mode: Mode
    prompt: str
    rewrite: str


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled rewrite as the gate's rules see it; `edit` is None where a rule vetoes."""

    row: Labelled
    edit: Edit | None
    found: Comparison


def labelled() -> list[Labelled]:
    """All that come with the package, by writer."""
    folder = Path(str(files("trainers.gate").joinpath("rewrites")))
    return [row for path in sorted(folder.glob("*.jsonl")) for row in read(path)]


def hints(rows: Sequence[Labelled]) -> list[Labelled]:
    """The rewrites that keep the prompt and add to it, as the hints that they are: few of the rows are hints."""
    return [
        dataclasses.replace(row, mode="complement", rewrite=hint)
        for row in rows
        if row.mode == "replace" and row.rewrite.startswith(row.prompt)
        and (hint := row.rewrite[len(row.prompt) :].strip(" \n.。"))
    ]  # fmt: skip


def read(path: Path) -> list[Labelled]:
    """The rewrites of one file: JSON lines with the fields of `Labelled`, but for the writer; `mode` may be absent."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [
        Labelled(
            path.stem, row["language"], row["kind"], row["harmful"], row.get("mode", "replace"), row["prompt"],
            row["rewrite"],
        )
        for row in lines
    ]  # fmt: skip


def example(row: Labelled) -> Example:
    """What the rules say of a rewrite, and what it changes."""
    doubted: list[Mapping[str, str]] = []

    def note(original: str, rewrite: str, mode: Mode, doubts: Mapping[str, str]) -> str:
        doubted.append(doubts)
        return ""

    accepted = judge(row.prompt, row.rewrite, row.mode, additions=note).accepted
    edit = Edit(row.prompt, row.rewrite, row.mode, frozenset(doubted[0])) if accepted else None
    return Example(row, edit, compare(row.prompt, row.rewrite, row.mode))


def embedded(examples: Sequence[Example], embed: Embed) -> tuple[Array, Array]:
    """The model's inputs, one row for each example that no rule vetoes, and the mean of the prompts' token vectors."""
    judged = [(e, e.edit) for e in examples if e.edit]
    texts = sorted(
        {text for e, _ in judged for text in (e.row.prompt, e.row.rewrite)}, key=lambda text: (len(text), text)
    )
    tokens: dict[str, Tokens] = {}
    for start in tqdm(range(0, len(texts), _BATCH), desc="embedding", disable=None):
        batch = texts[start : start + _BATCH]
        tokens |= zip(batch, embed(batch), strict=True)
    prompts = sorted({e.row.prompt for e, _ in judged})
    center = np.mean([tokens[text].vectors.mean(axis=0) for text in prompts], axis=0)
    center = center.astype(np.float16).astype(np.float32)
    rows = [features(edit, e.found, tokens[e.row.prompt], tokens[e.row.rewrite], center) for e, edit in judged]
    return np.stack(rows), center

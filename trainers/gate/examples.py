"""The labelled rewrites that the gate's model learns from: `rewrites/`, a file for each writer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from tqdm import tqdm

from prompt_opt.gate.additions import Change, changes
from prompt_opt.gate.rules import Mode
from prompt_opt.gate.scorer import Array, Edit, Embed, features, opening, spans
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
    found: tuple[Change, ...]


def labelled() -> list[Labelled]:
    """All that come with the package, by writer."""
    folder = Path(str(files("trainers.gate").joinpath("rewrites")))
    return [row for path in sorted(folder.glob("*.jsonl")) for row in read(path)]


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
    """What the rules say of a rewrite, and its changes."""
    doubted: list[Mapping[str, str]] = []

    def note(original: str, rewrite: str, mode: Mode, doubts: Mapping[str, str]) -> str:
        doubted.append(doubts)
        return ""

    if not judge(row.prompt, row.rewrite, row.mode, additions=note).accepted:
        return Example(row, None, ())
    edit = Edit(row.prompt, row.rewrite, row.mode, frozenset(doubted[0]))
    return Example(row, edit, changes(row.prompt, row.rewrite, row.mode))


def embedded(examples: Sequence[Example], embed: Embed) -> tuple[list[Array], Array]:
    """The model's inputs, one array for each example that no rule vetoes, and the mean of the prompts' vectors."""
    judged = [e for e in examples if e.edit]
    prompts = sorted({opening(e.row.prompt) for e in judged}, key=lambda text: (len(text), text))
    texts = sorted({*prompts, *(t for e in judged for t in spans(e.found))}, key=lambda text: (len(text), text))
    vectors: dict[str, Array] = {}
    for start in tqdm(range(0, len(texts), _BATCH), desc="embedding", disable=None):
        batch = texts[start : start + _BATCH]
        vectors |= zip(batch, embed(batch), strict=True)
    mean = np.mean([vectors[text] for text in prompts], axis=0).astype(np.float16).astype(np.float32)
    return [features(e.edit, e.found, vectors, vectors[opening(e.row.prompt)], mean) for e in judged if e.edit], mean

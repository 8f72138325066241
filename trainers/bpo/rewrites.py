"""BPO's data: preference pairs, a critic's rewrite for each, and what the filters leave (arXiv 2311.04155, section 3).

OUT/answers.jsonl    what the critic said, a line as soon as it is said
OUT/rewrites.jsonl   prompt and rewrite of every pair that passed, and which part it belongs to
OUT/dropped.jsonl    every pair that did not, and the reason
OUT/data.json        written last: the counts, and what all this was made of; while that stays, nothing is redone
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prompt_opt.gate.language import size
from prompt_opt.gate.verdict import judge
from prompt_opt.rewriter.template import BPO
from trainers.ask.engine import Answer, Engine, ask_all
from trainers.ask.journal import write_rows, write_whole
from trainers.bpo.options import Recipe
from trainers.data.jsonl import DataError
from trainers.data.layouts import opening, preference, split, wanted
from trainers.data.messages import Row, ShapeError
from trainers.data.rows import rows_of
from trainers.judge.critic import compare, read_rewrite, together, words


@dataclass(frozen=True, slots=True)
class Pair:
    """An instruction, the text it comes with (or ""), and two responses. `part` is "train" or "heldout"."""

    place: str
    part: str
    instruction: str
    context: str
    chosen: str
    rejected: str

    @property
    def seed(self) -> int:
        """A number that depends on the texts alone; it chooses the layout of instruction and context."""
        text = "\0".join((self.instruction, self.context, self.chosen, self.rejected))
        return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")

    @property
    def prompt(self) -> str:
        """What a user would send, and so what the rewriter learns from."""
        return together(self.instruction, self.context, self.seed) if self.context else self.instruction


class Dropped(Exception):
    """A pair that nothing is learnt from: the reason, and what was seen."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def prepare(recipe: Recipe, engine: Engine, out: Path, first: bool) -> dict[str, Any]:
    """Go through all stages up to rewrites.jsonl, as far as they are not done; what data.json holds.

    first: whether this process does it; the others wait for it.

    Raises:
        EngineError: the critic cannot be asked. DataError: the pairs cannot be read, or no rewrite is left.
    """
    pairs, dropped = read_pairs(recipe)
    made_of = {
        "pairs": hashlib.sha256(repr((pairs, dropped)).encode("utf-8", "replace")).hexdigest(),
        "critic": {"model": engine.model, "temperature": engine.temperature, "max_tokens": engine.max_tokens},
        "wording": hashlib.sha256(json.dumps(words(), sort_keys=True).encode()).hexdigest(),
        "filters": {"gate": recipe.gate, "keep_unchanged": recipe.keep_unchanged},
    }
    path = out / "data.json"
    while not (done := _made(path, made_of)):
        if first:
            _make(pairs, dropped, recipe, engine, out, made_of)
        else:
            time.sleep(1)
    return done


def _made(path: Path, made_of: Mapping[str, Any]) -> dict[str, Any]:
    """What data.json says, where it was made of the same; else {}."""
    if not path.is_file():
        return {}
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return said if said["made_of"] == made_of else {}


def _make(
    pairs: list[Pair], left_out: list[Row], recipe: Recipe, engine: Engine, out: Path, made_of: Mapping[str, Any]
) -> None:
    questions = [compare(pair.instruction, pair.rejected, pair.chosen, pair.context) for pair in pairs]
    answers = ask_all(engine, questions, out / "answers.jsonl", "critic")
    kept: list[Row] = []
    dropped = list(left_out)
    for pair, answer in tqdm(zip(pairs, answers, strict=True), total=len(pairs), desc="filters"):
        try:
            rewrite = rewrite_of(pair, answer, recipe.gate, recipe.keep_unchanged)
            kept.append({"place": pair.place, "part": pair.part, "prompt": pair.prompt, "rewrite": rewrite})
        except Dropped as why:
            dropped.append(_note(pair.place, pair.part, pair.prompt, why, answer.text))
    write_rows(out / "rewrites.jsonl", kept)
    write_rows(out / "dropped.jsonl", dropped)
    if not any(row["part"] == "train" for row in kept):
        most = Counter(row["reason"] for row in dropped).most_common(1)
        raise DataError(f"the filters left no rewrite to learn from (most: {most}); see {out / 'dropped.jsonl'}")
    counts = {
        "pairs": len(pairs) + len(left_out),
        "kept": dict(Counter(row["part"] for row in kept)),
        "unchanged": sum(row["prompt"] == row["rewrite"] for row in kept),
        "dropped": dict(Counter(row["reason"] for row in dropped).most_common()),
    }
    write_whole(out / "data.json", json.dumps({"counts": counts, "made_of": made_of}, indent=2) + "\n")


# ---------------------------------------------------------------- (a) pairs


def read_pairs(recipe: Recipe) -> tuple[list[Pair], list[Row]]:
    """The pairs of both parts, and the rows that are none; without `heldout` a fraction of `train` is held out."""
    rows = _read(recipe.train)
    if recipe.heldout is not None:
        held = _read(recipe.heldout)
        known = {opening(row) for row in rows}
        if again := [row["place"] for row in held if opening(row) in known]:
            raise DataError(f"{len(again)} held-out prompts are trained on as well (the first: {again[0]})")
    else:
        rows, held = split(rows, recipe.heldout_fraction, recipe.seed)
    pairs, dropped = [], []
    for part, of_part in (("train", rows), ("heldout", held)):
        for row in of_part:
            try:
                pairs.append(_pair(row, part))
            except Dropped as why:
                dropped.append(_note(row["place"], part, row["prompt"], why))
    return pairs, dropped


def _read(source: str) -> list[Row]:
    """Rows of prompt, chosen, rejected, and perhaps `context` (or Alpaca's `input`) in a column of its own."""
    rows = []
    for place, row in rows_of(source):
        given = {key: value for key, value in row.items() if value is not None}
        context = given.pop("context", None) or given.pop("input", None) or ""
        try:
            [shaped] = preference(given)
        except ShapeError as error:
            raise DataError(f"{place}: {error or wanted(given, 'preference')}") from error
        if not isinstance(context, str):
            raise DataError(f'{place}: "context" must be text')
        rows.append({"place": place, **shaped, "context": context})
    if not rows:
        raise DataError(f"{source}: no rows in it")
    return rows


def _pair(row: Row, part: str) -> Pair:
    """Raises Dropped for a dialogue: the rewriter is served with a prompt alone, so it learns from prompts alone."""
    prompt = row["prompt"]
    if not isinstance(prompt, str):
        if len(prompt) != 1 or prompt[0]["role"] != "user":
            raise Dropped("dialogue", " ".join(turn["role"] for turn in prompt))
        prompt = prompt[0]["content"]
    chosen, rejected = (
        side if isinstance(side, str) else side[-1]["content"] for side in (row["chosen"], row["rejected"])
    )
    if not prompt.strip() or chosen == rejected:
        raise Dropped("nothing to compare")
    return Pair(row["place"], part, prompt.strip(), row["context"].strip(), chosen, rejected)


def _note(place: str, part: str, prompt: Any, why: Dropped, answer: str = "") -> Row:
    return {"place": place, "part": part, "prompt": prompt, "reason": why.reason, "detail": why.detail,
            "answer": answer}  # fmt: skip


# ---------------------------------------------------------------- (c) filters


def rewrite_of(pair: Pair, answer: Answer, gate: bool = True, keep_unchanged: bool = True) -> str:
    """The prompt that the rewriter should write for this pair.

    The paper's filters come first (the mark, the lengths in words, protected parts), then the serving gate's rules:
    what the server would throw away is nothing to learn.

    Raises:
        Dropped: the reason for leaving the pair out.
    """
    if answer.refused:
        raise Dropped("refused", answer.refused)
    if (said := read_rewrite(answer.text)) is None:
        raise Dropped("cut off" if answer.finish == "length" else "no mark")
    before, after = size(pair.instruction), size(said)
    if not said or before > 2 * after:
        raise Dropped("too short", f"{before} words to {after}")
    if after > 6 * before:
        raise Dropped("too long", f"{before} words to {after}")
    if "[protected" in said.lower():
        raise Dropped("protected")
    if said.split() == pair.instruction.split():
        if keep_unchanged:
            return pair.prompt
        raise Dropped("unchanged")
    rewrite = together(said, pair.context, pair.seed) if pair.context else said
    if gate:
        verdict = judge(pair.prompt, rewrite, instruction=BPO.instruction(pair.prompt, "replace"))
        if not verdict.accepted:
            raise Dropped(f"gate: {verdict.rule}", verdict.detail)
    return rewrite


# ---------------------------------------------------------------- files


def read_rewrites(out: Path, part: str) -> list[Row]:
    """The rows of OUT/rewrites.jsonl that belong to "train" or "heldout"."""
    lines = (out / "rewrites.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["part"] == part]

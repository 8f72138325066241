"""A prompt with answers of which one is better: what `--pairs` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.data.jsonl import DataError
from trainers.data.layouts import preference
from trainers.data.messages import ShapeError, messages_of
from trainers.data.rows import rows_of
from trainers.evaluation.core import Question
from trainers.evaluation.judging.labels import Labelled, read_labelled
from trainers.evaluation.questions.prompts import named, picked

# Texts that an engine may read as special tokens; an answer that holds one would not be scored as it is written.
_SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[/?INST\]")


@dataclass(frozen=True, slots=True)
class Pair:
    """`messages` are (role, text), the last a user's; `answers` two or more, of which number `right` is the best."""

    id: str
    messages: tuple[tuple[str, str], ...]
    answers: tuple[str, ...]
    right: int = 0
    kind: str = ""

    @property
    def question(self) -> Question:
        """The pair as the statistics know it: an id and a kind."""
        return Question(self.id, (self.messages[-1][1],), kind=self.kind)


def read_pairs(files: Sequence[str], limit: int = 0, sample: int = 0, seed: int = 0) -> tuple[list[Pair], list[str]]:
    """The pairs of all files and notes on those left out; `limit` and `sample` are of each file, as for prompts.

    A row has chosen, rejected and a prompt (as for training), or prompt (or messages), answers and right (a number from
    0); a JSON array with annotator1 is PandaLM's test set, of which pairs with a majority for one side count.

    Raises:
        DataError: no such file, or a row that is none of these.
    """
    paths = [Path(text) for text in files]
    pairs: list[Pair] = []
    notes: list[str] = []
    for name, path in zip(named(paths), paths, strict=True):
        found = [pair for pair in _file(path) if pair is not None]
        clean = [pair for pair in found if not any(map(_SPECIAL.search, pair.answers))]
        if len(found) > len(clean):
            notes.append(f"{name}: {len(found) - len(clean)} pairs left out whose answers hold a special token's text")
        chosen = {q.id for q in picked([pair.question for pair in clean], limit, sample, seed)}
        prefix, kind = (f"{name}/", name) if len(paths) > 1 else ("", "")
        pairs += [
            Pair(prefix + p.id, p.messages, p.answers, p.right, "/".join(filter(None, (kind, p.kind))))
            for p in clean if p.id in chosen
        ]  # fmt: skip
    if len(pairs) < 2:
        raise DataError("a comparison needs two pairs or more")
    return pairs, notes


def _file(path: Path) -> list[Pair | None]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".json" and '"annotator1"' in _head(path):
        return [_of_people(str(number), each) for number, each in enumerate(read_labelled(path), 1)]
    pairs: list[Pair | None] = []
    for number, (place, row) in enumerate(rows_of(str(path)), 1):
        try:
            pairs.append(_pair(str(row.get("id") or number), row))
        except (ShapeError, KeyError, TypeError, ValueError) as error:
            why = f": {error}" if str(error) else ""
            raise DataError(
                f"{place}: neither chosen and rejected with a prompt, nor answers and right with one{why}"
            ) from None
    return pairs


def _head(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(4000)


def _of_people(ident: str, each: Labelled) -> Pair | None:
    """A pair that most people decided; None for a tie, for two equal texts, or where one is empty."""
    before, after = "\n\n".join(each.item.before).strip(), "\n\n".join(each.item.after).strip()
    if each.majority not in ("win", "loss") or before == after or not (before and after):
        return None
    system = (("system", each.item.system),) if each.item.system else ()
    said = (*system, *each.item.history, ("user", each.item.turns[-1]))
    return Pair(ident, said, (after, before) if each.majority == "win" else (before, after))


def _pair(ident: str, row: Mapping[str, Any]) -> Pair | None:
    kind = str(row.get("kind") or "")
    if "answers" in row:
        said = messages_of(row["messages"], "messages") if "messages" in row else [_user(row["prompt"])]
        answers, right = tuple(str(text).strip() for text in row["answers"]), int(row.get("right", 0))
        if len(set(answers)) != len(answers) or len(answers) < 2 or not 0 <= right < len(answers) or not all(answers):
            raise ShapeError('"answers" must be two or more different texts, "right" the number of one')
    else:
        [shaped] = preference(dict(row))
        prompt = shaped["prompt"]
        said = prompt if isinstance(prompt, list) else [_user(prompt)]
        answers, right = tuple(_text(shaped[key]).strip() for key in ("chosen", "rejected")), 0
        if answers[0] == answers[1] or not all(answers):
            return None
    if not said or said[-1]["role"] != "user":
        raise ShapeError("the last turn is not the user's")
    return Pair(ident, tuple((turn["role"], turn["content"]) for turn in said), answers, right, kind)


def _user(text: Any) -> dict[str, str]:
    return {"role": "user", "content": str(text)}


def _text(side: Any) -> str:
    return side if isinstance(side, str) else "\n\n".join(turn["content"] for turn in side)

"""Pairs of answers that people have compared: what a judge is held against."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from trainers.data.jsonl import DataError
from trainers.judge.pairwise import Item, Outcome

OUTCOMES: tuple[Outcome, ...] = ("win", "loss", "tie")
_PANDALM: dict[int, Outcome] = {0: "tie", 1: "loss", 2: "win"}  # 1: the first response is better


@dataclass(frozen=True, slots=True)
class Labelled:
    """A pair, and what each of several people said of it: "win" where they prefer `after`, "loss" `before`."""

    item: Item
    people: tuple[Outcome, ...]

    @property
    def majority(self) -> Outcome:
        """What more than half of them said; "" where there is no such label."""
        label, votes = Counter(self.people).most_common(1)[0]
        return label if 2 * votes > len(self.people) else ""


def read_labelled(path: Path) -> list[Labelled]:
    """Pairs of PandaLM's test set (a JSON array), or JSONL with `turns` or `prompt`, `before`, `after` and `people`,
    and maybe `system` and `history` (a list of [role, text]).

    Raises DataError with the place of what cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from None
    if text.lstrip().startswith("["):
        try:
            rows = list(enumerate(json.loads(text), 1))
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error})") from None
        what = "row"
    else:
        what, rows = "line", []
        for number, line in enumerate(text.split("\n"), 1):
            try:
                rows += [(number, json.loads(line))] if line.strip() else []
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error})") from None
    if not rows:
        raise DataError(f"{path}: no pairs")
    return [_labelled(row, f"{path}, {what} {number}") for number, row in rows]


def _labelled(row: object, place: str) -> Labelled:
    if not isinstance(row, dict):
        raise DataError(f"{place}: not a JSON object")
    try:
        json.dumps(row, ensure_ascii=False).encode()  # UnicodeEncodeError, a ValueError: half a character
        if "annotator1" in row:
            people = tuple(_PANDALM[row[f"annotator{i}"]] for i in (1, 2, 3))
            asked = f"{row['instruction']}\n\n{row['input']}" if row.get("input") else str(row["instruction"])
            item = Item(asked, (asked,), (str(row["response1"]),), (str(row["response2"]),))
            return Labelled(item, people)
        turns = tuple(row["turns"]) if "turns" in row else (str(row["prompt"]),)
        said = {key: (row[key],) if isinstance(row[key], str) else tuple(row[key]) for key in ("before", "after")}
        labels: tuple[Outcome, ...] = tuple(row["people"])
        if not labels or not set(labels) <= set(OUTCOMES):
            raise DataError(f'{place}: "people" holds {row["people"]!r}; valid are {", ".join(OUTCOMES)}')
        history = tuple((str(role), str(text)) for role, text in row.get("history", ()))
        system = str(row.get("system") or "")
        asked = "\n".join([system, *(text for _, text in history), *turns]).strip()
        return Labelled(Item(asked, turns, said["before"], said["after"], system, history=history), labels)
    except KeyError as error:
        raise DataError(f"{place}: no {error.args[0]!r}, or a label that there is not") from None
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: {error}") from None

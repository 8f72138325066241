"""Sets of prompts: a file's questions, and a sample of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trainers.data.jsonl import DataError
from trainers.data.messages import ShapeError
from trainers.data.rows import rows_of
from trainers.evaluation.core import Question
from trainers.evaluation.questions.forms import ALSO, FORMS, Row

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".jsonl.zst", ".ndjson.zst")
_KIND = ("kind", "type", "category", "dataset", "group", "motivation_app")
_ANY = ("question", "questions", "prompts", "test", "dev", "train", "data")
_ID = ("id", "question_id", "idx", "_id")


def read_prompts(path: Path, form: str = "auto") -> list[Question]:
    """The questions of a file, in its order, each id once.

    Raises:
        DataError: no such file or form, or a row that does not have it; the message names the line and valid forms.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: prompts are one of {', '.join(SUFFIXES)}")
    questions: list[Question] = []
    seen: set[str] = set()
    for number, (place, row) in enumerate(rows_of(str(path)), 1):
        if number == 1:
            form = _named(form) if form != "auto" else _found(row, place)
        try:
            question = FORMS[form].read(row)
            if not all(turn.strip() for turn in question.turns) or not question.turns:
                raise ShapeError("the prompt is empty")
        except (ShapeError, KeyError, TypeError, AttributeError) as error:
            columns = FORMS[form].columns
            why = f"no {error}" if isinstance(error, KeyError) else str(error) or "a column is missing"
            raise DataError(f"{place}: not of the form {form} ({columns}): {why}") from None
        ident = next((str(row[key]) for key in _ID if row.get(key) not in (None, "")), str(number))
        while ident in seen:
            ident = f"{ident}~{number}"
        seen.add(ident)
        kind = next((str(row[key]) for key in _KIND if row.get(key)), "")
        questions.append(replace(question, id=ident, kind=kind))
    if not questions:
        raise DataError(f"{path}: no prompts in it")
    return questions


def picked(questions: Sequence[Question], limit: int = 0, sample: int = 0, seed: int = 0) -> list[Question]:
    """The first `limit`, or a seeded `sample` in which every kind has its share; 0: all. The order stays."""
    if limit:
        questions = questions[:limit]
    if not sample or sample >= len(questions):
        return list(questions)
    kinds: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        kinds.setdefault(question.kind, []).append(index)
    order = random.Random(f"kinds {seed}")  # noqa: S311 (a sample, no secret)
    share = {kind: sample * len(rows) / len(questions) for kind, rows in kinds.items()}
    take = {kind: int(part) for kind, part in share.items()}
    rest = sorted(kinds, key=lambda kind: (take[kind] - share[kind], order.random()))
    for kind in rest[: sample - sum(take.values())]:  # the largest remainders
        take[kind] += 1
    chosen = {i for kind, rows in kinds.items() for i in random.Random(f"{seed} {kind}").sample(rows, take[kind])}  # noqa: S311
    return [question for index, question in enumerate(questions) if index in chosen]


def together(sets: Mapping[str, Sequence[Question]]) -> list[Question]:
    """Several files' questions as one list; ids and kinds say which file, where there is more than one."""
    if len(sets) == 1:
        return list(next(iter(sets.values())))
    return [
        replace(question, id=f"{name}/{question.id}", kind=f"{name}/{question.kind}" if question.kind else name)
        for name, questions in sets.items()
        for question in questions
    ]


def _named(form: str) -> str:
    name = ALSO.get(form, form)
    if name not in FORMS:
        raise DataError(f"no form {form!r} of prompts; valid are auto, {', '.join([*FORMS, *ALSO])}")
    return name


def _found(row: Row, place: str) -> str:
    for name, form in FORMS.items():
        if form.fits(row):
            return name
    if "Turn 1" in row and "model" in row:
        raise DataError(f"{place}: a table of scores, not of prompts (the questions behind it are MT-Bench's)")
    forms = "".join(f"\n  {name:<12} {form.columns}" for name, form in FORMS.items())
    raise DataError(
        f"{place}: no known form has the columns {', '.join(map(str, row)) or 'none'}; the forms are{forms}"
    )


def named(files: Iterable[Path]) -> list[str]:
    """A short name for each file that no other has; MT-Bench and Vicuna both call theirs question.jsonl."""
    names: list[str] = []
    for path in files:
        stem = path.name.split(".")[0]
        folder = path.resolve().parent.name
        name = folder if stem in _ANY and folder else stem
        name = name if name not in names else f"{folder}-{stem}"
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names

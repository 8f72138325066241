"""A judge compares answers: what it is asked, in both orders, and how its verdicts are read.

Its instructions stand in pairwise.toml. A verdict that cannot be read is counted as that, and is no tie.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from prompt_opt.layout.defuse import defuse, fence_for
from trainers.ask import engine as questions

Mark = Literal["A", "B", "tie", "unreadable", "refused"]  # "refused": the engine turned the request down
Outcome = Literal["win", "loss", "tie", ""]  # of the arm; "": a mark is missing

_MARK = re.compile(
    r"\[\s*(?i:better)\s*\][^\w\[]{0,6}(?:(?i:answer|response|assistant)\s+)?"
    r"(?P<one>A|B|(?i:tie|neither|equal|both))\b(?!\s*[/|]|,?\s*(?:or|and)\b|,\s*[AB]\b)"
    r"|\[\[\s*(?P<two>A|B|C|(?i:tie))\s*\]\]"
)
_ALONE = re.compile(r"\W*(?:(?i:answer|response|assistant)\s+)?(?P<one>A|B|(?i:tie|neither|equal))\W*")
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_BLOCK = re.compile(r"^ {0,3}(~{3,}|`{3,}).*?^ {0,3}\1[~`]*\s*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Item:
    """Two answers to compare: the baseline's (`before`) and the arm's (`after`), one text for each turn."""

    question: str
    turns: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    system: str = ""
    kind: str = ""
    reference: tuple[str, ...] = ()  # good answers, to as many of the turns as there are
    history: tuple[tuple[str, str], ...] = ()  # (role, text) of what was said before the turns, the same to both


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said of an item, once with the baseline's answer as A (`forth`) and once with the arm's (`back`)."""

    question: str
    forth: Mark
    back: Mark
    longer: int  # by how many characters the arm's last answer is longer than the baseline's
    kind: str = ""
    why: tuple[str, str] = ("", "")  # the judge's words

    @property
    def readable(self) -> bool:
        """Whether both orders got a mark."""
        return self.forth in ("A", "B", "tie") and self.back in ("A", "B", "tie")

    @property
    def score(self) -> float:
        """1 if the arm's answer is preferred, 0 if the baseline's, a half for a tie: the mean of both orders."""
        return (_FORTH[self.forth] + 1 - _FORTH[self.back]) / 2

    @property
    def consistent(self) -> bool:
        """Whether both orders say the same."""
        return self.readable and _FORTH[self.forth] == 1 - _FORTH[self.back]

    @property
    def outcome(self) -> Outcome:
        """A win or a loss where both orders agree on it; a tie where they differ."""
        if not self.readable:
            return ""
        return "tie" if not self.consistent or self.forth == "tie" else "win" if self.forth == "B" else "loss"

    @property
    def first(self) -> float:
        """How far the first place was preferred: 1 in both orders, a half where places made no difference, 0 never."""
        return (2 - _FORTH[self.forth] - _FORTH[self.back]) / 2


_FORTH: Mapping[str, float] = {"A": 0.0, "B": 1.0, "tie": 0.5}  # how far the second place is preferred


@cache
def words() -> Mapping[str, Any]:
    """The judge's instructions, from pairwise.toml."""
    return tomllib.loads(files("trainers.judge").joinpath("pairwise.toml").read_text("utf-8"))


# ---------------------------------------------------------------- asking


def judge_pairs(engine: questions.Engine, items: Sequence[Item], folder: Path, *, seed: int = 0) -> list[Verdict]:
    """A verdict for each item, from both orders; `folder`/verdicts.jsonl keeps what the judge said.

    `seed` shuffles what is asked when, so that a judge that changes meanwhile changes for all arms alike, and a run
    that is stopped has judged a part drawn by chance. Raises EngineError as `questions.ask_all` does.
    """
    questions = [compare(item, swapped=swapped) for item in items for swapped in (False, True)]
    said = shuffled(engine, questions, folder / "verdicts.jsonl", "judging", seed)
    out = []
    for i, item in enumerate(items):
        forth, back = said[2 * i], said[2 * i + 1]
        longer = len(item.after[-1]) - len(item.before[-1])
        out.append(
            Verdict(item.question, read_mark(forth), read_mark(back), longer, item.kind, (forth.text, back.text))
        )
    return out


def shuffled(
    engine: questions.Engine, asked: list[questions.Messages], path: Path, what: str, seed: int
) -> dict[int, questions.Answer]:
    """Asked in an order drawn by `seed`; the answers by each question's place."""
    order = list(range(len(asked)))
    random.Random(seed).shuffle(order)  # noqa: S311  (no secret)
    answers = questions.ask_all(engine, [asked[i] for i in order], path, what)
    return dict(zip(order, answers, strict=True))


def compare(item: Item, *, swapped: bool = False) -> questions.Messages:
    """The question for one order: the baseline's answer is A, or with `swapped` the arm's."""
    said = words()["pair"]
    several = len(item.turns) > 1
    answers = {"A": item.after if swapped else item.before, "B": item.before if swapped else item.after}
    parts = [quoted(said["system_text"], item.system)] if item.system else []
    parts += [quoted(fill(said["earlier"], role=role), text) for role, text in item.history]
    if several:
        for number, text in enumerate(item.reference, 1):
            parts.append(quoted(fill(said["turn_reference"], number=number), text))
        for place, texts in answers.items():
            parts += _conversation(said, place, item.turns, texts)
    else:
        parts += [quoted(said["question"], item.turns[0])]
        parts += [quoted(said["reference"], item.reference[0])] if item.reference else []
        parts += [quoted(fill(said["answer"], place=place), texts[-1]) for place, texts in answers.items()]
    rules = {"reference_rule": item.reference and said["reference_rule"], "turns_rule": several and said["turns_rule"]}
    system = fill(said["system"].strip(), **{name: (rule or "").rstrip() for name, rule in rules.items()})
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": "\n\n".join([*parts, said["again"]])},
    ]


def _conversation(said: Mapping[str, str], place: str, turns: Sequence[str], texts: Sequence[str]) -> list[str]:
    out = []
    for number, (asked, answered) in enumerate(zip(turns, texts, strict=False), 1):
        out.append(quoted(fill(said["turn_question"], place=place, number=number), asked))
        out.append(quoted(fill(said["turn_answer"], place=place, number=number), answered))
    return out


def fill(text: str, **values: object) -> str:
    """`text` with {name} replaced, in one pass: braces in a value stay what they are."""
    return re.sub(r"\{(\w+)\}", lambda m: str(values[m[1]]) if m[1] in values else m[0], text)


def quoted(heading: str, text: str) -> str:
    """A text as data: nothing in it ends the fence, or is a special token to the judge's tokenizer."""
    text, _ = defuse(text, (), fence="~")
    fence = fence_for(text, "~~~~")
    return f"{heading}\n{fence}\n{text}\n{fence}"


# ---------------------------------------------------------------- reading


def read_mark(answer: questions.Answer) -> Mark:
    """The verdict's last mark, outside of what the judge thought or quoted.

    Also read: MT-Bench's [[A]], [[B]] and [[C]], and an answer of nothing but the word. An answer that was cut off
    has no last mark.
    """
    if answer.refused:
        return "refused"
    if answer.finish == "length":
        return "unreadable"
    text = unthought(answer.text)
    if alone := _ALONE.fullmatch(text):
        return _mark(alone["one"])
    found = list(_MARK.finditer(_BLOCK.sub("", text)))
    if not found:  # the last line may stand in a block of its own
        lines = [line for line in text.splitlines() if line.strip(" ~`")]
        found = [m for line in lines[-1:] if (m := _MARK.fullmatch(line.strip(" *_.")))]
    return _mark(found[-1]["one"] or found[-1]["two"]) if found else "unreadable"


def unthought(text: str) -> str:
    """What a judge said after it thought."""
    return _THOUGHT.sub("", text).strip()


def _mark(word: str) -> Mark:
    return "A" if word == "A" else "B" if word == "B" else "tie"

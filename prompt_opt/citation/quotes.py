"""Quotations in an answer, and whether they are what a rule says, word for word.

Punctuation, case, emphasis and line breaks make no difference; an ellipsis or a bracket stands for what was left out.
Words and numbers do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from typing import NamedTuple

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+")
_MOST = 2000  # characters of a quotation
_QUOTES = re.compile(
    "|".join(
        [
            rf"“([^“”\n]{{2,{_MOST}}})”", rf"„([^„“”\n]{{2,{_MOST}}})[“”]", rf"«([^«»\n]{{2,{_MOST}}})»",
            rf"»([^«»\n]{{2,{_MOST}}})«", rf"「([^「」\n]{{2,{_MOST}}})」", rf"『([^『』\n]{{2,{_MOST}}})』",
            rf'(?<![\w"])"([^"\n]{{2,{_MOST}}})"(?!\w)',
        ]
    )
    + rf"|((?:^[ ]{{0,3}}>[^\n]{{1,{_MOST}}}(?:\n|\Z))+)",
    re.MULTILINE,
)  # fmt: skip
_OMITTED = re.compile(r"\[[^\]\n]{0,80}\]|【[^】\n]{0,80}】|\(\s*(?:\.{3}|…)\s*\)|\.{3,}|…+")
_MARK = re.compile(r"\s*[\[【]")
_OPENED = tuple('“"„«»「『')  # what a quotation of its own begins with
FEW = 4  # words of a quotation that is compared whatever they are; a shorter one only if it has a number
_REMEMBERED = 2**14  # characters of a text whose words are remembered: a rule's or a quotation's, not a client's
_ALIKE = 0.8  # the share of a rule's words in a quotation without a mark that is taken for one of that rule
_TITLED = 0.6  # the same behind a rule's title


class Quotation(NamedTuple):
    """A quotation in an answer, its marks (of quotation) included."""

    start: int
    end: int
    text: str

    @property
    def pieces(self) -> list[str]:
        """Its words between omissions, as `words` joins them."""
        return [joined for piece in _OMITTED.split(self.text) if (joined := words(piece).strip())]


def quotations(text: str) -> Iterator[Quotation]:
    """The quotations that are long enough to be told from emphasis."""
    for found in _QUOTES.finditer(text):
        inside = next(group for group in found.groups() if group is not None)
        quotation = Quotation(found.start(), found.end(), re.sub(r"(?m)^[ ]{0,3}>[ ]?", "", inside).strip())
        tokens = " ".join(quotation.pieces).split()
        if len(tokens) >= FEW or any(map(str.isdigit, tokens)):
            yield quotation


def listed(text: str, title: str) -> Iterator[Quotation]:
    """What follows a rule's title and a colon, to the end of the line: as prompts show rules, and as answers copy them.

    At the text's end, where an answer may be cut off, the last word is left out.
    """
    names = words(title).split()
    if len(names) < 2:
        return
    for found in _head(tuple(names)).finditer(text):
        end = text.find("\n", found.end())
        rest = text[found.end() : end] if end >= 0 else text[found.end() :].rpartition(" ")[0]
        rest = _MARK.split(rest, 1)[0]  # another rule may follow on the same line
        if len(words(rest).split()) >= FEW and not rest.startswith(_OPENED):
            yield Quotation(found.start(), found.end() + len(rest), rest)


@lru_cache(512)
def _head(names: tuple[str, ...]) -> re.Pattern[str]:
    """A title of these words, a source in brackets perhaps, and a colon."""
    title = r"\W{0,3}".join(map(re.escape, names))
    return re.compile(rf"(?<!\w){title}\W{{0,2}}(?:\([^()\n]{{0,80}}\))?[ ]?[:：][ ]*", re.IGNORECASE)


def words(text: str) -> str:
    """The words of a text with a blank around each, folded so that spelling with other characters is the same."""
    return _remembered(text) if len(text) <= _REMEMBERED else _words(text)


def _words(text: str) -> str:
    found = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return f" {' '.join(found)} " if found else ""


_remembered = lru_cache(512)(_words)


def within(pieces: Sequence[str], text: str) -> bool:
    """Whether the pieces stand in a text, whole words in their order; `text` is as `words` gives it."""
    at = 0
    for piece in pieces:
        at = text.find(f" {piece} ", at)
        if at < 0:
            return False
        at += len(piece) + 1
    return bool(pieces)


def share(pieces: Sequence[str], text: str) -> float:
    """The share of a quotation's words that stand in a text in the same order, 0 to 1."""
    said = " ".join(pieces).split()
    if not said:
        return 0.0
    blocks = SequenceMatcher(None, text.split(), said, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(said)


def _common(pieces: Sequence[str], text: str) -> float:
    """The share of a quotation's words that stand in a text in any order: at least `share`, and far cheaper."""
    said, there = " ".join(pieces).split(), set(text.split())
    return sum(word in there for word in said) / len(said) if said else 0.0


def alike(pieces: Sequence[str], text: str, *, titled: bool = False) -> bool:
    """Whether a quotation without a mark is one of this text, though not word for word; `titled` as in `listed`."""
    least = _TITLED if titled else _ALIKE
    long = len(" ".join(pieces).split()) >= FEW + 2
    return long and _common(pieces, text) >= least and share(pieces, text) >= least

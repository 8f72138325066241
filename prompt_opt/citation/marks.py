"""What a citation's mark looks like, and which rule it stands for.

A mark is a rule's id in brackets, `[law-12]`, as the prompt shows it. Models write it in more ways than one: other
brackets, another case or dash, several ids in one pair, a title behind the id. All of them name the rule.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from prompt_opt.core import Principle

PAIRS = {"[": "]", "【": "】", "［": "］", "〔": "〕", "(": ")", "（": "）"}
_ROUND = ("(", "（")
_DASHES = "\u2010-\u2015\u2212\ufe58\ufe63\uff0d-"
_TOKEN = re.compile(rf"[^\W\d_]+|\d+|[^\w\s{_DASHES}]")
_SEPARATOR = re.compile(r"\s*[,;、，；|]\s*|\s+(?:and|und|et|y|e|和|及)\s+", re.IGNORECASE)
_TAIL = re.compile(r"[\s:,;(–—（：]")
# "Rule law-12", "see law-12": words before an id.
_BEFORE = re.compile(r"(?:[^\W\d_]+\s*[:.]?\s+|[^\W\d_]+\s*[:：]\s*){1,2}")
# An id of any make: letters and digits, joined without blanks.
_ID = re.compile(r"(?=\S*\d)(?=\S*[^\W\d_])[^\W_][\w.:/#§-]*", re.UNICODE)
# "Article 5", "§ 573 BGB", "第五条": a place in a law rather than an id.
_PLACE = re.compile(
    r"(?:art(?:icles?|ikel|ículo|icolo)?|sec(?:tions?)?|sección|§+|rules?|laws?|règle|regla|regel|gesetz|loi|ley|alinéa"
    r"|clause|paragraph|para|abs(?:atz)?|第|제)\.?\s*(?:no\.?|nr\.?|n°)?\s*(?:\d|[IVX]{2}|[一二三四五六七八九十百零]).{0,24}",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[1-9]\d{0,2}")


class Part(NamedTuple):
    """One id of a mark; `rule` is None where no rule with it was shown."""

    text: str
    rule: Principle | None


class Rules:
    """The rules that a prompt shows, by their marks."""

    def __init__(self, shown: Sequence[Principle]) -> None:
        self.shown = tuple(shown)
        self._by_key: dict[tuple[str, ...], Principle] = {}
        for rule in self.shown:
            self._by_key.setdefault(key(rule.id), rule)
            self._by_key.setdefault(key(rule.reference), rule)
        self._shapes = {(k[0], *_kinds(k)) for k in self._by_key if k}
        self._firsts = {k[0] for k in self._by_key if k and k[0].isalpha()}
        ids = [len(rule.id) + len(rule.index) for rule in self.shown]
        self.longest = max(96, 2 * max(ids, default=0)) + 2  # characters of a mark, brackets included

    def find(self, text: str) -> Principle | None:
        """The rule that an id stands for, whatever its case and dashes; words around it are let pass."""
        if (rule := self._by_key.get(key(text))) is not None:
            return rule
        if before := _BEFORE.match(text):
            text = text[before.end() :]
            if (rule := self._by_key.get(key(text))) is not None:
                return rule
        for tail in _TAIL.finditer(text):
            if (rule := self._by_key.get(key(text[: tail.start()]))) is not None:
                return rule
        return None

    def read(self, opener: str, inside: str) -> tuple[Part, ...]:
        """The ids between two brackets; () for what is no mark."""
        text = inside.strip().strip("*_`").strip()
        if not text:
            return ()
        if (rule := self.find(text)) is not None and not _SEPARATOR.search(text):
            return (Part(text, rule),)
        texts = [piece for piece in _SEPARATOR.split(text) if piece]
        parts = [Part(piece, self.find(piece)) for piece in texts]
        known = any(part.rule is not None for part in parts)
        strict = known or opener in _ROUND
        kept = tuple(part for part in parts if part.rule is not None or self._like(part.text, strict=strict))
        return kept if known or len(kept) == len(parts) else ()

    def _like(self, text: str, *, strict: bool) -> bool:
        """Whether a text is made as an id is, of a rule that nobody showed: `strict` asks for one of our own make."""
        token = key(text)
        if len(token) > 1 and token[0] in self._firsts and any(map(str.isdigit, token)):
            alike = (token[0], *_kinds(token)) in self._shapes
            if alike or not any(map(str.isspace, text)):
                return True
        if strict:
            return False
        return bool(_ID.fullmatch(text) or _PLACE.fullmatch(text) or _NUMBER.fullmatch(text))


@lru_cache(4096)
def key(text: str) -> tuple[str, ...]:
    """Equal for two spellings of one id: dashes, blanks and underscores separate, case makes no difference."""
    return tuple(_TOKEN.findall(unicodedata.normalize("NFKC", text).casefold()))


def _kinds(token: Sequence[str]) -> tuple[str, ...]:
    return tuple("0" if part.isdigit() else "a" if part.isalpha() else part for part in token)

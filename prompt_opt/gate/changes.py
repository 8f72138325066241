"""What a rewrite changed in the user's own words: a word replaced, dropped, or moved.

`gate_facts` holds what can be compared as a set (numbers, names, links). Here the two texts are laid side by side, so
that a change is seen where it stands: "a poem about spring" became "a poem about winter". What may be said otherwise is
in the table `same`; a word that is in no table and gives its place to another one is taken for a change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from prompt_opt.gate.additions import slip
from prompt_opt.gate.language import CJK, Lexicon, plain, unaccented

_TOKEN = re.compile(f"[{CJK}]|[^\\W_{CJK}]+")
_CLAUSE = re.compile(r"[^.!?。！？;；\n]+")
_AT_LEAST = re.compile(r"\bat (?:least|most)\b", re.IGNORECASE)
_MOST = 1500  # tokens that are laid side by side; a longer prompt is not
_PHRASES = 40
_LINK = 4  # words between two that changed places
# What joins equals: around these, words may change places.
_EQUALS = frozenset({"and", "or", "und", "oder", "et", "ou", "y", "e", "o", "u", "和", "与", "跟", "或", "及", "vs"})


@lru_cache(maxsize=256)
def tokens(text: str) -> tuple[str, ...]:
    """Words in small letters; in Chinese, Japanese and Korean, characters."""
    return tuple(_TOKEN.findall(plain(text).lower()))


def alike(one: str, other: str) -> bool:
    """Whether two words are forms of one: "safe", "safety"; accents that are missing make no other word."""
    one, other = unaccented(one), unaccented(other)
    if one == other:
        return True
    shared = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return shared >= 3 and shared >= min(len(one), len(other), 5) - (len(one) > 3 and len(other) > 3)


def _says(text: frozenset[str], word: str, lex: Lexicon) -> bool:
    """Whether a word, a form of it, or one that may stand for it is among the words of a text."""
    return any(
        each in text or any(alike(each, other) for other in text if unaccented(other[:1]) == unaccented(each[:1]))
        for each in (word, *lex.same.get(word, ()))
    )


def _content(words: Sequence[str], lex: Lexicon) -> list[str]:
    return [w for w in words if w not in lex.stop and not w.isdigit() and (len(w) > 2 or re.match(f"[{CJK}]", w))]


# ---------------------------------------------------------------- words in their places


@lru_cache(maxsize=16)
def _places(original: str, rewrite: str) -> tuple[tuple[int, tuple[str, ...], tuple[str, ...]], ...]:
    """Where other words took the place of some: the place, the words before, the words now."""
    old, new = (tokens(_AT_LEAST.sub(" ", plain(text))) for text in (original, rewrite))
    if max(len(old), len(new)) > _MOST:
        return ()
    codes = SequenceMatcher(None, old, new).get_opcodes()
    return tuple((i, tuple(old[i:j]), tuple(new[k:m])) for what, i, j, k, m in codes if what == "replace")


def replaced(original: str, rewrite: str, lex: Lexicon) -> str:
    """A content word whose place another one took, or a word that only stands in for one ("it"), or ""."""
    if not lex.stop:
        return ""
    original, rewrite = _evened(original, lex), _evened(rewrite, lex)
    had, has = frozenset(tokens(original)), frozenset(tokens(rewrite))
    wide = 2 if lex.language == "zh" else 1  # signs, not words
    for at, old, new in _places(original, rewrite):
        if (
            at < (1 if wide == 2 else 3) or len(old) > 4 * wide or len(new) > 6 * wide
        ):  # how a request begins is the rewriter's to say
            continue
        if lex.language == "zh" and any(verb in "".join(old) for verb in lex.verbs):
            continue
        orders = any(w in lex.verbs for w in new)  # one way to ask gave its place to another
        gone = [w for w in _content(old, lex) if not (orders and w in lex.verbs) and not _says(has, w, lex)]
        gone = [w for w in gone if not any(len(w) > 3 and slip(w, other) for other in new)]
        come = [w for w in _content(new, lex) if w not in lex.verbs and not _says(had, w, lex)]
        if gone and (0 < len(come) <= len(gone) + 1 + 4 * (wide - 1) or lex.pronouns.issuperset(new)):
            return f"{' '.join(gone)} became {' '.join(come or new)}"
    return ""


def _evened(text: str, lex: Lexicon) -> str:
    """A Chinese text with one word for all that may stand for it; its words cannot be told apart otherwise."""
    if lex.language == "zh":
        for word in sorted(lex.same, key=len, reverse=True):
            text = text.replace(word, min(lex.same[word]))
    return text


def dropped(original: str, rewrite: str, lex: Lexicon) -> str:
    """A constraint ("for vegetarians", "when I read") of which no content word is left, or ""."""
    if lex.language == "zh":
        return ""
    has = frozenset(tokens(rewrite))
    for clause in _CLAUSE.findall(plain(original)):
        starts = [m.end() for m in lex.binds.finditer(clause)][:_PHRASES]
        for at, end in zip(starts, [*(m.start() for m in lex.binds.finditer(clause)), len(clause)][1:], strict=False):
            phrase = re.split(r"[,:()\"“”]", clause[at : max(end, at)])[0]
            words = [w for w in _content(tokens(phrase), lex) if w not in lex.verbs][:4]
            if words and not any(_says(has, w, lex) for w in words):
                return phrase.strip()
    return ""


def swapped(original: str, rewrite: str, lex: Lexicon) -> str:
    """Two words that changed places around the same words, "Oslo to Rome" and "Rome to Oslo", or ""."""
    before, after = tokens(original), tokens(rewrite)
    if max(len(before), len(after)) > _MOST:
        return ""
    wide = 2 if lex.language == "zh" else 1  # two signs, or one word
    said = " ".join(after)
    for i in range(len(before) - 2 * wide):
        one = before[i : i + wide]
        if not _content(one, lex):
            continue
        for j in range(i + wide + 1, min(i + wide + _LINK, len(before) - wide) + 1):
            link, other = before[i + wide : j], before[j : j + wide]
            if not _content(other, lex) or _EQUALS.issuperset(link) or {*link} & {*other, *one}:
                continue
            turned, kept = (" ".join((*a, *link, *b)) for a, b in ((other, one), (one, other)))
            if f" {turned} " in f" {said} " and f" {kept} " not in f" {said} ":
                return f"{kept} became {turned}"
    return ""

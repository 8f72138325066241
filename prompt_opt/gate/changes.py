"""What a rewrite changed in the user's own words: a word turned into its opposite, replaced, dropped, or moved.

`gate_facts` holds what can be compared as a set (numbers, names, links). Here the two texts are laid side by side, so
that a change is seen where it stands: "a poem about spring" became "a poem about winter". What may be said otherwise is
in the table `same`; a word that is in no table and gives its place to another one is taken for a change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache, lru_cache
from itertools import pairwise

from prompt_opt.gate.language import CJK, Lexicon, plain

_TOKEN = re.compile(f"[{CJK}]|[^\\W_{CJK}]+")
_CLAUSE = re.compile(r"[^.!?。！？;；\n]+")
_AT_LEAST = re.compile(r"\bat (?:least|most)\b", re.IGNORECASE)
_MOST = 1500  # tokens that are laid side by side; a longer prompt is not
_PHRASES = 40
_SIGNS = 200  # of a Chinese text, in which pairs that changed places are looked for


@lru_cache(maxsize=256)
def tokens(text: str) -> tuple[str, ...]:
    """Words in small letters; in Chinese, Japanese and Korean, characters."""
    return tuple(_TOKEN.findall(plain(text).lower()))


def alike(one: str, other: str) -> bool:
    """Whether two words are forms of one: "safe", "safety"."""
    if one == other:
        return True
    shared = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return shared >= 3 and shared >= min(len(one), len(other), 5) - (len(one) > 3 and len(other) > 3)


def _says(text: frozenset[str], word: str, lex: Lexicon) -> bool:
    """Whether a word, a form of it, or one that may stand for it is among the words of a text."""
    return any(
        each in text or any(alike(each, other) for other in text if other[:1] == each[:1])
        for each in (word, *lex.same.get(word, ()))
    )


def _content(words: Sequence[str], lex: Lexicon) -> list[str]:
    return [w for w in words if w not in lex.stop and not w.isdigit() and (len(w) > 2 or re.match(f"[{CJK}]", w))]


# ---------------------------------------------------------------- opposites


def turned(original: str, rewrite: str, lex: Lexicon) -> str:
    """A word of the original that became its opposite, or "".

    Its opposite stands in the rewrite, it does not any more, and the original had only the one: "advantages" became
    "disadvantages".
    """
    had, has = _held(original, lex), _held(rewrite, lex)
    rows = lex.opposites if lex.language == "zh" else _bearing(had, lex)
    for row in rows:
        gone = [cell for cell in row if cell & had and not cell & has]
        come = [cell for cell in row if cell & has and not cell & had]
        if gone and come:
            return f"{min(gone[0] & had)} became {min(come[0] & has)}"
    for at, old, new in _places(original, rewrite):
        for row in rows if at or len(old) == len(new) else ():
            for one, other in ((a, b) for a in row for b in row if a is not b):
                if (was := one.intersection(old)) and (now := other.intersection(new)) and not one.intersection(new):
                    return f"{min(was)} became {min(now)}"
    lost, came = had - has, has - had
    for word in lost:
        for prefix in lex.reversals:
            if prefix + word in came:
                return f"{word} became {prefix}{word}"
            if word.startswith(prefix) and len(word) > len(prefix) + 3 and word.removeprefix(prefix) in came:
                return f"{word} became {word.removeprefix(prefix)}"
    return ""


def _bearing(words: frozenset[str], lex: Lexicon) -> list[tuple[frozenset[str], ...]]:
    """The rows of opposites that have one of the words, in their order."""
    rows = _rows(lex)
    return [lex.opposites[i] for i in sorted({i for word in words & rows.keys() for i in rows[word]})]


@cache
def _rows(lex: Lexicon) -> dict[str, list[int]]:
    """A word -> the rows of opposites that have it."""
    out: dict[str, list[int]] = {}
    for i, row in enumerate(lex.opposites):
        for word in frozenset[str]().union(*row):
            out.setdefault(word, []).append(i)
    return out


@lru_cache(maxsize=64)
def _held(text: str, lex: Lexicon) -> frozenset[str]:
    text = _AT_LEAST.sub(" ", plain(text).lower())
    if lex.language != "zh":
        return frozenset(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*|[^\W\d_]+", text)) | frozenset(tokens(text))
    words = {word for row in lex.opposites for cell in row for word in cell if word in text}
    # 优点 within 优缺点, 开始 within 重新开始: the longest word that stands there is the one that counts.
    return frozenset(w for w in words if not any(w != o and w in o for o in words))


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
    """Two words that changed places around a word that tells who does it to whom, or where from and to, or ""."""
    before, after = tokens(original), tokens(rewrite)
    if max(len(before), len(after)) > _MOST:
        return ""
    if lex.language == "zh":
        return _swapped_zh(original, rewrite, lex)
    for subject, other in lex.persons:
        for one, two in pairwise(before):
            if two == other and _content([one], lex) and _turned_to(before, after, (one, other), (subject, one)):
                return f"{one} {other} became {subject} {one}"
            if one == subject and _content([two], lex) and _turned_to(before, after, (subject, two), (two, other)):
                return f"{subject} {two} became {two} {other}"
    once = {w for w, n in Counter(after).items() if n == 1} & {w for w, n in Counter(before).items() if n == 1}
    places = {w: i for i, w in enumerate(after)}
    for clause in _CLAUSE.findall(plain(original)):
        words = tokens(clause)
        marks = [i for i, w in enumerate(words) if w in once and _content([w], lex)]
        for at, i in enumerate(marks):
            for j in marks[at + 1 : at + 4]:
                x, y = places[words[i]], places[words[j]]
                if y >= x or x - y > 8 or j - i > 8:
                    continue
                link, turn = words[i + 1 : j], after[y + 1 : x]
                if _ties(link, turn, lex):
                    return f"{words[i]} … {words[j]} became {words[j]} … {words[i]}"
    return ""


def _turned_to(before: Sequence[str], after: Sequence[str], had: tuple[str, str], has: tuple[str, str]) -> bool:
    """Whether the first pair of words stands in the text before only, the second in the text after only."""
    return not (_follows(before, has) or _follows(after, had)) and _follows(after, has)


def _follows(words: Sequence[str], pair: tuple[str, str]) -> bool:
    one, two = pair
    return any(a[0] == one[0] and alike(a, one) and alike(b, two) for a, b in pairwise(words))


def _ties(link: Sequence[str], turn: Sequence[str], lex: Lexicon) -> bool:
    """Whether the words between two others say that their order matters, and are still the same between them."""
    if lex.passive.search(" ".join(turn)) and not lex.passive.search(" ".join(link)):
        return False
    ties = [w for w in link if lex.directed.fullmatch(w) or _content([w], lex)]
    return bool(ties) and any(alike(a, b) for a in ties for b in turn) and abs(len(link) - len(turn)) <= 2


def _swapped_zh(original: str, rewrite: str, lex: Lexicon) -> str:
    """The same for Chinese: two pairs of signs that changed places around a word of direction."""
    before, after = _once(original, lex), _once(rewrite, lex)
    both = [pair for pair in before if pair in after]
    for one in both:
        for other in both:
            link, turn = original[before[one] + 2 : before[other]], rewrite[after[other] + 2 : after[one]]
            if not (link and turn and max(len(link), len(turn)) <= 8):
                continue
            m = lex.directed.search(original, before[one] + 2)
            if m and m.end() <= before[other] and m[0] in turn:
                return f"{one}{link}{other} became {other}{turn}{one}"
    return ""


def _once(text: str, lex: Lexicon) -> dict[str, int]:
    """The pairs of signs that stand in a text once, and where."""
    found = [m.start() for m in re.finditer(f"(?=[{CJK}]{{2}})", text[:_SIGNS])]
    pairs = Counter(text[i : i + 2] for i in found)
    return {p: text.index(p) for p, n in pairs.items() if n == 1 and not lex.stop.issuperset(p)}

"""What a rewrite adds to a prompt and takes from it: the spans that the gate's trained model judges.

Words are compared, not places: a word that only moved is neither added nor removed. Each new sentence is a change of
its own, so that good ones cannot hide a harmful one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from prompt_opt.gate.language import CJK, Lexicon, bare, language, lexicon, plain, sentences, unaccented

_WORD = re.compile(f"[{CJK}]|[^\\W_{CJK}]+(?:’[^\\W_{CJK}]+)*")
_SHARED = 0.4  # of its words, or of the prompt's: a sentence that shares fewer is new, and is judged whole
_STEM = 5  # letters
_LETTERS = 2  # that a slip of the hand adds and loses
_PAIRED = 16  # words of a side whose spelling is compared
MOST = 12  # changes of one rewrite that are judged; a rewrite within the length limits rarely has as many


@dataclass(frozen=True, slots=True)
class Change:
    """A new sentence; or the words that came into the prompt's own sentences and those that went."""

    added: str
    removed: str


def changes(original: str, rewrite: str, mode: Literal["replace", "complement"]) -> tuple[Change, ...]:
    """The changes of a rewrite, or the sentences of a hint; at most `MOST`."""
    before, after = plain(original), plain(rewrite)
    new = [s for s in sentences(after) if _WORD.search(s)]
    if mode == "complement":
        return tuple(Change(sentence, "") for sentence in new[:MOST])
    had, known, kept = bare(original), Counter(words(before)), Counter(words(after))
    for wrong, right in _repairs(before, after, known, kept):
        known[right] += 1
        kept[wrong] += 1
    for sentence in sentences(after):
        if bare(sentence) in had:
            known -= Counter(words(sentence))
    whole: list[str] = []
    parts: list[tuple[str, str]] = []  # what a sentence has new, and the sentence
    for sentence in new:
        if bare(sentence) not in had and (added := _added(sentence, known)):
            if added == sentence:
                whole.append(added)
            else:
                parts.append((added, sentence))
    gone = {s: part for s in sentences(before) if (part := _joined(s, _beyond(s, kept)))}
    lost = " ".join(gone.values())
    if not parts and whole and len(lost) > len(original) / 2:  # said anew in other words
        return (Change(whole[0], lost), *(Change(sentence, "") for sentence in whole[1:]))[:MOST]
    edits = [Change(added, gone.pop(_nearest(sentence, gone), "")) for added, sentence in parts]
    edits += [Change("", part) for part in gone.values()]
    lex = lexicon(language(before) or "en")
    edits = [edit for edit in edits if _says(edit.added, lex) or _says(edit.removed, lex)]
    return tuple([*edits, *(Change(sentence, "") for sentence in whole)][:MOST])


def _says(span: str, lex: Lexicon) -> bool:
    """Whether a span holds more than function words and negations, which are for a rule to compare."""
    words = (m[0].lower() for m in _WORD.finditer(span))
    return any(word not in lex.stop and not lex.negation.fullmatch(word) for word in words)


def _repairs(before: str, after: str, known: Counter[str], kept: Counter[str]) -> Iterator[tuple[str, str]]:
    """Words of a prompt that only were spelt right, with what they became, as `_key` has them."""
    gone, new = (
        [m[0].lower() for m in _beyond(text, counted.copy()) if len(m[0]) > 3 and m[0].isalpha()][:_PAIRED]
        for text, counted in ((before, kept), (after, known))
    )
    for wrong in gone:
        for right in new:
            if slip(wrong, right):
                new.remove(right)
                yield unaccented(wrong)[:_STEM], unaccented(right)[:_STEM]
                break


def slip(wrong: str, right: str) -> bool:
    """Whether letters were only lost, doubled or turned: "geting", "rcie". Another letter can make another word."""
    if wrong[0] != right[0] or abs(len(wrong) - len(right)) > _LETTERS:
        return False
    codes = SequenceMatcher(None, wrong, right, autojunk=False).get_opcodes()
    moved = sum(max(j - i, m - k) for what, i, j, k, m in codes if what != "equal")
    return moved <= _LETTERS and all(what != "replace" for what, *_ in codes)


def _nearest(sentence: str, others: Mapping[str, str]) -> str:
    """The sentence of a prompt that shares most words with one of the rewrite, or "" if none shares any."""
    own = Counter(words(sentence))
    shared = {other: (own & Counter(words(other))).total() for other in others}
    best = max(shared, key=lambda other: shared[other], default="")
    return best if best and shared[best] else ""


def words(text: str) -> list[str]:
    """The words of a text, each cut to what its forms have in common."""
    return [_key(m) for m in _WORD.finditer(text)]


def _key(word: re.Match[str]) -> str:
    """What forms of one word have in common: "remove", "removing"."""
    return unaccented(word[0].lower())[:_STEM]


def _added(sentence: str, known: Counter[str]) -> str:
    """What a sentence has beside the `known` words of the prompt, which it uses up; all of it where it shares few."""
    left = known.copy()
    new = _beyond(sentence, left)
    size = len(words(sentence))
    if size - len(new) < max(2, _SHARED * min(size, known.total())):
        return sentence
    known.subtract(known - left)
    return _joined(sentence, new)


def _beyond(text: str, left: Counter[str]) -> list[re.Match[str]]:
    """The words of a text that are not among those `left`, which the others use up."""
    found = []
    for m in _WORD.finditer(text):
        word = _key(m)
        if left[word] > 0:
            left[word] -= 1
        else:
            found.append(m)
    return found


def _joined(text: str, found: list[re.Match[str]]) -> str:
    """The words found, neighbours with what stands between them."""
    out, end = "", -1
    for m in found:
        between = text[end : m.start()] if end >= 0 else ""
        out += (between if not _WORD.search(between) else " ") + m[0]
        end = m.end()
    return out.strip()

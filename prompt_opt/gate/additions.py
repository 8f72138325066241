"""What a rewrite adds to a prompt and takes from it: the spans that the gate's trained model judges.

Words are compared, not places: a word that only moved is neither added nor removed. Each new sentence is a change of
its own, so that good ones cannot hide a harmful one.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from prompt_opt.gate.language import CJK, bare, plain, sentences, unaccented

_WORD = re.compile(f"[{CJK}]|[^\\W_{CJK}]+(?:’[^\\W_{CJK}]+)*")
_SHARED = 0.4  # of its words, or of the prompt's: a sentence that shares fewer is new, and is judged whole
_STEM = 5  # letters
MOST = 12  # changes of one rewrite that are judged; a rewrite within the length limits rarely has as many


@dataclass(frozen=True, slots=True)
class Change:
    """A new sentence; or the words that came into the prompt's own sentences and those that went."""

    added: str
    removed: str


def changes(original: str, rewrite: str, mode: Literal["replace", "complement"]) -> tuple[Change, ...]:
    """The changes of a rewrite, or the sentences of a hint; at most `MOST`."""
    new = [s for s in sentences(plain(rewrite)) if _WORD.search(s)]
    if mode == "complement":
        return tuple(Change(sentence, "") for sentence in new[:MOST])
    had, known = bare(original), Counter(_words(plain(original)))
    for sentence in sentences(plain(rewrite)):
        if bare(sentence) in had:
            known -= Counter(_words(sentence))
    whole: list[str] = []
    parts: list[str] = []
    for sentence in new:
        if bare(sentence) not in had and (added := _added(sentence, known)):
            (whole if added == sentence else parts).append(added)
    removed = _surplus(plain(original), plain(rewrite))
    edit = Change(" ".join(parts), removed)
    if not parts and whole and len(removed) > len(original) / 2:  # said anew in other words
        edit = Change(whole.pop(0), removed)
    found = [Change(sentence, "") for sentence in whole]
    return tuple([edit, *found][:MOST] if edit.added or edit.removed else found[:MOST])


def _words(text: str) -> list[str]:
    return [_key(m) for m in _WORD.finditer(text)]


def _key(word: re.Match[str]) -> str:
    """What forms of one word have in common: "remove", "removing"."""
    return unaccented(word[0].lower())[:_STEM]


def _added(sentence: str, known: Counter[str]) -> str:
    """What a sentence has beside the `known` words of the prompt, which it uses up; all of it where it shares few."""
    left = known.copy()
    new = _beyond(sentence, left)
    size = len(_words(sentence))
    if size - len(new) < max(2, _SHARED * min(size, known.total())):
        return sentence
    known.subtract(known - left)
    return _joined(sentence, new)


def _surplus(text: str, other: str) -> str:
    """The words of a text that another does not have, in their order."""
    return _joined(text, _beyond(text, Counter(_words(other))))


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

"""What a rewrite adds to a prompt and takes from it, word by word, and where it stands.

Words are compared, not places: a word that only moved is neither added nor removed. They are compared by their first
letters, so that forms of one word are one.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Literal

from prompt_opt.gate.language import CJK, Lexicon, folded, language, lexicon, plain, unaccented

Span = tuple[int, int]  # of characters in a text
Changed = tuple[tuple[Span, tuple[Span, ...]], ...]  # sentences, each with its words that changed
_WORD = re.compile(f"[{CJK}]|[^\\W_{CJK}]+(?:[’'][^\\W_{CJK}]+)*")
_SENTENCE = re.compile(r"(?:[^.!?。！？;；\n]|[.;](?=\S))+[.!?。！？;；]*")
_STEM = 5  # letters
_LETTERS = 2  # that a slip of the hand adds and loses
_PAIRED = 16  # words of a side whose spelling is compared


@dataclass(frozen=True, slots=True)
class Comparison:
    """The words of a rewrite that are new, by sentence, and those of the prompt that are gone.

    `added` and `removed` are the sentences that a change stands in, each with its own words that changed; a sentence
    that differs in function words alone is left out. The counts are of all words.
    """

    added: Changed
    removed: Changed
    words: tuple[int, int]  # of the prompt, of the rewrite
    changed: tuple[int, int]  # gone, new


def compare(original: str, rewrite: str, mode: Literal["replace", "complement"]) -> Comparison:
    """Compare a prompt with its rewrite; all that a hint says is new."""
    had, has = ([*_WORD.finditer(text)] for text in (original, rewrite))
    if mode == "complement":
        gone, new = [], has
    else:
        new, gone = _beyond(has, had), _beyond(had, has)
        _drop_slips(gone, new)
    lex = lexicon(language(plain(original)) or "en")
    return Comparison(
        _by_sentence(rewrite, new, lex), _by_sentence(original, gone, lex), (len(had), len(has)), (len(gone), len(new))
    )


def keys(text: str) -> list[str]:
    """The words of a text, each cut to what its forms have in common: "remov" for "removing"."""
    return [_key(m) for m in _WORD.finditer(text)]


def slip(wrong: str, right: str) -> bool:
    """Whether letters were only lost, doubled or turned: "geting", "rcie". Another letter can make another word."""
    if wrong[0] != right[0] or abs(len(wrong) - len(right)) > _LETTERS:
        return False
    codes = SequenceMatcher(None, wrong, right, autojunk=False).get_opcodes()
    moved = sum(max(j - i, m - k) for what, i, j, k, m in codes if what != "equal")
    return moved <= _LETTERS and all(what != "replace" for what, *_ in codes)


def _key(word: re.Match[str]) -> str:
    return _stem(word[0])


@lru_cache(maxsize=4096)
def _stem(word: str) -> str:
    return unaccented(folded(word).lower())[:_STEM]


def _beyond(words: Sequence[re.Match[str]], others: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The words that are not among the others; each of these stands for one."""
    left, found = Counter(map(_key, others)), []
    for m in words:
        word = _key(m)
        if left[word] > 0:
            left[word] -= 1
        else:
            found.append(m)
    return found


def _drop_slips(gone: list[re.Match[str]], new: list[re.Match[str]]) -> None:
    """Take out the words that only were spelt right."""
    for wrong in _spelt(gone):
        right = next((m for m in _spelt(new) if slip(wrong[0].lower(), m[0].lower())), None)
        if right is not None:
            gone.remove(wrong)
            new.remove(right)


def _spelt(words: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """Those whose spelling is compared."""
    return [m for m in words if len(m[0]) > 3 and m[0].isalpha()][:_PAIRED]


def _by_sentence(text: str, changed: Sequence[re.Match[str]], lex: Lexicon) -> Changed:
    """The sentences of a text that say something else now, with the changed words of each, which are in its order."""
    out, starts = [], [m.start() for m in changed]
    for sentence in _SENTENCE.finditer(text):
        own = changed[bisect_left(starts, sentence.start()) : bisect_left(starts, sentence.end())]
        if any(_says(m[0].lower(), lex) for m in own):
            out.append((sentence.span(), tuple(m.span() for m in own)))
    return tuple(out)


def _says(word: str, lex: Lexicon) -> bool:
    """Whether a word is more than a function word or a negation, which are for a rule to compare."""
    return word not in lex.stop and not lex.negation.fullmatch(word)

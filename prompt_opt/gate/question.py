"""What a request is about and what it leaves open: its passage, its undecided question, its unsolved sum."""

from __future__ import annotations

import re

from prompt_opt.gate.changes import tokens
from prompt_opt.gate.facts import all_numbers, even
from prompt_opt.gate.language import Lexicon, bare, plain, sentences


def passage_changed(original: str, rewrite: str, lex: Lexicon) -> str:
    """The sentence of the text that a request is about ("Summarise this: …") that the rewrite changed, or ""."""
    text = plain(original)
    if not (m := lex.passage.search(text)):
        return ""
    passage = text[m.end() :]
    if len(tokens(passage)) < 3 or _folded(passage, lex) in _folded(plain(rewrite), lex):
        return ""
    said = _folded(plain(rewrite), lex)
    return next(
        (s for line in passage.split("\n") for s in sentences(line) if tokens(s) and _folded(s, lex) not in said), ""
    )


def _folded(text: str, lex: Lexicon) -> str:
    text = re.sub(r"n’t\b", " not", text.lower()).replace("cannot", "can not")
    text = re.sub(r"[^\W\d_]+", lambda m: str(lex.numbers.get(m[0], m[0])), text)
    return bare(text)


def assumed(original: str, rewrite: str, lex: Lexicon) -> str:
    """The yes-or-no question that the rewrite takes as settled ("explain why …"), or ""."""
    first = next(iter(sentences(plain(original))), "")
    if not lex.polar.match(first) or lex.undecided.search(plain(rewrite)):
        return ""
    m = lex.assumes.search(plain(rewrite))
    return m[0] if m else ""


def solved(original: str, rewrite: str, lex: Lexicon) -> str:
    """The result that the rewrite gives to an arithmetic question, or ""."""
    if not lex.sums.search(plain(original)) or not re.search("[?？]", original):
        return ""
    known = all_numbers(original, lex)
    for sentence in sentences(even(plain(rewrite))):
        m = re.search(rf"{lex.equals.pattern}\s*(\d[\d.,]*)", sentence, re.IGNORECASE)
        if m and sentence[-1] not in "?？" and all_numbers(m[1], lex) - known:
            return m[0]
    return ""

"""What a request leaves open: its undecided question, its unsolved sum."""

from __future__ import annotations

import re

from prompt_opt.gate.facts import all_numbers, even
from prompt_opt.gate.language import Lexicon, plain, sentences


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

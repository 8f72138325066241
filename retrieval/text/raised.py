"""Raised digits: "Art. 22" with a raised 1 is Article 22¹, which is another one than Article 221."""

from __future__ import annotations

import re

DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_RAISED = str.maketrans("0123456789", DIGITS)

_AFTER = re.compile(rf"(?<=\d)[{DIGITS}]+")


def raised(text: str, before: str, after: str = "") -> str:
    """A superscript's text: its digits raised where a letter or digit stands directly beside them, else as it is."""
    beside = before[-1:].isalnum() or after[:1].isalnum()
    return text.translate(_RAISED) if text.strip().isdecimal() and beside else text


def lowered(text: str) -> str:
    """Raised digits behind a number as its second part: 22¹ is 22-1. Unicode's compatibility forms make it 221."""
    return _AFTER.sub(lambda found: "-" + "".join(str(DIGITS.index(c)) for c in found[0]), text)

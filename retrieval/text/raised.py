"""Raised digits: "Art. 22" with a raised 1 is Article 22¹, which is another one than Article 221."""

from __future__ import annotations

DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_RAISED = str.maketrans("0123456789", DIGITS)


def raised(text: str, before: str, after: str = "") -> str:
    """A superscript's text: its digits raised where a letter or digit stands directly beside them, else as it is."""
    beside = before[-1:].isalnum() or after[:1].isalnum()
    return text.translate(_RAISED) if text.strip().isdecimal() and beside else text

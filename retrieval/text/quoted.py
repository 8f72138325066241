"""Which lines stand inside of a quotation that began on a line before, as the articles do that an amendment inserts."""

from __future__ import annotations

import re

from retrieval.text.piece import Document

LONGEST = 200  # lines; a mark that is not closed by then was none
_PAIRS = {"“": "”", "«": "»", "「": "」", "『": "』", "„": "“”", '"': '"'}
_STRAIGHT_END = re.compile(r'"[.,;:)\]]*$')


def quoted(document: Document) -> dict[int, int]:
    """The place of the line that ends the quotation, by the place of each line in it but the first."""
    found: dict[int, int] = {}
    lines = document.lines
    i = 0
    while i < len(lines):
        mark = "" if lines[i].verbatim else _open(lines[i].text)
        end = (
            next((j for j in range(i + 1, min(i + LONGEST, len(lines))) if _closes(lines[j].text, mark)), -1)
            if mark
            else -1
        )
        if end < 0:
            i += 1
            continue
        found |= dict.fromkeys(range(i + 1, end + 1), end)
        i = end + 1
    return found


def _open(text: str) -> str:
    """The mark of the quotation that a line leaves open; a straight one only where the line begins with it."""
    stripped = text.strip()
    if stripped.startswith('"') and stripped.count('"') == 1:
        return '"'
    for mark, closing in _PAIRS.items():
        if mark != '"' and (at := stripped.rfind(mark)) >= 0 and not any(c in stripped[at + 1 :] for c in closing):
            if mark == "“" and "„" in stripped:
                continue  # it closes
            return mark
    return ""


def _closes(text: str, mark: str) -> bool:
    if mark == '"':
        return bool(_STRAIGHT_END.search(text.strip()))
    closing = _PAIRS[mark]
    at = max(text.rfind(c) for c in closing)
    return at >= 0 and text.rfind(mark) < at

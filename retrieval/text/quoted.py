"""Which lines stand inside of a quotation that began on a line before, as the articles do that an amendment inserts."""

from __future__ import annotations

import re

from retrieval.text.piece import Document

LONGEST = 200  # lines; a mark that is not closed by then was none
_PAIRS = {"“": "”", "«": "»", "「": "」", "『": "』", "„": "“”", '"': '"'}
_STRAIGHT_END = re.compile(r'"[.,;:)\]]*$')
_LAST = re.compile(r"[.,;:)\]]*(?:\s(?:and|or|et|ou|und|oder))?$")  # behind the closing mark


def quoted(document: Document) -> dict[int, int]:
    """The place of the line that ends the quotation, by the place of each line in it but the first."""
    found: dict[int, int] = {}
    lines = document.lines
    i = 0
    while i < len(lines):
        mark = "" if lines[i].verbatim else _open(lines[i].text)
        end = _end(document, i, mark) if mark else -1
        if end < 0:
            i += 1
            continue
        found |= dict.fromkeys(range(i + 1, end + 1), end)
        i = end + 1
    return found


def _end(document: Document, i: int, mark: str) -> int:
    """The line that closes what line `i` left open, or -1."""
    lines = document.lines
    anew = lines[i].text.lstrip().startswith(mark)
    for j in range(i + 1, min(i + LONGEST, len(lines))):
        if _closes(lines[j].text, mark, anew):
            return j
        anew = anew or lines[j].text.lstrip().startswith(mark)
    return -1


def _open(text: str) -> str:
    """The mark of the quotation that a line leaves open; a straight one only where the line begins with it."""
    stripped = text.strip()
    if stripped.startswith('"') and stripped.count('"') == 1:
        return '"'
    for mark, closing in _PAIRS.items():
        if mark != '"' and (at := stripped.rfind(mark)) >= 0 and not any(c in stripped[at + 1 :] for c in closing):
            if mark == "“" and ("„" in stripped or stripped.count('"', at) % 2):
                continue  # it closes, or a straight one closes it
            return mark
    return ""


def _closes(text: str, mark: str, anew: bool) -> bool:
    """Whether a line closes the quotation that a line before has opened, and not only one of its own.

    Where each paragraph of a quotation begins with the mark `anew`, the last one opens and closes.
    """
    if mark == '"':
        return bool(_STRAIGHT_END.search(text.strip()))
    closing = _PAIRS[mark]
    if anew and text.lstrip().startswith(mark):
        return _LAST.sub("", text.rstrip()[-20:], count=1).endswith(tuple(closing))
    inner, low = 0, False
    for c in text:
        if mark == "“" and c in "„“" and (c == "„" or low):
            low = c == "„"  # „so“ is a quotation of its own
        elif c == mark:
            inner += 1
        elif c in closing and inner:
            inner -= 1
        elif c in closing:
            return True
    return False

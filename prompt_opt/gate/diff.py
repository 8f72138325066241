"""What changed between two texts, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal

from prompt_opt.gate.language import CJK

Change = tuple[Literal["=", "-", "+"], str]
_PIECE = re.compile(f"\\s+|[{CJK}]|[^\\W{CJK}]+|[^\\w\\s]")


def word_diff(before: str, after: str) -> list[Change]:
    """The texts as kept ("="), removed ("-") and added ("+") runs: the "=" and "-" runs joined are `before`."""
    old, new = _PIECE.findall(before), _PIECE.findall(after)
    out: list[Change] = []
    for what, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what == "equal":
            out.append(("=", "".join(old[i:j])))
            continue
        if i < j:
            out.append(("-", "".join(old[i:j])))
        if k < m:
            out.append(("+", "".join(new[k:m])))
    return out


def hinted(before: str, hint: str) -> list[Change]:
    """A prompt with a hint after it: nothing of the prompt has gone."""
    return [("=", before), ("+", f"\n\n{hint}")] if hint else [("=", before)]


def marked(changes: list[Change]) -> str:
    """A diff as text: [-removed-], {+added+}."""
    marks = {"=": ("", ""), "-": ("[-", "-]"), "+": ("{+", "+}")}
    return "".join(marks[what][0] + text + marks[what][1] for what, text in changes)

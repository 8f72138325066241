"""The critic of BPO: what it is asked, and how its answers are read.

Its instructions stand in critic.toml. Answers are read by marks and regular expressions, and never evaluated.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from prompt_opt.layout.defuse import fence_for
from trainers.ask.engine import Messages

_REWRITE = re.compile(r"\[REWRITE\]\s*\n?(.*?)\n?\s*\[/REWRITE\]", re.DOTALL)
_SCORE = re.compile(r"\[SCORE\]\W{0,3}(\d+(?:\.\d+)?)")


@cache
def words() -> Mapping[str, Any]:
    """The critic's instructions, from critic.toml."""
    return tomllib.loads(files("trainers.judge").joinpath("critic.toml").read_text("utf-8"))


def compare(instruction: str, weaker: str, stronger: str, context: str = "") -> Messages:
    """The question that leads to a rewrite, with or without the text that the instruction is about."""
    said = words()["compare"]
    rule = said["context_rule"].rstrip() if context else ""
    parts = [("instruction", instruction), ("context", context), ("weaker", weaker), ("stronger", stronger)]
    text = "\n\n".join(_quoted(said[name], part) for name, part in parts if part or name != "context")
    system = said["system"].strip().replace("{context_rule}", rule)
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def score(instruction: str, edit: str) -> Messages:
    """The question that marks a rewrite from 1 to 10."""
    said = words()["score"]
    text = _quoted(said["instruction"], instruction) + "\n\n" + _quoted(said["edit"], edit)
    return [{"role": "system", "content": said["system"].strip()}, {"role": "user", "content": text}]


def together(instruction: str, context: str, seed: int) -> str:
    """An instruction and the text it comes with as one prompt, in the layout that `seed` chooses."""
    forms = words()["layout"]["forms"]
    # One pass, so that braces in the texts stay what they are.
    texts = {"{instruction}": instruction, "{context}": context}
    return re.sub(r"\{instruction\}|\{context\}", lambda m: texts[m[0]], forms[seed % len(forms)])


def read_rewrite(answer: str) -> str | None:
    """The text between the marks, the last of them if the critic thought aloud; None where they are missing."""
    found = _REWRITE.findall(answer)
    return found[-1].strip() if found else None


def read_score(answer: str) -> float | None:
    """The mark, None where there is none from 1 to 10."""
    found = [float(mark) for mark in _SCORE.findall(answer)]
    return found[-1] if found and 1 <= found[-1] <= 10 else None


def _quoted(heading: str, text: str) -> str:
    fence = fence_for(text, "~~~~")
    return f"{heading}\n{fence}\n{text}\n{fence}"

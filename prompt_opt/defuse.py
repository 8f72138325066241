"""Keep a client's text from looking like anything but text: no string of theirs opens a turn in a base prompt.

Three things could: a run of backticks as long as the fence, a line that begins with a marker, and the text of a
tokenizer's special token, which engines turn into the token itself. The fence grows with the text inside it
(`fence_for`); the other two get a backslash (`defuse`), which a reader understands and no parser mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

# Whatever some reader may take for the end of a line (str.splitlines), then blanks, zero-width and format characters.
_LINE_START = r"(?:\A|(?<=[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]))([\s\u00ad\u180e\u200b-\u200f\u2060-\u2064\ufeff]*)"
# Special tokens as the common tokenizers write them; an engine's own list, where it is known, is added to these.
_SPECIAL = (
    r"<[|｜][^<>|｜\s]{1,64}[|｜]>",
    r"</?s>",
    r"\[/?INST\]",
    r"<</?SYS>>",
    r"</?(?:bos|eos|pad|unk|mask|start_of_turn|end_of_turn|start_of_image|end_of_utterance)>",
    r"\[/?(?:BOS|EOS|PAD|UNK|CLS|SEP|MASK|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]",
    r"<(?:unused|extra_id_|reserved_special_token_)\d+>",
)
LONGEST_FENCE = 64


@lru_cache(maxsize=256)
def _patterns(markers: tuple[str, ...], specials: frozenset[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    cores = "|".join(re.escape(marker.rstrip(": ")) for marker in markers)
    own = [re.escape(token) for token in sorted(specials, key=len, reverse=True) if len(token) > 1]
    return re.compile(_LINE_START + f"({cores})", re.IGNORECASE), re.compile("|".join([*_SPECIAL, *own]), re.IGNORECASE)


def defuse(text: str, markers: tuple[str, ...], specials: Collection[str] = ()) -> tuple[str, tuple[str, ...]]:
    """`text` with line-initial markers and special tokens escaped, and what was done to it."""
    marker, special = _patterns(markers, frozenset(specials))
    notes = []
    text, n = special.subn(lambda m: m[0][0] + "\\" + m[0][1:], text)
    if n:
        notes.append("special token escaped")
    text, n = marker.subn(lambda m: m[1] + "\\" + m[2], text)
    if n:
        notes.append("marker escaped")
    if "`" * (LONGEST_FENCE + 1) in text:
        # A fence must outgrow every run inside it; a run of thousands is broken up, or it would cost its length again.
        text = re.sub("`{%d}(?=`)" % LONGEST_FENCE, "`" * LONGEST_FENCE + "\\\\", text)
        notes.append("run of backticks broken")
    return text, tuple(notes)


def fence_for(text: str, least: str) -> str:
    """The shortest fence, at least `least`, that is longer than any run of its character in `text`."""
    longest = max((len(run) for run in re.findall(re.escape(least[0]) + "+", text)), default=0)
    return least[0] * max(len(least), longest + 1)

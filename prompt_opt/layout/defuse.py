"""Keep a client's text from looking like anything but text: no string of theirs opens a turn in a base prompt.

Four things could. A run of fence characters as long as the fence: the fence grows with the text inside it
(`fence_for`). A line that begins with a marker, and the text of a tokenizer's special token, which engines turn into
the token itself: each gets a backslash (`defuse`), which a reader understands and no parser mistakes. And, where turns
stand without a fence, a code block left open, which would swallow what follows: it is closed (`close_block`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache

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
_COMMON = re.compile("|".join(_SPECIAL), re.IGNORECASE)
_BLOCK = re.compile(r"(?:\A|(?<=[\n\r])) {0,3}(`{3,}|~{3,})([^\n\r]*)")
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and symbols that print nothing
_LONGEST_RUN = 64


def defuse(
    text: str, markers: tuple[str, ...], specials: Collection[str] = (), fence: str = "`"
) -> tuple[str, tuple[str, ...]]:
    """`text` with line-initial markers and special tokens escaped, and what was done to it.

    Args:
        specials: texts of the engine's special tokens, beside the common ones.
        fence: the character that fences are made of.
    """
    notes = []
    text, n = _special(frozenset(specials)).subn(r"\1\\", text)
    if n:
        notes.append("special token escaped")
    keys = _keys(markers)
    lines = text.splitlines(keepends=True)
    escaped = [_escape(line, keys) for line in lines]
    if escaped != lines:
        text = "".join(escaped)
        notes.append("marker escaped")
    if fence * (_LONGEST_RUN + 1) in text:
        # A fence must outgrow every run inside it; a run of thousands is broken up, or it would cost its length again.
        text = re.sub("(%s{%d})(?=%s)" % (fence, _LONGEST_RUN, fence), r"\1\\", text)
        notes.append("long run of fence characters broken")
    return text, tuple(notes)


@lru_cache(maxsize=64)
def _special(specials: frozenset[str]) -> re.Pattern[str]:
    """Matches the first character of every special token, also of one that begins inside another."""
    own = [t for t in sorted(specials) if len(t) > 1 and not t.isspace() and not _COMMON.fullmatch(t)]
    # The class of first characters lets the scan pass over most of a text without trying each token.
    first = "".join(re.escape(c) for c in sorted({"<", "[", *(t[0] for t in own)}))
    return re.compile(f"(?=[{first}])(?={'|'.join([*_SPECIAL, *map(re.escape, own)])})(.)", re.IGNORECASE | re.DOTALL)


@lru_cache(maxsize=64)
def _keys(markers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("".join(map(_visible, marker)) for marker in markers)


def _escape(line: str, keys: tuple[str, ...]) -> str:
    """The line, with a backslash before its first visible character where it begins with a marker.

    A line that is a marker but for its colon counts too; one that goes on ("# User guide") does not. Compared without
    case, blanks, invisible characters and compatibility forms: what looks like a marker is one.
    """
    seen, first = "", -1
    for i, char in enumerate(line):
        if not (visible := _visible(char)):
            continue
        first = i if first < 0 else first
        seen += visible
        if not any(key.startswith(seen[: len(key)]) for key in keys):
            return line
        if any(seen.startswith(key) for key in keys):
            break
    else:
        if not seen or not any(seen == key.rstrip(":") for key in keys):
            return line
    return f"{line[:first]}\\{line[first:]}"


def _visible(char: str) -> str:
    """What a reader sees of a character, without its case: "" for blanks, controls, marks and format characters."""
    if "!" <= char <= "~":
        return char.lower()
    folded = unicodedata.normalize("NFKC", char).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] not in "ZCM" and c not in _BLANK_LETTERS)


def close_block(text: str) -> str:
    """`text`, with the fence that is missing where a Markdown code block in it is left open."""
    opened = ""
    for match in _BLOCK.finditer(text):
        run, rest = match[1], match[2]
        if not opened:
            opened = "" if run[0] == "`" in rest else run
        elif run.startswith(opened) and not rest.strip(" \t"):
            opened = ""
    return f"{text}\n{opened}" if opened else text


def fence_for(text: str, least: str) -> str:
    """The shortest fence, at least `least`, that is longer than any run of its character in `text`."""
    longest = max((len(run) for run in re.findall(re.escape(least[0]) + "+", text)), default=0)
    return least[0] * max(len(least), longest + 1)

"""Keep a client's text from looking like anything but text: no string of theirs opens a turn in a base prompt.

Four things could. A run of fence characters as long as the fence: the fence grows with the text inside it
(`fence_for`). A line that begins with a marker, and the text of a tokenizer's special token, which engines turn into
the token itself: each gets a backslash (`defuse`), which a reader understands and no parser mistakes. And, where turns
stand without a fence, a code block left open, which would swallow what follows: it is closed (`close_block`).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from prompt_opt.layout import lookalike

# Special tokens as the common tokenizers write them; an engine's own list, where it is known, is added to these.
_ANGLED = (
    r"[|｜][^<>|｜\s]{1,64}[|｜]?>",  # ChatML's, Llama 3's, DeepSeek's, Gemma 4's <|turn>
    r"[^<>|｜\s]{1,64}[|｜]>",
    r"</?SYS>>",
    r"/?(?:s|bos|eos|pad|unk|mask|sop|eop|end_of_utterance)>",
    r"/?(?:start|end|begin)_of_[a-z_]{1,32}>",
    r"(?:unused|extra_id_|reserved_special_token_)\d{1,9}>",
)
_SQUARE = (
    r"/?(?:INST|[gs]?(?:BOS|EOS|PAD|UNK|CLS|SEP|MASK|IMG|THINK|ARGS|PREFIX|MIDDLE|SUFFIX))\]",
    r"(?-i:/?[A-Z]{2,16}(?:_[A-Z]{2,16}){1,4}\])",  # [TOOL_CALLS], [SYSTEM_PROMPT], [BEGIN_OF_TEXT]
)
_SPECIAL = (f"<(?:{'|'.join(_ANGLED)})", rf"\[(?:{'|'.join(_SQUARE)})")
_COMMON = re.compile("|".join(_SPECIAL), re.IGNORECASE)
_LONGEST_SPECIAL = 128  # characters that a special token has at most
_FENCE = re.compile("[`~](?:(?<=`)``|(?<=~)~~)")
_INDENT = re.compile(r"(?:\A|[\n\r]) {0,3}\Z")
_LINE_END = re.compile(r"[\n\r]")
_LONGEST_RUN = 64
_SLICE = 2**19  # characters that one call works on, which holds the interpreter's lock


def defuse(
    text: str, markers: tuple[str, ...], specials: Collection[str] = (), fence: str = "`"
) -> tuple[str, tuple[str, ...]]:
    """`text` with line-initial markers and special tokens escaped, and what was done to it.

    Args:
        specials: texts of the engine's special tokens, beside the common ones.
        fence: the character that fences are made of.
    """
    if text.isascii() and (telling := _telling(markers, frozenset(specials), fence)) is not None:
        for char in telling:
            if char in text:
                break
        else:
            return text, ()
    notes = []
    escaped = _escape_specials(text, frozenset(specials))
    if escaped is not text:
        text = escaped
        notes.append("special token escaped")
    for marker in markers:
        if len(marked := lookalike.escape(text, marker)) > len(text):
            text = marked
            notes.append("marker escaped")
    if _holds(text, fence * (_LONGEST_RUN + 1)):
        # A fence must outgrow every run inside it; a run of thousands is broken up, or it would cost its length again.
        long = re.compile("(%s{%d})(?=%s)" % (fence, _LONGEST_RUN, fence))
        text = "".join(long.sub(r"\1\\", text[at : at + _SLICE]) for at in range(0, len(text), _SLICE))
        notes.append("long run of fence characters broken")
    return text, tuple(dict.fromkeys(notes))


@lru_cache(64)
def _telling(markers: tuple[str, ...], specials: frozenset[str], fence: str) -> tuple[str, ...] | None:
    """What an ASCII text holds one of if there is anything to defuse in it; None where that is not so short."""
    firsts = _firsts(specials)
    if firsts is None:
        return None
    return tuple(dict.fromkeys([*firsts, *(char for it in markers for char in lookalike.firsts(it)), fence]))


def _escape_specials(text: str, specials: frozenset[str]) -> str:
    """A backslash behind the first character of each special token; the very `text` where there is none."""
    firsts = _firsts(specials)
    if firsts is not None and not any(map(text.__contains__, firsts)):
        return text
    longest = max(map(len, specials), default=0)
    cuts = [m.end() for m in lookalike.search(_special(specials), text, max(_LONGEST_SPECIAL, longest))]
    if not cuts:
        return text
    return "\\".join(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))


def _holds(text: str, part: str) -> bool:
    """`part in text`, in steps that are short."""
    if len(text) <= _SLICE:
        return part in text
    return any(text.find(part, at, at + _SLICE + len(part)) >= 0 for at in range(0, len(text), _SLICE))


def _own(specials: frozenset[str]) -> list[str]:
    return [t for t in sorted(specials) if len(t) > 1 and not t.isspace() and not _COMMON.fullmatch(t)]


@lru_cache(maxsize=64)
def _firsts(specials: frozenset[str]) -> tuple[str, ...] | None:
    """What special tokens begin with; None where other characters count as the same, as another case does."""
    firsts = {"<", "[", *(t[0] for t in _own(specials))}
    return tuple(firsts) if all(c.isascii() and not c.isalpha() for c in firsts) and len(firsts) < 8 else None


@lru_cache(maxsize=64)
def _special(specials: frozenset[str]) -> re.Pattern[str]:
    """Matches the first character of every special token, also of one that begins inside another."""
    own = _own(specials)
    # The class of first characters lets the scan pass over most of a text without trying each token.
    first = "".join(re.escape(c) for c in sorted({"<", "[", *(t[0] for t in own)}))
    tokens = "|".join([*_SPECIAL, *map(re.escape, own)])
    return re.compile(f"[{first}](?<=(?={tokens}).)", re.IGNORECASE | re.DOTALL)


def close_block(text: str) -> str:
    """`text`, with the fence that is missing where a Markdown code block in it is left open."""
    opened, line_end = "", 0
    for match in lookalike.search(_FENCE, text, 3):
        start = match.start()
        if start < line_end or not _INDENT.search(text, max(0, start - 4), start):
            continue
        found = _LINE_END.search(text, start)
        line_end = found.start() if found else len(text)
        line = text[start:line_end]
        run = line[: len(line) - len(line.lstrip(line[0]))]
        rest = line[len(run) :]
        if not opened:
            opened = "" if run[0] == "`" in rest else run
        elif run.startswith(opened) and not rest.strip(" \t"):
            opened = ""
    return f"{text}\n{opened}" if opened else text


def fence_for(text: str, least: str) -> str:
    """The shortest fence, at least `least`, that is longer than any run of its character in `text`."""
    mark = least[0]
    if mark not in text and least == mark * len(least):
        return least
    enough = len(least)
    while _holds(text, mark * enough):
        enough *= 2
    short = len(least) if enough == len(least) else enough // 2  # that many there are, if more than `least`
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (middle, enough) if _holds(text, mark * middle) else (short, middle)
    return mark * max(len(least), enough)

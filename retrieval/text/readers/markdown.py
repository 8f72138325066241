"""Markdown: front matter, ATX and Setext headings, fences and tables; comments are left out."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO, Any

from retrieval.text.encoding import decode
from retrieval.text.heading import head
from retrieval.text.labels import labels
from retrieval.text.outline import pieces
from retrieval.text.piece import Document, Line, Piece
from retrieval.text.raised import raised
from retrieval.text.readers.plain import split
from retrieval.text.readers.rows import text_loader

_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r"^ {0,3}(=+|-{2,})[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_TABLE = re.compile(r"^[ \t]*\|.*\|[ \t]*$")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_HTML_HEADING = re.compile(r"^ {0,3}<h([1-6])[^>]*>(.*?)</h\1>[ \t]*$", re.IGNORECASE)
_SUPERSCRIPT = re.compile(r"(?<=[^\W_])<sup>(\d+)</sup>", re.IGNORECASE)
_ATTRIBUTES = re.compile(r"[ \t]*\{#?[^{}]*\}$")  # "Title {#anchor}"
_PAIR = re.compile(r"([^\W\d][\w -]*?)[ \t]*:[ \t]+(.*?)[ \t]*$")
_BOLD = re.compile(r"^ {0,3}(\*\*|__)(?! )([^*_\n]{1,80}?):?\1:?[ \t]*$")
_COUNTED = re.compile(r"^ {0,3}\d+[.)] ")  # over a row of dashes it is a heading to people, though a list to CommonMark
LOWEST = 7  # below the six levels of #
_NO_TEXT = re.compile(r"^ {0,3}(?:[#>|*+-]|\d+[.)]|`{3}|~{3})")


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """The passages of a Markdown file: one for each section, titled by the headings above it."""
    del name
    lines = split(decode(stream.read()))
    problems: list[str] = []
    said, start = _front_matter(lines, problems)
    for problem in problems:
        yield Piece(1, problem=f"front matter: {problem}")
    made = _with_bold_headings(list(_lines(lines, start)))
    sections = any(line.level > 1 for line in made)
    yield from pieces(Document(tuple(made), said, joint=" › ", numbered=not sections))


def _front_matter(lines: list[str], problems: list[str]) -> tuple[dict[str, Any], int]:
    """The labels at the top, in YAML, TOML or JSON between two marks, and the first line behind them."""
    first, end = _place_of_front_matter(lines)
    if not end:
        return {}, 0
    mark, text = lines[first].rstrip(), "\n".join(lines[first + 1 : end - 1])
    try:
        found = _READERS[mark](text)
    except ValueError as error:
        found = _plain_pairs(text)
        if not found:
            problems.append(" ".join(str(error).split()))
    return (labels(found, problems) if isinstance(found, dict) else {}), end


def _place_of_front_matter(lines: list[str]) -> tuple[int, int]:
    """The line of the first mark, which only blank lines may precede, and the one behind the second; 0 for none."""
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    mark = lines[first].rstrip() if lines else ""
    if mark not in _READERS or (first and not _pair(lines[first + 1 : first + 2])):
        return 0, 0
    ends = {"---": ("---", "..."), "{": ("}",)}.get(mark, (mark,))
    end = next((i + 1 for i, line in enumerate(lines[first + 1 :], first + 1) if line.rstrip() in ends), 0)
    return first, end


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, text_loader())  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from None


_READERS: dict[str, Callable[[str], Any]] = {
    "---": _yaml, "+++": tomllib.loads, ";;;": json.loads, "{": lambda text: json.loads(f"{{{text}}}"),
}  # fmt: skip


def _pair(lines: list[str]) -> bool:
    return bool(lines) and all(not line.strip() or _PAIR.match(line) for line in lines)


def _plain_pairs(text: str) -> dict[str, str]:
    """What people write for YAML that is none, such as "title: Travel: trains"; nothing unless every line is a pair."""
    lines = text.split("\n")
    if not _pair(lines):
        return {}
    return {found[1]: found[2].strip("\"' ") for line in lines if (found := _PAIR.match(line))}


def _lines(lines: list[str], start: int) -> Iterator[Line]:
    lines = _without_comments(lines)
    fence, at = "", start
    while at < len(lines):
        line, number = lines[at] if fence else _raise(lines[at]), at + 1
        mark = _FENCE.match(line)
        if mark and (not fence or (mark[1].startswith(fence) and not line.strip().strip(fence[0]))):
            fence = "" if fence else mark[1]
            yield Line(line, number, verbatim=True)
        elif fence:
            yield Line(line, number, verbatim=True)
        elif heading := _HEADING.match(line) or _HTML_HEADING.match(line):
            level = len(heading[1]) if heading.re is _HEADING else int(heading[1])
            yield Line(_words(heading[2] or ""), number, level)
        elif _underlined(lines, at):
            yield Line(_words(line.strip()), number, 1 if "=" in lines[at + 1] else 2)
            at += 1
        else:
            yield Line(line, number, verbatim=bool(_TABLE.match(line)))
        at += 1


def _raise(line: str) -> str:
    """Raised digits in the place of `<sup>1</sup>` behind a number or a word."""
    return _SUPERSCRIPT.sub(lambda found: raised(found[1], line[: found.start()], line[found.end() :]), line)


def _with_bold_headings(lines: list[Line]) -> list[Line]:
    """Lines in bold, alone in their paragraph and with text below, are the lowest headings, where there are several."""
    places = [i for i, line in enumerate(lines) if _bold(line) and _stands_alone(lines, i)]
    if len(places) < 2:
        return lines
    return [replace(line, level=LOWEST) if i in places else line for i, line in enumerate(lines)]


def _bold(line: Line) -> bool:
    found = None if line.level or line.verbatim else _BOLD.match(line.text)
    return bool(found and not found[2].endswith((".", "!", "?", "。")) and head(found[2]) is None)


def _stands_alone(lines: list[Line], at: int) -> bool:
    """After a blank line or a heading, and before text that is no heading."""
    before = lines[at - 1] if at else None
    below = next((line for line in lines[at + 1 :] if line.text.strip()), None)
    apart = before is None or before.level > 0 or not before.text.strip()
    return apart and below is not None and not below.level and not _bold(below)


def _underlined(lines: list[str], at: int) -> bool:
    """A Setext heading: a line of text, alone in its paragraph, and a row of = or - below it."""
    if not lines[at].strip() or at + 1 >= len(lines):
        return False
    if _NO_TEXT.match(lines[at]) and not (_COUNTED.match(lines[at]) and len(lines[at + 1].strip()) > 3):
        return False
    return bool(_SETEXT.match(lines[at + 1])) and (at == 0 or not lines[at - 1].strip())


def _without_comments(lines: list[str]) -> list[str]:
    """The same number of lines, so that places stay right; a comment inside a fence is code and stays."""
    text = "\n".join(lines)
    if "<!--" not in text:
        return lines
    fences = [m.span() for m in re.finditer(r"^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\1|\Z)", text, re.DOTALL | re.MULTILINE)]

    def blank(found: re.Match[str]) -> str:
        inside = any(start <= found.start() < end for start, end in fences)
        return found[0] if inside else "\n" * found[0].count("\n")

    return _COMMENT.sub(blank, text).split("\n")


def _words(heading: str) -> str:
    return _ATTRIBUTES.sub("", heading).replace("**", "").strip()

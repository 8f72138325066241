"""The documentation's pages, their code blocks, and the commands in shell blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "docs/examples"
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "docker/README.md",
    ROOT / "benchmarks/eval/README.md",
]
_FENCE = re.compile(r"^(`{3,})([a-z]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_REDIRECTS = ("<", ">", ">>", "2>", "2>>")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language and its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(language: str = "") -> list[Block]:
    """All blocks of all pages, or those of one language."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in _FENCE.finditer(text):
            found.append(Block(page, text.count("\n", 0, match.start()) + 1, match[2], match[3]))
    return [block for block in found if language in ("", block.language)]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell block, each as its words: comments, redirections and assignments are taken off."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        redirected = False
        for token in _tokens(line):
            if token in ("|", "&&", "||", "&", ";"):
                yield from _command(words)
                words = []
            elif token in _REDIRECTS:
                redirected = True
            elif redirected:
                redirected = False
            else:
                words.append(token)
        yield from _command(words)


def _tokens(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    tokens = []
    for token in lexer:
        if token.startswith("#"):
            break
        tokens.append(token)
    return tokens


def _command(words: list[str]) -> Iterator[list[str]]:
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words:
        yield words

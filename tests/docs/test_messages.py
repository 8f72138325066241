"""Every message on the troubleshooting page is one that the code can write."""

from __future__ import annotations

import re

import pytest
from blocks import ROOT

PAGE = (ROOT / "docs/operations/troubleshooting.md").read_text("utf-8")
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
ROWS = [
    message
    for section in SECTIONS
    if section.startswith(("At start", "In responses", "In training"))
    for message in re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
]


@pytest.fixture(scope="module")
def source() -> str:
    """All code, with adjacent string literals joined and fields of f-strings left out."""
    folders = ("serve", "prompt_opt", "retrieval", "trainers")
    text = "\n".join(path.read_text("utf-8") for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


def test_the_page_has_messages() -> None:
    assert len(ROWS) > 30


@pytest.mark.parametrize("message", ROWS)
def test_a_message_is_in_the_code(message: str, source: str) -> None:
    pieces = [piece for piece in re.split("…", message) if len(piece.strip(" ;:,()")) > 3]
    assert pieces
    assert not [piece for piece in pieces if piece.strip() not in source]

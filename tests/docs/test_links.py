"""Internal links lead to files and headings that exist, and every page can be reached."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from blocks import PAGES, ROOT, prose

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def links(page: Path) -> list[str]:
    return [target for target in _LINK.findall(prose(page)) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors that a forge and the site generator make of a page's headings."""
    return {slug(heading) for heading in _HEADING.findall(prose(page))}


def slug(heading: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\- ]", "", plain).strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_of_the_site_links_to_nothing_outside_it(page: Path) -> None:
    targets = [(page.parent / target.partition("#")[0]).resolve() for target in links(page)]
    assert not [str(target) for target in targets if ROOT / "docs" not in (target, *target.parents)]


def test_every_page_is_in_the_sites_navigation() -> None:
    listed = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text("utf-8")))
    assert tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["docs_dir"] == "docs"
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert listed == pages


def test_llms_txt_names_pages_that_exist() -> None:
    text = (ROOT / "docs/llms.txt").read_text("utf-8")
    assert text.startswith("# Trimtab\n\n> ")
    targets = _LINK.findall(text)
    assert targets
    assert not [target for target in targets if not (ROOT / "docs" / target).exists()]

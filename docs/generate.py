"""Write the generated parts of the documentation again: `make reference`.

A page marks such a part with `<!-- generated: NAME -->` and `<!-- end -->`; NAME is a key of `PARTS`, and the text
between the two comes from the code. `tests/docs/test_reference.py` fails while a page is out of date.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from docs.parts.commands import commands, paths
from docs.parts.configuration import configuration
from docs.parts.recipes import chains, launches, methods, plan, recipes

ROOT = Path(__file__).resolve().parent.parent
PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def explain() -> str:
    """What `trimtab explain` prints for the example, with its index built first."""
    examples = ROOT / "docs/examples"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:

        def trimtab(*arguments: str) -> str:
            command = [sys.executable, "-m", "serve.cli.command", *arguments]
            done = subprocess.run(
                command, cwd=folder, env=environment, text=True, capture_output=True, check=True, timeout=120
            )
            return done.stdout

        law = str(examples / "law.jsonl")
        trimtab("index", "build", "state/indexes/law", "--input", law, "--embedder", "none")
        shown = trimtab(
            "explain", "--config", str(examples / "trimtab.toml"), "--chat", str(examples / "messages.json")
        )
    return f"```text\n{shown.rstrip()}\n```\n"


PARTS: Mapping[str, Callable[[], str]] = {
    "explain": explain,
    "configuration": configuration,
    "paths": paths,
    "commands": commands,
    "methods": methods,
    "recipes": recipes,
    "chains": chains,
    "plan": plan,
    "launches": launches,
}


def pages() -> list[Path]:
    """The pages with a generated part."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in every if PART.search(page.read_text("utf-8"))]


def rendered(page: Path) -> str:
    """The page with its parts made again.

    Raises:
        KeyError: the page names a part that does not exist.
    """
    return PART.sub(lambda match: match[1] + PARTS[match[2]]() + match[3], page.read_text("utf-8"))


if __name__ == "__main__":
    for each in pages():
        each.write_text(rendered(each), "utf-8")
        print(each.relative_to(ROOT))

"""Tables of the recipes, from the comment above each key, and the methods with their papers."""

from __future__ import annotations

import re
from pathlib import Path

from docs.parts.markdown import codes, table

ROOT = Path(__file__).resolve().parent.parent.parent


def methods() -> str:
    """What `trimtab train --list` prints."""
    from trainers.command import listing

    return f"```text\n{listing().rstrip()}\n```\n"


def recipes() -> str:
    """A table for each recipe; keys that mean the same in all stand in the first only."""
    folder = ROOT / "trainers/recipes"
    known: set[tuple[str, str]] = set()
    parts = []
    for name in ("sft", *sorted(p.stem for p in folder.glob("*.yaml") if p.stem != "sft")):
        about, rows = read_recipe((folder / f"{name}.yaml").read_text("utf-8"))
        new = [row for row in rows if (row[0], row[2]) not in known]
        known |= {(row[0], row[2]) for row in rows}
        values = [f"`{key}: {value}`" for key, value, meaning in rows if (key, value, meaning) not in new]
        same = f"\nAs above, with these values: {', '.join(values)}.\n" if values else ""
        shown = [(f"`{key}`", f"`{value}`", meaning) for key, value, meaning in new]
        parts.append(f"### `{name}`\n\n{about}\n\n" + table(("Key", "Value", "Meaning"), shown) + same)
    return "\n".join(parts)


def chains() -> str:
    """A row for each shipped chain: its name, its steps with their methods, and what it is."""
    from trainers.chain.chain_reader import CHAINS, read_chain

    rows = []
    for path in sorted(CHAINS.glob("*.yaml")):
        about, _ = read_recipe(path.read_text("utf-8"))
        steps = ", ".join(f"{step.name} ({step.method})" for step in read_chain(path).steps)
        rows.append((f"`{path.stem}`", steps, about.split(" Any key ")[0]))
    return table(("Chain", "Steps and their methods", "What it follows"), rows)


def plan() -> str:
    """The keys of an evaluation's plan."""
    _, rows = read_recipe((ROOT / "trainers/evaluation/plan.yaml").read_text("utf-8"))
    return table(
        ("Key", "In the example", "Meaning"), [(f"`{k}`", f"`{v}`" if v else "a list", told) for k, v, told in rows]
    )


def launches() -> str:
    """The names that `--launch` takes."""
    names = sorted(p.stem for p in (ROOT / "trainers/recipes/launch").glob("*.yaml"))
    return f"{codes(names)}\n"


def read_recipe(text: str) -> tuple[str, list[tuple[str, str, str]]]:
    """The prose at a recipe's top, without its command lines, and (key, value, the comment above) for each key."""
    rows: list[tuple[str, str, str]] = []
    above: list[str] = []
    about = ""
    for line in text.splitlines():
        if line.startswith("#"):
            above.append(line.lstrip("# ") if not line.startswith("#   ") else "")
        elif match := re.match(r"([a-z_]+):\s*(.*)", line):
            rows.append((match[1], match[2], " ".join(filter(None, above))))
            above = []
        elif not line:
            about, above = about or " ".join(filter(None, above)), []
    return about, rows

"""What no training text may hold: the markers and exemplars of profiles, and the prompts we evaluate with.

If the base model had seen a profile's markers in training, a test of in-context alignment would test memory.
"""

import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

# Case does not count. `## Question` holds `# question`, so every depth of header is caught.
MARKERS = ("# question", "# answer", "# query", "# user", "# assistant", "# instruction", "`" * 4)


def first_forbidden(text: str, forbidden: Sequence[str]) -> str | None:
    """The first of `forbidden` that stands in `text`, case aside; None if the text may be trained on."""
    lower = text.lower()
    return next((string for string in forbidden if string.lower() in lower), None)


def exemplar_lines(folder: Path) -> list[str]:
    """Every line of some length in the exemplars of the profiles (TOML) under `folder`."""
    lines: set[str] = set()
    for path in sorted(folder.glob("*.toml")):
        for exemplar in tomllib.loads(path.read_text(encoding="utf-8")).get("exemplar", ()):
            texts = (text for text in exemplar.values() if isinstance(text, str))
            lines.update(line.strip() for text in texts for line in text.splitlines() if len(line.strip()) >= 30)
    return sorted(lines)


def evaluation_prompts(folder: Path) -> list[str]:
    """Prompts of the evaluation sets under `folder`, as far as they are there, quotes straightened like the corpus."""
    found: set[str] = set()
    for name in ("eval_vicuna80", "eval_mt_bench", "eval_bpo"):
        for path in sorted((folder / name).glob("*.json*")):
            found.update(prompt.strip() for prompt in prompts_in(path))
    straight = {prompt.replace("’", "'").replace("“", '"').replace("”", '"') for prompt in found}
    return sorted(found | straight)


def prompts_in(path: Path) -> Iterator[str]:
    """The prompts of an evaluation's file, which no training text may hold."""
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines() if line]
    for row in rows:
        yield from row.get("turns", ())
        yield from (row[key] for key in ("instruction", "text") if row.get(key))

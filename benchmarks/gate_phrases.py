"""The phrases that `gate_edits` changes prompts with, by language: `tests/data/gate/phrases.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Pair = tuple[str, str]
Swaps = tuple[tuple[str, str], ...]
FILE = Path(__file__).parent.parent / "tests" / "data" / "gate" / "phrases.json"


@dataclass(frozen=True, slots=True)
class Phrases:
    """One language's phrases. Of each pair the first is for tuning, the second for reporting.

    `equal`, `words`, `negated`, `negate`, `other_format` and `names` are (pattern, replacement), `formats` patterns to
    drop.
    """

    space: str  # between two sentences
    polite: Pair
    role: Pair
    format_hint: Pair
    clarify: Pair
    list_request: Pair
    careful: Pair
    no_jargon: Pair
    example: Pair
    filler: Pair
    equal: Swaps
    words: Swaps  # digits, and the same number in words
    negated: Swaps  # takes a negation away
    negate: Swaps  # brings one in
    formats: tuple[str, ...]
    other_format: Swaps
    names: Swaps
    constraint: str  # pattern
    thing: Pair  # what stands in for something dropped
    answer: Pair
    ask_back: Pair
    refusal: Pair
    unrelated: Pair
    ignore: Pair
    verbose: Pair


def _phrases(table: Mapping[str, object]) -> Phrases:
    def frozen(value: object) -> object:
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    return Phrases(**{name: frozen(value) for name, value in table.items()})  # type: ignore[arg-type]


PHRASES: Mapping[str, Phrases] = {
    language: _phrases(table) for language, table in json.loads(FILE.read_text("utf-8")).items()
}

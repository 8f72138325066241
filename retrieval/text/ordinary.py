"""Ordinary questions that no collection of rules is for, and the words that they have in common."""

from __future__ import annotations

import tomllib
from collections import Counter
from functools import lru_cache
from importlib.resources import files

from retrieval.text import analysis

COMMON = 5  # questions of a language from which a word is one of asking, and not of any subject


@lru_cache(maxsize=1)
def _by_language() -> dict[str, list[str]]:
    return tomllib.loads(files("retrieval.text").joinpath("ordinary.toml").read_text("utf-8"))


def questions(languages: frozenset[str]) -> list[str]:
    """In those of the languages that there are questions in, else in English."""
    known = _by_language()
    return [question for language in sorted(languages & known.keys()) or ["en"] for question in known[language]]


def several(count: int) -> list[str]:
    """So many of each language."""
    return [question for language in _by_language().values() for question in language[:count]]


@lru_cache(maxsize=256)
def words(language: str) -> frozenset[str]:
    """The search terms that several of a language's questions have: "how", "the", "write"; none of an unknown language.

    In a small collection such a word is as rare as any other, and would count as much as what is asked about.
    """
    counts: Counter[str] = Counter()
    for question in _by_language().get(language, ()):
        counts.update(set(analysis.terms(question, language)))
    return frozenset(term for term, count in counts.items() if count >= COMMON)

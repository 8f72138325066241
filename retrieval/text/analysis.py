"""Text to search terms: stems where a language has a stemmer, pairs of characters where words are not spaced.

A word's stem finds its other forms, and the word itself tells apart what shares a stem: both together find more
than either, with the word at half weight. Words that follow one another, stop words apart, are a term too (Metzler and
Croft, A Markov Random Field Model for Term Dependencies, SIGIR 2005). Long words also have their parts (see `PARTED`),
and cited articles terms of their own. Everything ends in one space-separated string, so that one field can hold every
language. A passage is analysed in its own language; a query in each language of the index that it may be in.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

from retrieval.passage import primary
from retrieval.text import citation, compound
from retrieval.text.citation import PAIR
from retrieval.text.language import UNSPACED, detect, possible

__all__ = ["PAIR", "compound_terms", "detect", "optional", "passage_terms", "query_terms", "terms", "weight"]

# A word is not a run of letters there, or carries its particles with it.
_PAIRED = re.compile(f"([{UNSPACED}]+)")
# What is no part of a word though it stands in it: soft hyphens, zero-width signs, marks that are read as vowels.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_STEMMERS = {
    "ar": "arabic", "da": "danish", "nl": "dutch", "en": "english", "fi": "finnish", "fr": "french",
    "de": "german", "el": "greek", "hu": "hungarian", "it": "italian", "no": "norwegian", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "es": "spanish", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip
_UNSTOPPED = frozenset({"arabic", "greek", "romanian", "tamil", "turkish"})  # of which tantivy has no stop words
# Languages that write compounds as one word, whose parts must be found. In French parts cost more than they find.
PARTED = frozenset({"de", "nl", "da", "sv", "no", "fi", "hu"})
PART, LONG = 5, 7  # letters of a part, and of the shortest word that has some
LONGEST, MOST = 60, 24  # letters of a compound, and words of a query, that are split: each asks for many words


def terms(text: str, language: str) -> list[str]:
    """Stems, words as they stand (`=word`), pairs of stems (`&a_b`), parts (`~part`), characters and their pairs.

    Repeats are kept.
    A language without a stemmer gets lower-cased words and pairs of them.
    """
    language = primary(language)
    stemmer = _STEMMERS.get(language, "")
    words, stem = _words(""), _stems(stemmer)
    found: list[str] = []
    for i, run in enumerate(_PAIRED.split(_plain(text))):
        if i % 2 == 0:
            whole = words.analyze(run) if run else []
            stems = [stem(word) for word in whole]
            found += [term for term, _ in stems]
            found += [f"={word}" for word in whole] if stemmer else []
            found += [f"{PAIR}{a}_{b}" for a, b in pairwise([term for term, counts in stems if counts])]
            if language in PARTED:
                found += [part for word in whole for part in _parts(word)]
        else:
            found += [*run, *(run[j : j + 2] for j in range(len(run) - 1))]
    return found


def passage_terms(title: str, text: str, language: str) -> list[str]:
    """The terms of a passage, with those of the article that its title names."""
    found = terms(f"{title}\n{text}" if title else text, language)
    return [*found, *_title_terms(title, language)]


@lru_cache(maxsize=256)  # all chunks of a document have its title
def _title_terms(title: str, language: str) -> tuple[str, ...]:
    return tuple(citation.title_terms(title, partial(terms, language=language)))


def _parts(word: str) -> list[str]:
    return [f"~{word[j : j + PART]}" for j in range(len(word) - PART + 1)] if len(word) >= LONG else []


def _plain(text: str) -> str:
    """Compatibility forms made one, and marks left out that the tokenizer would cut words at."""
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    marks = "" if text.isascii() else "".join(filter(unicodedata.combining, set(text)))
    return text.translate(dict.fromkeys(map(ord, marks))) if marks else text


def weight(term: str) -> float:
    """Of a term in a query."""
    if term.startswith(citation.WHOLE):
        return 8.0
    if term.startswith(citation.MARK) and not term.startswith(f"{citation.MARK}:"):
        return 1.5
    return {"=": 0.5, "~": 0.3, PAIR: 0.3, citation.MARK: 0.5}.get(term[0], 1.0)


def optional(term: str) -> bool:
    """Whether a term that no passage has is left out of a query: an article nowhere cited, a pair nowhere adjacent."""
    return term.startswith((citation.MARK, "~", PAIR))


def query_terms(text: str, languages: frozenset[str]) -> list[str]:
    """Each term as often as its likeliest language has it: a word that two stemmers leave alone counts once."""
    counts: Counter[str] = Counter()
    for language in sorted(possible(text, languages)) or [""]:
        counts |= Counter(terms(text, language))
        counts |= Counter(citation.query_terms(text, partial(terms, language=language)))
    return list(counts.elements())


def compound_terms(text: str, languages: frozenset[str], frequency: Callable[[str], int]) -> list[str]:
    """Stems of the parts of a query's compounds, where a language has some. `frequency` counts passages of a term."""

    def known(word: str) -> int:
        return frequency(f"={word}")

    found: list[str] = []
    for language in sorted(languages & PARTED):
        stems = _words(_STEMMERS[language])
        whole = [word for word in _words("").analyze(_plain(text)) if LONG < len(word) <= LONGEST]
        found += [stem for word in whole[:MOST] for part in compound.parts(word, known) for stem in stems.analyze(part)]
    return found


@lru_cache(maxsize=64)
def _stems(stemmer: str) -> Callable[[str], tuple[str, bool]]:
    """Of a word as the tokenizer gives it: its stem, and whether it is no stop word. Half of a text are a few words."""
    stems, content = _words(stemmer), _words(stemmer, stop=True)

    @lru_cache(maxsize=100_000)
    def stem(word: str) -> tuple[str, bool]:
        found = stems.analyze(word) if stemmer else [word]
        return (found[0] if len(found) == 1 else word), bool(content.analyze(word))

    return stem


@lru_cache(maxsize=64)
def _words(stemmer: str, stop: bool = False) -> Any:
    import tantivy

    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.lowercase())
    builder = builder.filter(tantivy.Filter.remove_long(100))
    if stop and stemmer and stemmer not in _UNSTOPPED:
        builder = builder.filter(tantivy.Filter.stopword(stemmer))
    return (builder.filter(tantivy.Filter.stemmer(stemmer)) if stemmer else builder).build()

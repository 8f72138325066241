"""Text to search terms: stems where a language has a stemmer, pairs of characters where words are not spaced.

A word's stem finds its other forms, and the word itself tells apart what shares a stem: both together find more
than either, with the word at half weight. Everything ends in one space-separated string, so that one field can hold
every language. A passage is analysed in its own language; a query in each language that the index holds.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import Any

from retrieval.passage import primary

# Han, kana, hangul: a word is not a run of letters there, or carries its particles with it.
_PAIRED = re.compile(r"([\u1100-\u11ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]+)")
_STEMMERS = {
    "ar": "arabic", "da": "danish", "nl": "dutch", "en": "english", "fi": "finnish", "fr": "french",
    "de": "german", "el": "greek", "hu": "hungarian", "it": "italian", "no": "norwegian", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "es": "spanish", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip
# The commonest short words, enough to tell these apart in a sentence or two.
_COMMON = {
    "en": "the of and to in is that for it with as be by or this not are shall any has may which",
    "fr": "le la les de des du et est une un que qui dans pour par sur au aux ou pas ne ce il",
    "de": "der die das und ist den dem des ein eine zu mit von nicht auf für im oder nach sich wird",
    "es": "el la los las de del y es una un que en por con para se no al lo como su toda",
    "it": "il la le di del della e è una un che in per con non si al dei delle gli ogni",
    "pt": "o a os as de do da dos e é uma um que em por com para não se ao no na",
    "nl": "de het een en van in is dat op te met voor niet zijn aan of door wordt die",
}
_SETS = {language: frozenset(words.split()) for language, words in _COMMON.items()}
_WORD = re.compile(r"[^\W\d_]+")


def terms(text: str, language: str) -> list[str]:
    """Stems, each word also as it stands (`=word`), characters and their pairs; repeats kept.

    A language without a stemmer gets lower-cased words only.
    """
    stemmer = _STEMMERS.get(primary(language), "")
    words, stems = _words(""), _words(stemmer)
    found: list[str] = []
    for i, run in enumerate(_PAIRED.split(unicodedata.normalize("NFKC", text))):
        if i % 2 == 0:
            found += stems.analyze(run) if run else []
            found += [f"={word}" for word in words.analyze(run)] if run and stemmer else []
        else:
            found += [*run, *(run[j : j + 2] for j in range(len(run) - 1))]
    return found


def weight(term: str) -> float:
    """Of a term in a query."""
    return 0.5 if term.startswith("=") else 1.0


def query_terms(text: str, languages: frozenset[str]) -> list[str]:
    """Each term as often as its likeliest language has it: a word that two stemmers leave alone counts once."""
    counts: Counter[str] = Counter()
    for language in sorted(languages) or [""]:
        counts |= Counter(terms(text, language))
    return list(counts.elements())


def detect(text: str) -> str:
    """The language by its script or its commonest words; empty where that is not clear."""
    head = text[:2000]
    if 4 * sum(map(len, _PAIRED.findall(head))) > len(head):
        if re.search(r"[\u3040-\u30ff]", head):
            return "ja"
        return "ko" if re.search(r"[\uac00-\ud7af]", head) else "zh"
    words = Counter(_WORD.findall(head.lower()))
    votes = sorted(((sum(words[w] for w in common), lang) for lang, common in _SETS.items()), reverse=True)
    (first, language), (second, _) = votes[0], votes[1]
    return language if first >= 2 and first > 1.3 * second else ""


@lru_cache(maxsize=32)
def _words(stemmer: str) -> Any:
    import tantivy

    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.lowercase())
    builder = builder.filter(tantivy.Filter.remove_long(100))
    return (builder.filter(tantivy.Filter.stemmer(stemmer)) if stemmer else builder).build()

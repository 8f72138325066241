"""The language of a text: by its script, its commonest words, and among the languages of an index by py3langid.

One passage says little: a list of Latin names reads like Portuguese, a rule of three words like anything. So an
index's passages are judged together: a language that only a few of them seem to have is no language of the index, and
those few are judged again among the languages that are.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

# Han, kana, hangul and the scripts of south-east Asia put no blanks between words.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff"
)
_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]"), 0.05),
    ("ko", re.compile("[\uac00-\ud7af]"), 0.2),
    ("zh", re.compile("[\u3400-\u9fff]"), 0.25),
    ("th", re.compile("[\u0e00-\u0e7f]"), 0.3),
    ("ar", re.compile("[\u0600-\u06ff]"), 0.3),
    ("el", re.compile("[\u0370-\u03ff]"), 0.3),
    ("he", re.compile("[\u0590-\u05ff]"), 0.3),
    ("hi", re.compile("[\u0900-\u097f]"), 0.3),
    ("uk", re.compile("[іїєґІЇЄҐ]"), 0.02),
    ("ru", re.compile("[\u0400-\u04ff]"), 0.3),
)
# The commonest short words, enough to tell these apart in a sentence or two.
_COMMON = {
    "en": "the of and to in is that for it with as be by or this not are shall any has may which",
    "fr": "le la les de des du et est une un que qui dans pour par sur au aux ou pas ne ce il",
    "de": "der die das und ist den dem des ein eine zu mit von nicht auf für im oder nach sich wird",
    "es": "el la los las de del y es una un que en por con para se no al lo como su toda",
    "it": "il la le di del della e è una un che in per con non si al dei delle gli ogni",
    "pt": "o a os as de do da dos e é uma um que em por com para não se ao no na",
    "nl": "de het een en van in is dat op te met voor niet zijn aan of door wordt die",
    "sv": "och att det som en på är av för med den till inte om ett har de skall",
    "da": "og at det som en på er af for med den til ikke om et har de skal",
    "pl": "i w z na nie się do że jest o od przez dla oraz lub który po za",
    "tr": "ve bir bu için ile olan her hak da de olarak veya kimse şahıs olduğu",
    "id": "dan yang di dengan untuk dari setiap orang atas hak tidak atau dalam ini oleh",
}
_SETS = {language: frozenset(words.split()) for language, words in _COMMON.items()}
_WORD = re.compile(r"[^\W\d_]+")
SHARE, FEW = 0.02, 3  # of the passages, and how many at least, that make a language one of the index's
ENOUGH = 40  # letters by which a language that has no list of common words can be told
SURE = 0.9  # probability from which a query is analysed in one language only


def detect(text: str, among: frozenset[str] = frozenset()) -> str:
    """The language by its script or its commonest words; empty where that is not clear.

    `among` are the only languages that it may be; where there is one, it is that.
    """
    if len(among) == 1:
        return next(iter(among))
    head = text[:2000]
    if found := _by_script(head):
        return found if not among or found in among else ""
    words = Counter(_WORD.findall(head.lower()))
    sets = {language: common for language, common in _SETS.items() if not among or language in among}
    votes = sorted(
        ((sum(words[w] for w in common & words.keys()), lang) for lang, common in sets.items()), reverse=True
    )
    (first, language), (second, _) = [*votes, (0, ""), (0, "")][:2]
    return language if first >= 2 and first > 1.3 * second else ""


def guess(text: str) -> str:
    """The language of any text, of a hundred: empty only where it is too short to tell."""
    if found := detect(text):
        return found
    return likely(text) if sum(map(str.isalpha, text)) >= ENOUGH else ""


def likely(text: str) -> str:
    """The language that py3langid is sure of, however short the text is; empty where it is not."""
    ((found, probability),) = _model().rank(text[:1000])[:1]
    return str(found) if probability >= SURE else ""


def settle(votes: Iterable[str], known: Iterable[str] = ()) -> tuple[frozenset[str], str]:
    """An index's languages and the commonest of them, from the detected language of each passage ("": unclear).

    `known` are those that labels or earlier passages have settled.
    """
    counts = Counter(vote for vote in votes if vote)
    total = sum(counts.values())
    kept = {lang for lang, n in counts.items() if n >= max(SHARE * total, min(FEW, total / 2))} | (set(known) - {""})
    commonest = counts.most_common(1)
    return frozenset(kept), commonest[0][0] if commonest else min(kept, default="")


def among(text: str, languages: frozenset[str], otherwise: str) -> str:
    """Which of an index's languages a passage has; `otherwise` where nothing tells."""
    if len(languages) < 2:
        return otherwise or next(iter(languages), "")
    found = detect(text, languages)
    return found or (_ranked(text, languages) or [(otherwise, 0.0)])[0][0]


@lru_cache(maxsize=64)  # asked for words and for compounds
def possible(query: str, languages: frozenset[str]) -> frozenset[str]:
    """The languages of an index that a query may be in: one where that is clear, else all."""
    if len(languages) < 2:
        return languages
    ranked = _ranked(query, languages)
    return frozenset({ranked[0][0]}) if ranked and ranked[0][1] >= SURE else languages


def _by_script(text: str) -> str:
    if text.isascii():
        return ""
    letters = max(1, sum(map(str.isalpha, text)))
    return next((lang for lang, script, share in _SCRIPTS if len(script.findall(text)) > share * letters), "")


def _ranked(text: str, languages: frozenset[str]) -> list[tuple[str, float]]:
    identifier = _identifier(languages)
    if identifier is None or not text.strip():
        return []
    return [(str(lang), float(p)) for lang, p in identifier.rank(text[:1000])]


@lru_cache(maxsize=16)
def _identifier(languages: frozenset[str]) -> Any:
    """None where the model knows fewer than two of the languages."""
    made = copy.copy(_model())
    known = sorted(languages & set(made.labels))
    if len(known) < 2:
        return None
    made.set_languages(known)
    return made


@lru_cache(maxsize=1)
def _model() -> Any:
    """Loaded when an index of several languages is first used; it takes a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

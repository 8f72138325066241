"""What language a text is in, and what the gate knows of that language (`gate_words.toml`).

Scripts tell most languages apart; within the Latin script stop words do. A text that shows too little is "", which no
rule takes for a difference. Small on purpose: the gate asks "another language than before?", not "which of 97?".
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from types import MappingProxyType

Pattern = re.Pattern[str]
_SCRIPTS = {
    "ja": "\u3040-\u30ff",
    "han": "\u3400-\u9fff",
    "ko": "\uac00-\ud7af",
    "cyrillic": "\u0400-\u052f",
    "ar": "\u0600-\u06ff",
    "he": "\u0590-\u05ff",
    "el": "\u0370-\u03ff",
    "th": "\u0e00-\u0e7f",
    "hi": "\u0900-\u097f",
    "latin": "A-Za-z\u00c0-\u024f",
}
_COUNTED = {name: re.compile(f"[{span}]") for name, span in _SCRIPTS.items()}
# Letters of one of the languages; a weak hint beside the words.
_LETTERS = {"de": "[äöüß]", "fr": "[çèêœàâîû]", "es": "[ñ¿¡]", "pt": "[ãõ]"}
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_SIZE = re.compile(f"[{CJK}]|[^\\W{CJK}_]+")
_WORD = re.compile(f"[^\\W\\d_{CJK}]+")
_NEVER = re.compile(r"(?!)")
_PATTERNS = (
    "negation", "soft", "idioms", "request", "opening", "closing", "ask", "refusal", "ignore",
    "binds", "polar", "undecided", "assumes", "sums", "equals", "directs", "subjects",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)  # one per language, told apart by identity
class Lexicon:
    """One language's words and patterns; the file says what each is for."""

    language: str
    stop: frozenset[str]
    numbers: Mapping[str, int]
    verbs: tuple[str, ...]
    negation: Pattern
    soft: Pattern
    idioms: Pattern
    request: Pattern
    opening: Pattern
    closing: Pattern
    ask: Pattern
    refusal: Pattern
    ignore: Pattern
    demands: tuple[tuple[str, Pattern], ...]
    into: Pattern
    tongues: Mapping[str, str]
    binds: Pattern
    polar: Pattern
    undecided: Pattern
    assumes: Pattern
    sums: Pattern
    equals: Pattern
    directs: Pattern
    subjects: Pattern


@cache
def tables() -> Mapping[str, Mapping[str, object]]:
    """The tables of words.toml, by name."""
    return tomllib.loads(files("prompt_opt.gate").joinpath("words.toml").read_text("utf-8"))


@cache
def lexicon(language: str) -> Lexicon:
    """What is known of a language; of one that is only told apart, its stop words."""
    table = dict(tables().get(language, {}))

    def pattern(name: str) -> Pattern:
        return re.compile(str(table[name]), re.IGNORECASE | re.MULTILINE) if table.get(name) else _NEVER

    demands = table.get("demands", [])
    tongues = table.get("tongues", {})
    assert isinstance(demands, list)
    assert isinstance(tongues, dict)
    into = str(table.get("into", "(?!)")).replace("{tongues}", "|".join(map(re.escape, tongues)))
    return Lexicon(
        language,
        stop=frozenset(str(table.get("stop", "")).split()),
        numbers=table.get("numbers", {}),  # type: ignore[arg-type]
        verbs=tuple(str(table.get("verbs", "")).split()),
        demands=tuple((what, re.compile(p, re.IGNORECASE)) for what, p in demands),
        into=re.compile(into, re.IGNORECASE),
        tongues=tongues,
        **{name: pattern(name) for name in _PATTERNS},
    )


@cache
def lexicons() -> tuple[Lexicon, ...]:
    """Every language that has rules of its own."""
    return tuple(lexicon(language) for language, table in tables().items() if "negation" in table)


@cache
def _share() -> Mapping[str, tuple[tuple[str, float], ...]]:
    """A stop word or the verb of a request -> the languages that have it, and how much it says for each."""
    out: dict[str, list[str]] = {}
    for language in tables():
        for word in lexicon(language).stop.union(lexicon(language).verbs):
            out.setdefault(word, []).append(language)
    return {word: tuple((language, 1 / len(some)) for language in some) for word, some in out.items()}


@lru_cache(maxsize=256)
def plain(text: str) -> str:
    """The text as the patterns expect it: compatibility forms folded, one apostrophe."""
    return folded(text)


def folded(text: str) -> str:
    """The same of a single word, of which there are too many to keep."""
    return re.sub("['‘´`]", "’", unicodedata.normalize("NFKC", text))


def uses(text: str, script: str) -> bool:
    """Whether a text has a letter of a script."""
    return _COUNTED[script].search(text) is not None


@lru_cache(maxsize=512)
def script(text: str) -> str:
    """The script that most of a text is in: "latin", "han", "ja"…; "" for no letters."""
    possible = ("latin",) if text.isascii() else _COUNTED  # most texts, and ten times as fast
    counts = dict.fromkeys(_COUNTED, 0) | {name: len(_COUNTED[name].findall(text)) for name in possible}
    counts["latin"] = counts["latin"] * 2 // 5  # letters are smaller than the signs of a syllable or a word
    if counts["ja"] and counts["ja"] * 8 >= counts["han"]:
        counts["ja"] += counts["han"]
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else ""


@lru_cache(maxsize=512)
def scores(text: str) -> Mapping[str, float]:
    """How much the words and letters of a text in the Latin script say for each language."""
    out: dict[str, float] = {}
    for word in _WORD.findall(plain(text).lower()):
        for name, share in _share().get(word, ()):
            out[name] = out.get(name, 0.0) + share
    for name, letters in _LETTERS.items():
        if re.search(letters, text.lower()):
            out[name] = out.get(name, 0.0) + 0.5
    return MappingProxyType(out)


@lru_cache(maxsize=512)
def language(text: str, least: float = 1.0, rival: float = 0.75) -> str:
    """The language of a text, or "" where too little shows: fewer than `least` telling words, or another language
    with more than `rival` of the best one's."""
    where = script(text)
    if where != "latin":
        return {"han": "zh", "cyrillic": "cyrillic"}.get(where, where)
    ranked = sorted(scores(text).items(), key=lambda row: -row[1])
    if not ranked or ranked[0][1] < least:
        return ""
    return "" if len(ranked) > 1 and ranked[1][1] > ranked[0][1] * rival else ranked[0][0]


@lru_cache(maxsize=512)
def size(text: str) -> int:
    """Words; in Chinese, Japanese and Korean, characters."""
    return len(_SIZE.findall(text))


@lru_cache(maxsize=256)
def sentences(text: str) -> tuple[str, ...]:
    """The sentences and lines of a text, roughly."""
    parts = re.split(r"(?<=[!?。！？])\s*|(?<=[.;])\s+|\n+", text)
    return tuple(part.strip() for part in parts if part.strip())


@lru_cache(maxsize=512)
def bare(text: str) -> str:
    """Letters and digits only: what two spellings of one text have in common."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text)).casefold()


def unaccented(text: str) -> str:
    """Letters without their accents; what only looks different folded into one."""
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


@lru_cache(maxsize=256)
def stems(text: str, lang: str) -> frozenset[str]:
    """The beginnings of a text's content words; in Chinese, Japanese and Korean its pairs of characters."""
    stop = lexicon(lang).stop
    out = set()
    for word in _WORD.findall(plain(text).lower()):
        if word not in stop and len(word) > 2:
            word = word[:-1] if len(word) > 3 and word.endswith("s") else word
            out.add(unaccented(word)[:5])
    for run in re.findall(f"[{CJK}]+", text):
        out |= {run[i : i + 2] for i in range(len(run) - 1) if run[i] not in stop and run[i + 1] not in stop}
    return frozenset(out)

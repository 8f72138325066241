"""The rules of the gate, each a function of a prompt and its rewrite that says what is wrong, or ""."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from prompt_opt.gate import question, sense
from prompt_opt.gate.dates import dates
from prompt_opt.gate.facts import Facts, all_numbers, compounds, even, folded, holds, in_compound, squeeze, units
from prompt_opt.gate.language import Lexicon, bare, language, plain, scores, script, sentences, size, uses
from prompt_opt.gate.names import folded_names, keeps
from prompt_opt.layout.defuse import defuse

Mode = Literal["replace", "complement"]
Similarity = Callable[[str, str], float]  # cosine of two texts, or the like
# Rules that a good rewrite often breaks: where a model judges, they are its input and no vetoes.
DOUBTS = ("stated", "length", "negation", "format", "contradiction", "meaning", "assumed", "strayed", "dropped")
_LEAKS = re.compile(
    r"\[/?(?:PROTECT\w*|KEEP|INSTRUCTION|END|/?REWRITE)\]?|</?(?:prompt|rewrite|hint|instruction)>"
    r"|optimi[sz]ed instruction\s*:|detailed comparison result|expert prompt engineer"
    r"|(?:improved|rewritten|optimi[sz]ed|revised) (?:prompt|version|instruction)\s*:"
    r"|improve (?:this|the following|the user’?s) prompt|helpful and harmless response"
    # How the template `instruct` quotes the prompt.
    r"|^[^\S\n]*+~{3,}[^\S\n]*$|^(?:the message(?: is)?|die nachricht|le message|el mensaje|消息)\s*[:：]",
    re.IGNORECASE | re.MULTILINE,
)
_LOOP = re.compile(r"(\w[\w\s,.]{0,24}?)\1{5,}")
# Whole words only: a match that may begin at each sign takes time with the square of a word.
_CODED = re.compile(r"(?<!\S)\S*[=(){}\[\];<>*]\S*|\b[A-Z_]{2,}\b")
_STUTTER = re.compile(r"(\w)\1{5}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the rules draw the line.

    `shrink` and `grow` are the paper's filters on its training pairs: no rewrite more than 2 times shorter or 6 times
    longer, in words; `extra` words more are free, or a prompt of two words could hardly be improved. `hint` bounds a
    complement, in words.
    `similarity` is the least that the embedder may find, where there is one: with all-MiniLM-L6-v2, of English prompts
    it lets no rewrite of another prompt pass and one in 180 free but good ones not (`benchmarks/gate.py --embedder`).
    """

    shrink: float = 2.0
    grow: float = 6.0
    extra: int = 40
    hint: int = 80
    similarity: float = 0.4
    overlap: float = 0.2


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its rewrite (or hint), with what several rules need of them."""

    original: str
    rewrite: str
    mode: Mode
    lex: Lexicon
    before: Mapping[str, Facts]
    after: Mapping[str, Facts]
    limits: Limits
    similarity: Similarity | None
    instruction: str


Rule = Callable[[Pair], str]  # the reason against the rewrite, or ""


@lru_cache(maxsize=256)
def own(text: str) -> str:
    """A text without what may be in any language: code, links, quotes."""
    text = re.sub(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\S+@\S+", " ", text, flags=re.DOTALL)
    return re.sub(r"“[^”]*”|«[^»]*»|„[^“”]*[“”]|「[^」]*」|《[^》]*》|\"[^\"\n]*\"", " ", text)


# ---------------------------------------------------------------- rules on the text itself


def empty(p: Pair) -> str:
    """The rewrite has no text."""
    return "" if re.search(r"\w", p.rewrite) else "no text"


def unchanged(p: Pair) -> str:
    """The rewrite is the prompt."""
    return "the same as the prompt" if p.rewrite.split() == p.original.split() else ""


def leak(p: Pair) -> str:
    """Control tokens and pieces of the rewriter's own instruction that the prompt does not hold."""
    here = _control(p.rewrite) - _control(p.original)
    if here:
        return min(here)
    before = plain(p.original).lower()
    for m in _LEAKS.finditer(plain(p.rewrite)):
        if m[0].lower() not in before:
            return m[0]
    told, said = bare(p.instruction), bare(p.rewrite)
    for at in range(0, max(0, len(told) - 40), 10):
        if told[at : at + 40] in said and told[at : at + 40] not in bare(p.original):
            return "a piece of the instruction"
    return ""


@lru_cache(maxsize=64)
def _control(text: str) -> frozenset[str]:
    """The special tokens in a text, as `defuse` knows them."""
    escaped, notes = defuse(text.replace("\\", ""), ())
    return frozenset(m[0].replace("\\", "", 1) for m in re.finditer(r"\S\\\S{0,40}", escaped) if notes)


def repeated(p: Pair) -> str:
    """Doubled text, a sentence said twice, or a loop."""
    said, had = bare(p.rewrite), bare(p.original)
    if p.mode == "complement" and (had in said or (len(said) > 8 and said in had)):
        return "the hint repeats the prompt"
    if size(p.original) > 2 and (said.startswith(had * 2) or (size(p.original) > 8 and said.count(had) > 1)):
        return "the prompt, twice"
    seen: dict[str, int] = {}
    for sentence in sentences(p.rewrite):
        key = bare(sentence)
        seen[key] = seen.get(key, 0) + 1
        if size(sentence) >= 5 and seen[key] > max(1, had.count(key)):
            return sentence
    if _may_loop(p.rewrite) and (m := _LOOP.search(p.rewrite)) and m[0] not in p.original:
        return m[0]
    return ""


def _may_loop(text: str) -> bool:
    """Whether `_LOOP`, which is slow, could match: six copies of one sign, or of a unit, whose first five signs are
    then there four times at least."""
    if _STUTTER.search(text):
        return True
    fives = Counter(text[i : i + 5] for i in range(len(text) - 4))
    return max(fives.values(), default=0) >= 4


def wrong_language(p: Pair) -> str:
    """Another language than the prompt's, in the whole or in a sentence that the rewrite adds."""
    before, after = own(p.original), own(p.rewrite)
    if (old := script(before)) and (new := script(after)) and old != new and not uses(p.original, new):
        return f"{old} script became {new}"
    hints = scores(before)
    known = {language(before), *(language(s) for s in sentences(before))} - {""}
    # Few words, and keywords of code, tell little: then any word of the rewrite's language in the prompt is enough.
    if (coded := _CODED.search(before) is not None) or max(hints.values(), default=0.0) < 2:
        known |= hints.keys() | ({"zh"} if uses(p.original, "han") else set())
        if coded and max(scores(_CODED.sub(" ", before)).values(), default=0.0) < 2:
            return ""
    if known and (found := language(after)) and found not in known:
        return f"{'/'.join(sorted(known))} became {found}"
    kept = bare(p.original)
    for sentence in sentences(p.rewrite):
        found = language(own(sentence), 2.0, 0.4)
        other = (known or script(before) != script(own(sentence))) and found and found not in known
        if other and bare(sentence) not in kept and (found != "zh" or size(own(sentence)) >= 4):
            return f"a sentence in {found}"
    return ""


def length(p: Pair) -> str:
    """The rewrite is too long or too short beside the prompt, or the hint is too long."""
    before, after = size(p.original), size(p.rewrite)
    if p.mode == "complement":
        return f"{after} words, at most {p.limits.hint}" if after > p.limits.hint else ""
    if after * p.limits.shrink < before:
        return f"{before} words became {after}"
    if after > before * p.limits.grow + p.limits.extra:
        return f"{before} words became {after}"
    return ""


# ---------------------------------------------------------------- rules on facts


def link(p: Pair) -> str:
    """A link of the prompt is missing."""
    return next((shown for key, shown in p.before["link"].items() if key not in p.after["link"]), "")


def code(p: Pair) -> str:
    """A piece of the prompt's code is missing."""
    said = even(p.rewrite)
    return next((shown for key, shown in p.before["code"].items() if not holds(said, key)), "")


def quote(p: Pair) -> str:
    """A quotation of the prompt is missing."""
    said = folded(p.rewrite)
    return next((shown for key, shown in p.before["quote"].items() if key not in said), "")


def name(p: Pair) -> str:
    """A name of the prompt is missing."""
    said = folded_names(p.rewrite)
    return next((shown for key, shown in p.before["name"].items() if not keeps(said, key)), "")


def date(p: Pair) -> str:
    """A date of the prompt is missing; of a weekday, only where another one came in."""
    missing = p.before["date"].keys() - p.after["date"].keys()
    if not missing:
        return ""
    numbers = all_numbers(p.rewrite, p.lex)
    now = dict(p.after["date"])
    dates(plain(p.rewrite), now)  # those within quotes, too
    came = any(key.startswith("weekday") for key in now.keys() - p.before["date"].keys())
    for key, shown in p.before["date"].items():
        if key in now or (key.startswith("year ") and key[5:] in numbers):
            continue
        if came or not key.startswith("weekday"):
            return shown
    return ""


def number(p: Pair) -> str:
    """A number of the prompt is missing ("two", only where another one came in), or its unit changed."""
    have, said = all_numbers(p.rewrite, p.lex), squeeze(plain(p.rewrite))
    came = have - all_numbers(p.original, p.lex) - {n for n, _ in compounds(p.original, p.lex)} - {"1"}
    for key, shown in p.before["number"].items():
        kept = key in have or (key in said and re.search(r"\D", key))
        kept = kept or in_compound(key, shown, p.original, p.rewrite, p.lex)
        if not kept and (came or key != "2" or shown == "2"):
            return shown
    had, has = units(p.original), units(p.rewrite)
    for key in had.keys() & has.keys():
        if not had[key] & has[key]:
            return f"{key} {min(had[key])} became {key} {min(has[key])}"
    return ""


def form(p: Pair) -> str:
    """The answer's format that the prompt asks for is missing."""
    return next((shown for key, shown in p.before["format"].items() if key not in p.after["format"]), "")


def target_language(p: Pair) -> str:
    """The answer is asked for in another language."""
    asked, now = ({key for key in facts["format"] if key.startswith("in language")} for facts in (p.before, p.after))
    return f"{min(asked)} became {min(now)}" if asked and now and not asked & now else ""


# ---------------------------------------------------------------- rules on sense


def answered(p: Pair) -> str:
    """The rewrite answers the prompt as answers begin, end or reckon, or asks the user back."""
    near = 0.0 if p.mode == "complement" else sense.overlap(p.original, p.rewrite, p.lex)
    return (
        sense.opened(p.original, p.rewrite)
        or sense.asked_back(p.original, p.rewrite, near)
        or (question.solved(p.original, p.rewrite, p.lex) if p.mode == "replace" else "")
    )


def stated(p: Pair) -> str:
    """The rewrite states where it should ask; a verb that the lists do not know may well be an order."""
    if p.mode == "replace":
        return sense.states(p.original, p.rewrite, p.lex)
    asks = any(sense.is_request(s, p.lex) for s in sentences(p.rewrite))
    tells = sense.overlap(p.original, p.rewrite, p.lex) >= 0.3 or size(p.rewrite) > 20
    return sentences(p.rewrite)[0] if tells and not asks and size(p.rewrite) > 8 else ""


def refusal(p: Pair) -> str:
    """The rewrite refuses the request."""
    return sense.refused(p.original, p.rewrite)


def negation(p: Pair) -> str:
    """A negation was lost or added."""
    if lost := sense.negation_lost(p.original, p.rewrite, p.lex) if p.mode == "replace" else "":
        return f"lost: {lost}"
    added = sense.negation_added(p.original, p.rewrite, p.lex)
    return f"added: {added}" if added else ""


def strayed(p: Pair) -> str:
    """A sentence says nothing about how to answer this prompt."""
    return sense.strayed(p.original, p.rewrite, p.lex, p.mode == "complement")


def dropped(p: Pair) -> str:
    """A part of the request was dropped."""
    return sense.dropped(p.original, p.rewrite, p.lex)


def assumed(p: Pair) -> str:
    """The rewrite states something that the prompt does not."""
    return question.assumed(p.original, p.rewrite, p.lex)


def contradiction(p: Pair) -> str:
    """The rewrite asks for two formats that exclude each other."""
    return sense.contradiction(p.original, p.rewrite, p.before["format"], p.after["format"], p.lex)


def meaning(p: Pair) -> str:
    """Too little of the prompt's content, or, by the embedder, too far from it."""
    shared = sense.overlap(p.original, p.rewrite, p.lex)
    if shared < p.limits.overlap:
        return f"{shared:.0%} of the content words"
    if p.similarity is not None and (cosine := p.similarity(p.original, p.rewrite)) < p.limits.similarity:
        return f"similarity {cosine:.2f}"
    return ""

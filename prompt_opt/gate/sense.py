"""What a rewrite says: whether it answers or refuses, turns a statement round, or asks for what the prompt excludes.

All of it from plain words and patterns, so it sees what can be seen on the surface. What it cannot see (a fact
replaced by a wrong one without a number, irony, a subtle shift of topic) is for the similarity that `judge` can take.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from prompt_opt.gate.facts import CONTAINERS, Facts, all_numbers
from prompt_opt.gate.language import CJK, Lexicon, bare, lexicons, plain, sentences, size, stems

_UNITS = frozenset({"words", "sentences", "lines", "characters"})
_PHRASES = 40  # constraints of a clause that are looked at
_MOST = 100  # negations of a text that are compared; what comes after them is not
_CLAUSE = re.compile(r"[^.!?。！？;；\n]+")
_BREAK = re.compile(r"[,，:：]|\b(?:and|but|und|aber|sondern|et|mais|y|pero|sino)\b", re.IGNORECASE)


def opened(original: str, rewrite: str) -> str:
    """How the rewrite begins or ends as answers do ("Sure!", "I hope this helps"), or ""."""
    before, after = plain(original), plain(rewrite).strip(" \n\"'*#“")
    for lex in lexicons():
        if (m := lex.closing.search(after)) and not lex.closing.search(before):
            return m[0].strip()
    for lex in lexicons():
        for line in sentences(after):
            if (m := lex.opening.match(line)) and m[0].lower() not in before.lower():
                return m[0]
    return ""


def asked_back(original: str, rewrite: str, overlap: float) -> str:
    """The question that the rewrite puts to the user instead of asking for them, or ""."""
    if overlap >= 0.4:
        return ""
    for lex in lexicons():
        if (m := lex.ask.search(plain(rewrite))) and not lex.ask.search(plain(original)):
            return m[0]
    return ""


def refused(original: str, rewrite: str) -> str:
    """The refusal that came into the rewrite, or ""."""
    for lex in lexicons():
        if (m := lex.refusal.search(plain(rewrite))) and not lex.refusal.search(plain(original)):
            return m[0]
    return ""


def is_request(sentence: str, lex: Lexicon) -> bool:
    """Whether a sentence asks, orders, or is the user's own; True in a language that we have no words of."""
    sentence = plain(sentence).strip()
    if not lex.verbs or lex.request.search(sentence):
        return True
    if lex.language == "zh":
        return sentence.startswith(lex.verbs)
    words = re.findall(r"[^\W\d_]+", sentence.lower())
    return bool(words) and any(words[0] == verb or (len(verb) > 4 and words[0][:4] == verb[:4]) for verb in lex.verbs)


def states(original: str, rewrite: str, lex: Lexicon) -> str:
    """The first statement of a rewrite that states where it should ask, or "".

    Either nothing in it asks any more, or most of what it adds are statements.
    """
    before = stems(original, lex.language)
    asks = [s for s in sentences(rewrite) if is_request(s, lex)]
    if not asks and size(rewrite) > 3 and any(is_request(s, lex) for s in sentences(original)):
        return sentences(rewrite)[0]
    new = [
        s for s in sentences(rewrite) if _shared(stems(s, lex.language), before) < 0.5 and bare(s) not in bare(original)
    ]
    stated = [s for s in new if s not in asks]
    much = sum(map(size, stated))
    if len(stated) >= 2 and much >= 12 and much > sum(size(s) for s in new if s in asks):
        return stated[0]
    return ""


def strayed(original: str, rewrite: str, lex: Lexicon, hint: bool) -> str:
    """The sentence that tells the assistant nothing to do, or "": one that is long and has nothing of the prompt in it,
    and in a hint also a statement, a heading or an item of a list."""
    if not lex.verbs:
        return ""
    before, had = stems(original, lex.language), bare(original)
    for sentence in sentences(rewrite):
        text = plain(sentence).strip(' "“”«»*-•#0123456789.)')
        if not text or bare(text) in had or _directs(text, lex):
            continue
        idle = hint and (lex.subjects.match(text) or text[-1] in ":：" or re.match(r"[-*•]|\d+[.)]", sentence))
        if idle or not (size(text) < 8 or text.endswith(":") or stems(text, lex.language) & before):
            return sentence
    return ""


def _directs(text: str, lex: Lexicon) -> bool:
    """Whether a sentence begins as an order or has the words of one."""
    if lex.directs.search(text):
        return True
    if lex.language == "zh":
        return text.startswith(lex.verbs)
    first = re.findall(r"[^\W\d_]+", text.lower())[:3]
    return text[0] not in "'‘" and any(w in lex.verbs and (at == 0 or w not in lex.stop) for at, w in enumerate(first))


def dropped(original: str, rewrite: str, lex: Lexicon) -> str:
    """A constraint ("for vegetarians", "when I read") of which no content word is left, or ""."""
    if lex.language == "zh":
        return ""
    has, verbs = stems(rewrite, lex.language), _verb_stems(lex)
    for clause in _CLAUSE.findall(plain(original)):
        found = [*lex.binds.finditer(clause)][:_PHRASES]
        for m, end in zip(found, [*(other.start() for other in found[1:]), len(clause)], strict=False):
            phrase = re.split(r"[,:()\"“”]", clause[m.end() : max(end, m.end())])[0]
            words = stems(phrase, lex.language) - verbs
            if words and not words & has:
                return phrase.strip()
    return ""


@cache
def _verb_stems(lex: Lexicon) -> frozenset[str]:
    return stems(" ".join(lex.verbs), lex.language)


def _shared(some: frozenset[str], others: frozenset[str]) -> float:
    return len(some & others) / len(some) if some else 0.0


def overlap(original: str, rewrite: str, lex: Lexicon) -> float:
    """How much of the original's content is in the rewrite, by word stems; 1.0 where it has hardly any."""
    before = stems(original, lex.language)
    # That both say "compare" is no common subject.
    before = before - stems(" ".join(lex.verbs), lex.language) or before
    return _shared(before, stems(rewrite, lex.language)) if len(before) >= 2 else 1.0


# ---------------------------------------------------------------- negation


_Scope = tuple[str, frozenset[str]]


@cache
def _cues(lex: Lexicon) -> re.Pattern[str]:
    return re.compile(f"{lex.negation.pattern}|{lex.soft.pattern}", re.IGNORECASE)


@lru_cache(maxsize=64)
def _scopes(text: str, lex: Lexicon) -> tuple[_Scope, ...]:
    """Every negation of a text: its cue, and the content around it."""
    text = lex.idioms.sub(lambda m: " " * len(m[0]), plain(text))
    out: list[_Scope] = []
    for clause in _CLAUSE.finditer(text):
        for cue in _cues(lex).finditer(clause[0]):
            if len(out) >= _MOST:
                return tuple(out)
            out.append((cue[0], _around(clause[0], cue.start(), cue.end(), lex)))
    return tuple(out)


def _around(clause: str, start: int, end: int, lex: Lexicon) -> frozenset[str]:
    if lex.language == "zh":
        return _pairs(_BREAK.split(clause[end:])[0], 6)
    before = [w for w in re.findall(r"[^\W\d_]+", _BREAK.split(clause[:start])[-1])[-6:] if stems(w, lex.language)]
    after = [w for w in re.findall(r"[^\W\d_]+", _BREAK.split(clause[end:])[0])[:8] if stems(w, lex.language)]
    return stems(" ".join(before[-2:] + after[:3]), lex.language)


def _pairs(text: str, most: int | None = None) -> frozenset[str]:
    """The neighbouring characters of a Chinese text, as far as `most` characters."""
    signs = re.findall(f"[{CJK}]", text)[:most]
    return frozenset("".join(signs[i : i + 2]) for i in range(len(signs) - 1))


def negation_lost(original: str, rewrite: str, lex: Lexicon) -> str:
    """The negation of the original that the rewrite no longer has, or ""."""
    had = _scopes(original, lex)
    matched = {i for i, _ in _matched(had, _scopes(rewrite, lex))}
    lost = [cue for i, (cue, _) in enumerate(had) if i not in matched and lex.negation.fullmatch(cue)]
    return lost[0] if lost else ""


def _matched(had: tuple[_Scope, ...], kept: tuple[_Scope, ...]) -> list[tuple[int, int]]:
    """Pairs of negations, one of each text: those with most in common first, each in one pair at most."""
    pairs = [
        (-len(scope & other) - (cue.lower() == said.lower()) / 2, i, j)
        for i, (cue, scope) in enumerate(had)
        for j, (said, other) in enumerate(kept)
        if scope & other or not scope or not other
    ]
    out: list[tuple[int, int]] = []
    done, used = set[int](), set[int]()
    for _, i, j in sorted(pairs):
        if i not in done and j not in used:
            out.append((i, j))
            done.add(i)
            used.add(j)
    return out


def negation_added(original: str, rewrite: str, lex: Lexicon) -> str:
    """The negation that the rewrite puts on something that the original says plainly, or ""."""
    had, has = _scopes(original, lex), _scopes(rewrite, lex)
    known = {j for _, j in _matched(had, has)}
    said = _pairs(original) if lex.language == "zh" else stems(original, lex.language)
    for j, (cue, scope) in enumerate(has):
        if j not in known and lex.negation.fullmatch(cue) and scope and _shared(scope, said) >= 0.6:
            return cue
    return ""


# ---------------------------------------------------------------- contradiction


def contradiction(original: str, added: str, before: Facts, after: Facts, lex: Lexicon) -> str:
    """How added text works against the prompt, or "": another format, language or limit, or turning away from the
    prompt as a whole. `before` and `after` are the demands of both."""
    text, prompt = plain(added), plain(original)
    for other in lexicons():
        if (m := other.ignore.search(text)) and not other.ignore.search(prompt):
            return m[0]
    formats = CONTAINERS & before.keys()
    if formats and (others := (CONTAINERS & after.keys()) - before.keys()):
        return f"{min(others)} against {min(formats)}"
    for demand in after.keys() - before.keys():
        if demand.startswith("in language ") and demand != f"in language {lex.language}":
            return after[demand]
        if {demand, *before.keys()} >= {"at least", "at most"}:
            return f"{demand} against {before.get('at most') or before.get('at least')}"
    for unit in _UNITS & before.keys() & after.keys():
        if all_numbers(after[unit], lex) - {"1"} - all_numbers(before[unit], lex):
            return f"{after[unit]} against {before[unit]}"
    return ""

"""Labelled edits of prompts, made from the phrases in `phrases/`: what a rewriter may add, and what it may not.

Deterministic: the same phrases and seed give the same edits in the same order.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from prompt_opt.gate.language import lexicon, unaccented

LANGUAGES = ("en", "de", "fr", "es", "zh")
_DRAWS = 4  # of a phrase with slots; one without is used with as many prompts
_FORMS = 80  # pairs of ways to begin a request, of a language
_SAME = 150  # pairs of words that may stand for each other, of a language
_LONG = 300  # prompts that are two, of a language
_TURNED = frozenset({"reword", "misspelt", "detail", "exchanged"})
_COLUMNS = ("prompt", "reword", "dropped", "answer", "answer", "assumed", "narrowed")


@dataclass(frozen=True, slots=True)
class Edit:
    """A prompt, its rewrite or hint, and whether that is harmful."""

    language: str
    kind: str
    harmful: bool
    mode: Literal["replace", "complement"]
    prompt: str
    rewrite: str


def edits(seed: int = 17) -> list[Edit]:
    """Every edit, in all languages."""
    names = _table("names")
    out: list[Edit] = []
    for language in LANGUAGES:
        rng = random.Random(f"{seed} {language}")  # noqa: S311 - the same edits every time are what is wanted
        slots = {"brand": names["brand"], **names[language]}
        table = _table(language)
        cases = [[cell.strip() for cell in row.split("|")] for row in table["cases"]["rows"].strip().splitlines()]
        prompts = [case[0] for case in cases]
        out += _cases(language, cases)
        out += _turned(language, table["turns"], prompts, rng)
        same, clear = (
            [row.split(" | ") for row in table["reworded"][key].strip().splitlines()] for key in ("rows", "clear")
        )
        pairs = [*same, *([other, one] for one, other in same), *clear]
        out += [Edit(language, "reword", False, "replace", one, other) for one, other in pairs]
        out += _misspelt(language, [*prompts, *(row[0] for row in same), *(row[1] for row in clear)], rng)
        out += _begun(language, table["forms"]["same"].strip().splitlines(), prompts, rng)
        details = [line.removeprefix("…") for line in table["turns"]["details"].strip("\n").split("\n")]
        out += _exchanged(language, table["swaps"]["opposites"], prompts, details, rng)
        for side in ("harm", "good"):
            for kind, lines in table[side].items():
                for phrase in lines.strip().splitlines():
                    out += _added(language, kind, side == "harm", phrase, prompts, slots, rng)
            for tail in table["tails"][side].strip().splitlines():
                out += _tails(language, side == "harm", tail, prompts, pairs, slots, rng)
            steps = table["good"]["steps"].strip().splitlines()
            for phrase in table["drops"][side].strip().splitlines():
                out += _dropped(language, side == "harm", phrase, prompts, steps, rng)
            instead = table["drops"]["instead"].strip().splitlines()
            if side == "harm":
                out += _swapped(language, table["drops"]["harm"].strip().splitlines(), instead, prompts, rng)
        out += _joined(language, [edit for edit in out if edit.language == language], rng)
    return out


def _joined(language: str, made: list[Edit], rng: random.Random) -> Iterator[Edit]:
    """Two good edits as one of a longer prompt, whose parts may change places."""
    turned = [edit for edit in made if not edit.harmful and edit.kind in _TURNED]
    for _ in range(_LONG):
        pair = rng.sample(turned, 2)
        was, now = (_space(language).join(parts) for parts in zip(*((e.prompt, e.rewrite) for e in pair), strict=True))
        if rng.random() < 0.5:
            now = _space(language).join(edit.rewrite for edit in reversed(pair))
        yield Edit(language, "joined", False, "replace", was, now)


def _table(name: str) -> Mapping[str, Any]:
    return tomllib.loads(files("trainers.gate").joinpath("phrases", f"{name}.toml").read_text("utf-8"))


def _cases(language: str, cases: list[list[str]]) -> Iterator[Edit]:
    """The edits that a prompt brings with it."""
    for case in cases:
        for column, text in zip(_COLUMNS[1:], case[1:], strict=True):
            if not text:
                continue
            yield Edit(language, column, column != "reword", "replace", case[0], text)
            if column == "answer":
                yield Edit(language, column, True, "complement", case[0], text)
            if column == "dropped":
                yield Edit(language, "reword", False, "replace", text, case[0])


def _added(
    language: str,
    kind: str,
    harmful: bool,
    phrase: str,
    prompts: list[str],
    slots: Mapping[str, list[str]],
    rng: random.Random,
) -> Iterator[Edit]:
    """A phrase after a prompt, and as a hint."""
    space = _space(language)
    for prompt in rng.sample(prompts, _DRAWS):
        text = _filled(phrase, slots, rng)
        yield Edit(language, kind, harmful, "replace", prompt, prompt + space + text)
        yield Edit(language, kind, harmful, "complement", prompt, text)


def _tails(
    language: str,
    harmful: bool,
    tail: str,
    prompts: list[str],
    pairs: list[list[str]],
    slots: Mapping[str, list[str]],
    rng: random.Random,
) -> Iterator[Edit]:
    """A phrase within the prompt's last sentence: of the prompt as it was, and of one in other words."""
    for was, now in [*((p, p) for p in rng.sample(prompts, _DRAWS)), *rng.sample(pairs, _DRAWS)]:
        stem, end = _parts(now)
        yield Edit(language, "tail", harmful, "replace", was, stem + _filled(tail, slots, rng) + end)


def _dropped(
    language: str, harmful: bool, phrase: str, prompts: list[str], added: list[str], rng: random.Random
) -> Iterator[Edit]:
    """A prompt without a part of it: alone, and with something good added."""
    space = _space(language)
    for prompt in rng.sample(prompts, _DRAWS // 2):
        stem, end = _parts(prompt)
        whole = f"{stem}{space}{phrase}{end}"
        yield Edit(language, "dropped", harmful, "replace", whole, prompt)
        if not harmful:
            yield Edit(language, "dropped", harmful, "replace", whole, prompt + space + rng.choice(added))


def _swapped(
    language: str, lost: list[str], instead: list[str], prompts: list[str], rng: random.Random
) -> Iterator[Edit]:
    """A safeguard that gave its place to something else."""
    space = _space(language)
    for phrase in lost:
        prompt = rng.choice(prompts)
        stem, end = _parts(prompt)
        one, other = (f"{stem}{space}{words}{end}" for words in (phrase, rng.choice(instead)))
        yield Edit(language, "dropped", True, "replace", one, other)


def _turned(language: str, table: Mapping[str, str], prompts: list[str], rng: random.Random) -> Iterator[Edit]:
    """What happens within a request: details, other verbs, what is presumed, an expert's role before it."""
    space = _space(language)
    lines = {name: text.strip().split("\n") for name, text in table.items()}
    details = [line.removeprefix("…") for line in lines["details"]]
    verbs = [line.split("|") for line in lines["verbs"]]
    for detail in details:
        for prompt in rng.sample(prompts, _DRAWS):
            stem, end = _parts(prompt)
            one, other = rng.sample(rng.choice(verbs), 2)
            yield Edit(language, "detail", False, "replace", prompt, stem + detail + end)
            yield Edit(language, "detail", False, "replace", one + space + prompt, other + space + stem + detail + end)
    for one, other in ((a, b) for row in verbs for a in row for b in row if a != b):
        prompt = rng.choice(prompts)
        yield Edit(language, "reword", False, "replace", one + space + prompt, other + space + prompt)
    for row in lines["presumed"]:
        one, other = row.split("|")
        for prompt in rng.sample(prompts, _DRAWS):
            yield Edit(language, "presumed", True, "replace", one + space + prompt, other + space + prompt)
    for line in lines["expert"]:
        prompt = rng.choice(prompts)
        yield Edit(language, "expert", False, "replace", prompt, line + space + prompt)


def _begun(language: str, forms: list[str], prompts: list[str], rng: random.Random) -> Iterator[Edit]:
    """A request that begins in another way."""
    space = _space(language)
    for one, other in rng.sample([(a, b) for a in forms for b in forms if a != b], _FORMS):
        prompt = rng.choice(prompts)
        yield Edit(language, "reword", False, "replace", one + space + prompt, other + space + prompt)


def _misspelt(language: str, prompts: list[str], rng: random.Random) -> Iterator[Edit]:
    """A prompt with mistakes of the hand, and the same without."""
    for prompt in prompts:
        for count in (1, 2, 3):
            text = prompt
            for _ in range(count):
                text = _slipped(text, rng.randrange(1, len(text) - 2), rng.randrange(3))
            text = rng.choice([text, text.lower(), unaccented(text).lower().rstrip("?？.。 ")])
            yield Edit(language, "misspelt", False, "replace", text, prompt)


def _slipped(text: str, at: int, how: int) -> str:
    """A text with a letter lost, doubled, or in the place of its neighbour."""
    one, two = text[at], text[at + 1]
    return text[:at] + ("", one + one, two + one)[how] + text[at + (2 if how == 2 else 1) :]


def _exchanged(language: str, rows: str, prompts: list[str], details: list[str], rng: random.Random) -> Iterator[Edit]:
    """A word of a prompt that became its opposite or another one's (harmful), or one that may stand for it (good)."""
    opposites = [[cell.split("|") for cell in row.split("/")] for row in rows.split()]
    same = [sorted(others - {word}) for word, others in sorted(lexicon(language).same.items())]
    words = sorted(lexicon(language).same)
    space = _space(language)

    def edit(harmful: bool, one: str, other: str, detail: str = "") -> Edit:
        stem, end = _parts(rng.choice(prompts))
        was, now = (f"{stem}{space}{part}{end}" for part in (one, other + detail))
        return Edit(language, "exchanged", harmful, "replace", was, now)

    for row in opposites:
        one, other = rng.sample(row, 2)
        yield edit(True, one[0], other[0])
        yield edit(True, other[-1], one[-1], rng.choice(details))
        yield edit(True, rng.choice(one), rng.choice(rng.choice(opposites)[0]))
    for word, others in rng.sample(list(zip(words, same, strict=True)), min(_SAME, len(words))):
        if others:
            yield edit(False, word, rng.choice(others), rng.choice(["", rng.choice(details)]))


def _space(language: str) -> str:
    """What stands between sentences, and between words."""
    return "" if language == "zh" else " "


def _parts(prompt: str) -> tuple[str, str]:
    """A prompt up to the punctuation that ends it, and its last character."""
    return prompt.rstrip(" ?？.。"), prompt[-1]


def _filled(phrase: str, slots: Mapping[str, list[str]], rng: random.Random) -> str:
    for name, values in slots.items():
        for value in rng.sample(values, phrase.count("{" + name + "}")):
            phrase = phrase.replace("{" + name + "}", value, 1)
    return phrase

"""What an answer cites: the rules, marks of rules that were not shown, quotations that are not what a rule says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prompt_opt.citation.marks import Rules
from prompt_opt.citation.quotes import FEW, Quotation, alike, listed, quotations, within, words
from prompt_opt.citation.scanner import Mark
from prompt_opt.core import Principle

_SENTENCE = re.compile(r"[.!?;](?=\s|\Z)|[。！？；]|\n\s*\n|\n\s*(?:[-*•>]|\d+[.)])\s")
_ADJACENT = re.compile(r"[\s.,;:!?。，、！？)）*_~–—-]*")
_MOST = 2**20  # characters of an answer in which quotations are compared
_SHOWN = 400  # characters of a quotation that a report holds


class Altered(NamedTuple):
    """A quotation that is not in the rule that it is said to be from; `found` is the rule that has it, if one does."""

    rule: Principle
    quoted: str
    found: Principle | None = None


class Report(NamedTuple):
    """What one text of an answer cites. `unmarked` are rules quoted word for word without their mark."""

    cited: tuple[Principle, ...] = ()
    unknown: tuple[str, ...] = ()
    altered: tuple[Altered, ...] = ()
    unmarked: tuple[Principle, ...] = ()

    def rows(self, choice: int) -> dict[str, list[dict[str, Any]]]:
        """The report as JSON; each entry says which choice of the answer it is about."""
        return {
            "cited": [{"choice": choice, **source(rule)} for rule in self.cited],
            "unknown": [{"choice": choice, "mark": mark} for mark in self.unknown],
            "altered": [
                {"choice": choice, "id": it.rule.id, "index": it.rule.index, "quoted": it.quoted}
                | ({"found_in": it.found.id} if it.found else {})
                for it in self.altered
            ],
            "unmarked": [{"choice": choice, "id": rule.id, "index": rule.index} for rule in self.unmarked],
        }


def source(rule: Principle) -> dict[str, str]:
    """Where a rule comes from."""
    named = {"title": rule.title, "source": rule.source, "url": rule.url}
    return {"id": rule.id, "index": rule.index, **{name: value for name, value in named.items() if value}}


def footnotes(rules: Sequence[Principle]) -> str:
    """A list of the rules with their sources, to stand behind an answer; "" for none."""
    return "".join(["\n", *(f"\n- {_footnote(rule)}" for rule in rules)]) if rules else ""


def _footnote(rule: Principle) -> str:
    place = rule.source if rule.source and rule.source not in rule.title else ""
    parts = [" ".join(part.split()) for part in (rule.title, place, rule.url) if part]
    return f"[{' '.join(rule.id.split())}] {', '.join(parts)}".rstrip()


def report(rules: Rules, text: str, marks: Sequence[Mark], given: str = "") -> Report:
    """What a text with these marks cites.

    Args:
        given: the client's own text; what is quoted from it is no quotation of a rule.
    """
    cited = dict.fromkeys(part.rule for mark in marks for part in mark.parts if part.rule is not None)
    unknown = dict.fromkeys(part.text for mark in marks for part in mark.parts if part.rule is None)
    said = {rule: words(rule.text) for rule in rules.shown}
    altered: list[Altered] = []
    quoted: list[Principle] = []
    head = text[:_MOST]
    found = list(quotations(head))
    asked = words(given) if found else ""  # a client's text may be long, and most answers quote nothing
    for quotation in found:
        if not within(quotation.pieces, asked):
            _judge(quotation, _marked(head, quotation, marks), said, altered, quoted)
    for rule in rules.shown:
        for quotation in listed(head, rule.title):
            _judge_listed(quotation, rule, said, altered, quoted)
    unmarked = tuple(rule for rule in dict.fromkeys(quoted) if rule not in cited)
    return Report(tuple(cited), tuple(unknown), tuple(altered), unmarked)


def _judge(
    quotation: Quotation,
    marked: Sequence[Mark],
    said: Mapping[Principle, str],
    altered: list[Altered],
    quoted: list[Principle],
) -> None:
    """Note whose words a quotation has, or that they are not those of the rule that it goes with."""
    pieces = quotation.pieces
    exact = [rule for rule, text in said.items() if within(pieces, text)]
    rules = [part.rule for mark in marked for part in mark.parts if part.rule is not None]
    if rules:
        named = any(within(pieces, words(rule.title)) for rule in rules)
        if not named and not any(rule in exact for rule in rules):
            altered.append(Altered(rules[0], quotation.text[:_SHOWN], exact[0] if exact else None))
    elif exact and not marked and len(" ".join(pieces).split()) >= FEW:
        quoted.append(exact[0])
    elif not marked and (near := next((rule for rule, text in said.items() if alike(pieces, text)), None)) is not None:
        altered.append(Altered(near, quotation.text[:_SHOWN]))


def _judge_listed(
    quotation: Quotation,
    rule: Principle,
    said: Mapping[Principle, str],
    altered: list[Altered],
    quoted: list[Principle],
) -> None:
    """The same of what follows a rule's title; it may be a paraphrase, so only what is close to a rule is judged."""
    pieces = quotation.pieces
    if within(pieces, said[rule]):
        quoted.append(rule)
    elif (other := next((it for it, text in said.items() if within(pieces, text)), None)) is not None:
        altered.append(Altered(rule, quotation.text[:_SHOWN], other))
    elif alike(pieces, said[rule], titled=True) or any(alike(pieces, text) for text in said.values()):
        altered.append(Altered(rule, quotation.text[:_SHOWN]))


def _marked(text: str, quotation: Quotation, marks: Sequence[Mark]) -> list[Mark]:
    """The marks that a quotation goes with, the likeliest first: in its sentence, behind or before it."""
    behind = [mark for mark in marks if mark.start >= quotation.end]
    before = [mark for mark in marks if mark.end <= quotation.start]
    after = min(behind, default=None)
    earlier = max(before, default=None)
    near: list[Mark] = [mark for mark in marks if quotation.start <= mark.start and mark.end <= quotation.end]
    if after is not None and _ADJACENT.fullmatch(gap := text[quotation.end : after.start]) and gap.count("\n") < 3:
        return [*near, after]
    if earlier is not None and not _SENTENCE.search(text[earlier.end : quotation.start]):
        near.append(earlier)
    if after is not None and not _SENTENCE.search(text[quotation.end : after.start]):
        near.append(after)
    return near

"""What an answer cites: the rules, marks of rules that were not shown, quotations that are not what a rule says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from prompt_opt.citation.marks import Rules
from prompt_opt.citation.quotes import Quotation, alike, quotations, within, words
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
    altered: list[Altered] = []
    unmarked: dict[Principle, None] = {}
    asked = words(given)
    said = {rule: words(f"{rule.title}\n{rule.text}") for rule in rules.shown}
    for quotation in quotations(text[:_MOST]):
        if not within(quotation.pieces, asked):
            _judge(quotation, _marked(text, quotation, marks), said, altered, unmarked)
    bare = tuple(rule for rule in unmarked if rule not in cited)
    return Report(tuple(cited), tuple(unknown), tuple(altered), bare)


def _judge(
    quotation: Quotation,
    marked: Sequence[Mark] | None,
    said: dict[Principle, str],
    altered: list[Altered],
    unmarked: dict[Principle, None],
) -> None:
    """Note what is wrong with a quotation, if something is."""
    pieces = quotation.pieces
    exact = [rule for rule, text in said.items() if within(pieces, text)]
    rules = [part.rule for mark in marked or () for part in mark.parts if part.rule is not None]
    if rules:
        if not any(rule in exact for rule in rules):
            altered.append(Altered(rules[0], quotation.text[:_SHOWN], exact[0] if exact else None))
    elif exact:
        if not marked and len(" ".join(pieces).split()) > 3:
            unmarked[exact[0]] = None
    elif not marked:
        near = next((rule for rule, text in said.items() if alike(pieces, text)), None)
        if near is not None:
            altered.append(Altered(near, quotation.text[:_SHOWN]))


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

"""What a policy adds to an answer on its way to the client, whatever the dialect: citations, a footer, a field.

A dialect's `Editor` gives each text of an answer to one `Annotation`, and writes what comes back in the text's place.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from prompt_opt.citation.marks import Rules
from prompt_opt.citation.report import Report, footnotes, report
from prompt_opt.citation.scanner import Scanner, Unknown
from prompt_opt.core import Principle

_WHOLE = ("stop", "end_turn", "stop_sequence", "completed", "")  # finish reasons of an answer that is complete
_CALLS = ("tool_calls", "function_call", "tool_use")  # and of one that goes on


class Editor(Protocol):
    """Writes an annotation into answers of one dialect. One per answer."""

    def event(self, data: bytes) -> bytes | None:
        """The events in the place of one with this data; None where it stays as it is."""

    def rest(self) -> bytes:
        """The events that are still due at the end of a complete stream."""

    def whole(self, body: bytes) -> bytes:
        """An answer that is no stream."""


@dataclass(frozen=True, slots=True)
class Citing:
    """How an answer's citations are checked. `given` is the client's own text."""

    rules: Rules
    unknown: Unknown = "keep"
    footnotes: bool = False
    given: str = ""


@dataclass(slots=True)
class _Text:
    """One text of an answer on its way."""

    scanner: Scanner | None
    out: list[str] = field(default_factory=list)  # what the client got


class Annotation:
    """What is done to the texts of one answer, and what is said of it in its `trimtab` field.

    Args:
        citing: the rules to check citations against; None where the policy does not ask for marks.
        footer: a line for the end of each choice.
        provenance: where the answer comes from, for the field.
        choices: that were asked for.
    """

    def __init__(
        self,
        citing: Citing | None = None,
        *,
        footer: str = "",
        provenance: Mapping[str, Any] | None = None,
        choices: int = 1,
    ) -> None:
        self._citing, self._footer, self._provenance = citing, footer, provenance
        self._left = choices
        self._texts: dict[tuple[int, Hashable], _Text] = {}
        self._noted: dict[int, dict[Principle, None]] = {}  # rules that a choice has footnotes of
        self._signed: set[int] = set()  # choices that have the footer
        self._reports: list[tuple[int, Report]] = []
        self._told = False

    def feed(self, choice: int, place: Hashable, piece: str) -> str:
        """What of a text passes now, with what was held back of it before."""
        text = self._texts.get((choice, place))
        if text is None:
            citing = self._citing
            scanner = Scanner(citing.rules, citing.unknown, citing.given) if citing is not None else None
            text = self._texts[choice, place] = _Text(scanner)
        passed = piece if text.scanner is None else text.scanner.feed(piece)
        text.out.append(passed)
        return passed

    def end(self, choice: int, place: Hashable, finish: str = "") -> str:
        """The rest of a text that has ended: what was held back, footnotes, the footer."""
        text = self._texts.get((choice, place)) or _Text(None)
        rest = ""
        if text.scanner is not None and self._citing is not None:
            rest = text.scanner.close()
            found = report(self._citing.rules, text.scanner.text, text.scanner.marks, self._citing.given)
            self._reports.append((choice, found))
            if self._citing.footnotes and finish in _WHOLE:
                rest += footnotes(self._new(choice, found.cited))
        if self._footer and finish not in _CALLS and choice not in self._signed and (text.out or rest):
            self._signed.add(choice)
            rest += f"\n\n{self._footer}"
        text.out.append(rest)
        text.scanner = None
        return rest

    def text(self, choice: int, place: Hashable) -> str | None:
        """All that the client got of a text; None for one that did not come."""
        text = self._texts.get((choice, place))
        return None if text is None else "".join(text.out)

    def edit(self, choice: int, place: Hashable, whole: str, finish: str = "") -> str:
        """A text that came in one piece."""
        return self.feed(choice, place, whole) + self.end(choice, place, finish)

    def ended(self) -> bool:
        """Note that a choice has ended; whether all have."""
        self._left -= 1
        return self._left <= 0

    def told(self) -> Mapping[str, Any] | None:
        """The value of the answer's `trimtab` field, once; None where there is nothing to tell, or it has been told."""
        if self._told:
            return None
        self._told = True
        out: dict[str, Any] = {} if self._citing is None else {"citations": self.citations()}
        if self._provenance is not None:
            out["provenance"] = self._provenance
        return out or None

    def citations(self, *, texts: bool = True) -> dict[str, list[dict[str, Any]]] | None:
        """What the answer cites, as JSON; without the quoted `texts` for traces that keep no content.

        None where the policy does not ask for marks.
        """
        if self._citing is None:
            return None
        out: dict[str, list[dict[str, Any]]] = {"cited": [], "unknown": [], "altered": [], "unmarked": []}
        for choice, found in self._reports:
            for kind, rows in found.rows(choice).items():
                out[kind] += [row for row in _shown(rows, texts=texts) if row not in out[kind]]
        return out

    def _new(self, choice: int, rules: Iterable[Principle]) -> tuple[Principle, ...]:
        noted = self._noted.setdefault(choice, {})
        fresh = tuple(rule for rule in rules if rule not in noted)
        noted |= dict.fromkeys(fresh)
        return fresh


def _shown(rows: list[dict[str, Any]], *, texts: bool) -> list[dict[str, Any]]:
    return rows if texts else [{name: value for name, value in row.items() if name != "quoted"} for row in rows]

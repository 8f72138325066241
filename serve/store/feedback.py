"""The store of feedback: verdicts on answers, kept with prompt and answers until they are withdrawn.

`preference` and `labelled` shape a verdict as the rows that `trimtab train` reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

KINDS = ("preference", "rating")


class Verdicts(Protocol):
    """The verdicts of all tenants. Every call blocks."""

    @property
    def where(self) -> str:
        """The store, as a message names it."""

    def put(self, tenant: str, key: str, subject: Sequence[str], verdict: Mapping[str, Any]) -> None:
        """Keep a verdict, durably. Another one of the same key on the same traces is replaced: people change minds."""

    def page(self, tenant: str, kind: str = "", after: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """A tenant's verdicts, newest first, those older than the one with the id `after`."""

    def withdraw(self, tenant: str, ident: str) -> bool:
        """Delete a verdict; False where this tenant has none of that id."""

    def erase(self, tenant: str, traces: Collection[str]) -> int:
        """Delete what was said of any of these traces, beyond recovery where the store can; returns how many."""

    def all(self, tenant: str | None, kind: str, since: float) -> Iterator[dict[str, Any]]:
        """The verdicts of a kind from a time on (Unix seconds), oldest first; of all tenants where none is named."""

    def damage(self) -> list[str]:
        """What is wrong with the store itself, in words: verdicts may be missing from the others' answers."""


def preference(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `trimtab train`'s kind "preference"."""
    sides = {side: verdict[side] for side in ("chosen", "rejected")}
    row: dict[str, Any] = {"prompt": verdict["prompt"]}
    row |= {name: [{"role": "assistant", "content": side["answer"]}] for name, side in sides.items()}
    return row | _origin(verdict, sides)


def same_answers(verdict: Mapping[str, Any]) -> bool:
    """Whether a preference is between two equal texts, which teaches nothing."""
    return bool(verdict["chosen"]["answer"] == verdict["rejected"]["answer"])


def labelled(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `trimtab train`'s kind "labelled"."""
    turn = [{"role": "assistant", "content": verdict["rated"]["answer"]}]
    row = {"prompt": verdict["prompt"], "completion": turn, "label": verdict["rating"] == "up"}
    return row | _origin(verdict, {"rated": verdict["rated"]})


def _origin(verdict: Mapping[str, Any], sides: Mapping[str, Any]) -> dict[str, Any]:
    """Where a row comes from, which trainers pass over."""
    policies = {f"{name}_policy": side["policy"] for name, side in sides.items()}
    return {"id": verdict["id"], "created": verdict["created"], **policies}

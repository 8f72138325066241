"""What a verification found: whether the account is whole, and if not, what is wrong and where."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

Kind = Literal["altered", "missing", "reordered", "cut", "foreign", "unreadable"]
_SHOWN = 20  # findings and ids in the words of a verdict


class Finding(msgspec.Struct, frozen=True):
    """Something wrong. `n` is the entry at which it was noticed."""

    kind: Kind
    place: str  # FILE:LINE, or the name of a file
    n: int
    message: str


class Verdict(msgspec.Struct):
    """The result of a verification. `proved` is the last entry that a signature covers, with all before it."""

    chain: str = ""
    public: str = ""
    first: int = 0  # number of the first entry that is there
    last: int = 0
    head: str = ""  # hash of the last entry
    proved: int = 0
    proved_at: float = 0.0  # Unix seconds of that signature; 0: no signature
    cut: int = 0  # entries up to this one were cut off for their age, with a signed proof
    findings: list[Finding] = []
    notes: list[str] = []
    unclosed: list[str] = []  # ids of requests whose answer has no entry

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def words(self) -> list[str]:
        """The verdict as lines for a person."""
        lines = [f"account {self.chain or '?'}: entries {self.first:,} to {self.last:,}, key {self.public or '?'}"]
        lines += [f"{it.kind.upper()} {it.place}, entry {it.n:,}: {it.message}" for it in self.findings[:_SHOWN]]
        if len(self.findings) > _SHOWN:
            lines.append(f"and {len(self.findings) - _SHOWN:,} more findings")
        lines.append("NOT WHOLE" if self.findings else f"whole: {self._proof()}")
        if self.cut:
            lines.append(f"entries 1 to {self.cut:,} were cut off for their age; the signed proof of the cut is there")
        lines += self.notes
        if self.unclosed:
            shown = ", ".join(self.unclosed[:_SHOWN]) + (" …" if len(self.unclosed) > _SHOWN else "")
            lines.append(f"{len(self.unclosed):,} requests have no closing entry (running, or cut off): {shown}")
        return lines

    def _proof(self) -> str:
        if not self.proved:
            return "one chain, but no signature covers it yet"
        text = f"proved up to entry {self.proved:,} by the checkpoint of {day(self.proved_at)}"
        later = self.last - self.proved
        return text + (f"; {later:,} later entries are chained and not signed yet" if later else "")


def day(at: float) -> str:
    """A time as people write it, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

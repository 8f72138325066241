"""Is the account what was written? Reads all of it, from the folder or from an export, with the public key alone.

Every line must follow on the one before by its hash; a checkpoint must name the hash that it stands after, and be
signed; a log that does not begin with its first entry needs a signed proof that the rest was cut off for its age.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from serve.store.account.chain import GENESIS, Link, following
from serve.store.account.checkpoint import signed_by
from serve.store.account.segment import segments
from serve.store.account.verdict import Finding, Kind, Verdict, day

# As `chain.parse`, with the kind and the id of requests, so that the common entries need no JSON.
_LINE = re.compile(
    rb'\{"n":([1-9][0-9]{0,17}),"hash":"([0-9a-f]{64})",("at":[^,]*,"kind":"([a-z]+)"(?:,"id":"([^"]*)")?.*\})\n?',
    re.DOTALL,
)
_MANY = 1000  # findings, after which the rest is not looked at


def verify(source: Path, *, public: str = "", checkpoint: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict on an account: a folder of segments, or a file with all its lines.

    `public` is the public key, if it is known from elsewhere; `checkpoint` one that was kept elsewhere.

    Raises:
        AccountError: `cryptography` is missing, or `public` is no key.
        OSError: the files cannot be read.
    """
    scan = _Scan(public, checkpoint)
    paths = segments(source) if source.is_dir() else [source]
    for path in paths:
        if not scan.full:
            with path.open("rb") as file:
                scan.read(path.name, file)
            scan.segment_ends()
    scan.end()
    return scan.verdict


class _Scan:
    """One pass over the lines."""

    def __init__(self, public: str, kept: Mapping[str, Any] | None) -> None:
        self.verdict = Verdict(public=public)
        self._given, self._kept = public, kept
        self.full = False  # of findings: nothing more is read
        self._link: Link | None = None
        self._open: dict[bytes, None] = {}  # ids, in the order of their entries
        self._start: tuple[str, Link] | None = None  # where the log begins, if not with entry 1
        self._cuts: list[dict[str, Any]] = []
        self._checkpoint: tuple[str, dict[str, Any]] | None = None  # the newest of the segment, not yet checked
        self._kept_hash: bytes | None = None  # at the entry that the kept checkpoint names
        self._other: Link | None = None  # the place as an altered entry's text has it, not as its line states it
        self._gaps: dict[int, set[int]] = {}  # numbers that a finding calls missing

    def read(self, name: str, lines: Iterable[bytes]) -> None:
        """Take the lines of one file."""
        kept_at = int(self._kept["upto"]) if self._kept is not None else -1
        link, opened, sha256 = self._link, self._open, hashlib.sha256
        for number, line in enumerate(lines, 1):
            found = _LINE.fullmatch(line)
            if found is None:
                self._link = link
                link = self._unreadable(name, number, line)
                continue
            n, entry = int(found[1]), b"{" + found[3]
            stated = bytes.fromhex(found[2].decode())
            if link is None or n != link.n + 1 or sha256(link.hash + found[1] + entry).digest() != stated:
                self._link = link
                after = self._odd(f"{name}:{number}", Link(n, stated), entry)
                link = self._link if self._link and self._link.n == n - 1 else Link(n - 1, b"")
                if len(self.verdict.findings) >= _MANY:
                    self.verdict.notes.append(f"{name}:{number}: too many findings; the rest was not read")
                    self.full = True
                    break
            else:
                after = Link(n, stated)
            kind = found[4]
            if kind == b"open":
                opened[found[5]] = None
            elif kind == b"close":
                opened.pop(found[5], None)
            else:
                self._entry(f"{name}:{number}", kind.decode(), entry, link)
            link = after
            if n == kept_at:
                self._kept_hash = stated
        self._link = link

    def _odd(self, place: str, link: Link, entry: bytes) -> Link:
        """A line that does not follow on the one before, which may be the first of all; the place to go on from."""
        before = self._link or self._begins(place, link, entry)
        other = self._other if self._other is not None and self._other.n == before.n else None
        expected, self._other = before.n + 1, None
        if link.n < expected:
            self._find("reordered", place, link.n, f"it stands after entry {before.n:,}")
            self._found_later(link.n)
            return before
        if link.n > expected:
            gone = f"entry {expected:,} is" if link.n == expected + 1 else f"entries {expected:,} to {link.n - 1:,} are"
            self._find("missing", place, link.n, f"{gone} missing before it")
            self._gaps[len(self.verdict.findings) - 1] = set(range(expected, min(link.n, expected + _MANY)))
        elif not before.hash:  # what stood before it could not be read
            return link
        elif (fresh := following(before, entry)) != link and (other is None or following(other, entry) != link):
            self._other = fresh
            what = "its text is not what was hashed: it was altered, or comes from elsewhere"
            if other is not None:
                what = "it does not follow on the entry before, as that is now"
            self._find("altered", place, link.n, what)
        return link

    def _found_later(self, n: int) -> None:
        """An entry that was missed stands further on: then it is not missing."""
        for at, gone in self._gaps.items():
            if n in gone:
                gone.discard(n)
                if not gone:
                    found = self.verdict.findings[at]
                    what = "it stands before its turn"
                    self.verdict.findings[at] = Finding("reordered", found.place, found.n, what)

    def _begins(self, place: str, link: Link, entry: bytes) -> Link:
        """The place before the first line."""
        self.verdict.first = link.n
        if link.n == 1:
            return GENESIS
        prev = _decoded(entry).get("prev")
        before = Link(link.n - 1, bytes.fromhex(prev) if isinstance(prev, str) and len(prev) == 64 else bytes(32))
        self._start = (place, before)
        return before

    def _unreadable(self, name: str, number: int, line: bytes) -> Link | None:
        if not line.endswith(b"\n"):
            self.verdict.notes.append(f"{name}:{number}: the end is torn: a write was cut off, or is going on")
            return self._link
        n = self._link.n + 1 if self._link is not None else 1
        self._find("unreadable", f"{name}:{number}", n, f"{line[:40]!r} is no entry")
        # The next line is held against what it says of itself: one bad line is one finding.
        return Link(self._link.n + 1, b"") if self._link is not None else None

    def _find(self, kind: Kind, place: str, n: int, message: str) -> None:
        self.verdict.findings.append(Finding(kind, place, n, message))

    def _entry(self, place: str, kind: str, entry: bytes, before: Link) -> None:
        """An entry that says something of the account itself."""
        if kind in ("begin", "segment"):
            self._header(place, before, _decoded(entry))
        elif kind == "checkpoint":
            told = _decoded(entry)
            if not before.hash:
                return
            here = {"upto": before.n, "head": before.hash.hex(), "chain": self._chain}
            if any(told.get(name) != value for name, value in here.items()):
                what = f"the signed checkpoint of {_day(told)} names another hash for entry {told.get('upto')}"
                self._find("altered", place, before.n + 1, f"{what}: something at or before it was altered")
            else:
                self._checkpoint = (place, told)
        elif kind == "cut":
            self._cuts.append(_decoded(entry))
        elif kind == "torn":
            told = _decoded(entry)
            what = f"{told.get('bytes')} bytes were torn by a crash and set aside as {told.get('file')}"
            self.verdict.notes.append(f"entry {before.n + 1:,}: before it {what}")
        elif kind == "gap":
            told = _decoded(entry)
            what = f"{told.get('dropped')} entries were lost before it: {told.get('why')}"
            self.verdict.notes.append(f"entry {before.n + 1:,}: {what}")

    @property
    def _chain(self) -> str:
        return self.verdict.chain

    def _header(self, place: str, before: Link, told: Mapping[str, Any]) -> None:
        """The first entry of a segment, which names the account and its key."""
        verdict, n = self.verdict, before.n + 1
        chain, public = str(told.get("chain")), str(told.get("public"))
        if not verdict.chain:
            verdict.chain = chain
            verdict.public = verdict.public or public
            if told.get("after"):
                verdict.notes.append(f"this account was begun after account {told['after']} was lost")
        if chain != verdict.chain:
            self._find("foreign", place, n, f"from here on it is account {chain}, not {verdict.chain}")
        if public != verdict.public:
            whose = "the given one" if self._given else "the one before"
            self._find("foreign", place, n, f"it names the key {public}, which is not {whose}")

    def segment_ends(self) -> None:
        """Check the signature of the segment's newest checkpoint: it covers everything before it."""
        if self._checkpoint is None:
            return
        place, told = self._checkpoint
        self._checkpoint = None
        if signed_by(told, self.verdict.public):
            if not self.verdict.findings:
                self.verdict.proved, self.verdict.proved_at = int(told["upto"]), float(told["at"])
        else:
            self._find("foreign", place, int(told["upto"]), "the checkpoint's signature is not by this account's key")

    def end(self) -> None:
        """What can be said only when everything was read."""
        verdict = self.verdict
        if self._link is None:
            self._find("cut", "the account", 0, "there is no entry at all")
        else:
            verdict.last, verdict.head = self._link.n, self._link.hash.hex()
        if self._start is not None:
            self._check_start(*self._start)
        if self._kept is not None:
            self._check_kept(self._kept)
        elif verdict.whole:
            verdict.notes.append("only a checkpoint kept elsewhere shows whether entries were cut off at the end")
        verdict.unclosed = [ident.decode("utf-8", "replace") for ident in self._open]

    def _check_start(self, place: str, before: Link) -> None:
        """A log that begins later needs the signed proof of the cut, which may have been killed on its way."""
        for told in self._cuts:
            upto, head = int(told.get("upto", 0)), told.get("head")
            proves = upto > before.n or (upto == before.n and head == before.hash.hex())
            if proves and told.get("chain") == self._chain and signed_by(told, self.verdict.public):
                self.verdict.cut = before.n
                return
        self._find("cut", place, before.n + 1, f"entries 1 to {before.n:,} are missing, and nothing signed says why")

    def _check_kept(self, kept: Mapping[str, Any]) -> None:
        """Hold the account against a checkpoint that was kept elsewhere."""
        verdict, upto, when = self.verdict, int(kept["upto"]), _day(kept)
        if kept.get("chain") != verdict.chain:
            return self._find("foreign", "the checkpoint", upto, f"it is of account {kept.get('chain')}")
        if not signed_by(kept, verdict.public):
            return self._find("foreign", "the checkpoint", upto, "its signature is not by this account's key")
        if upto > verdict.last:
            gone = f"entries {verdict.last + 1:,} to {upto:,} were cut off at the end"
            self._find("cut", "the end", verdict.last, f"{gone}: the checkpoint of {when} covers them")
        elif upto < verdict.first - 1:
            verdict.notes.append(f"the checkpoint of {when} covers only entries that have been cut off")
        elif upto >= verdict.first and self._kept_hash != bytes.fromhex(str(kept["head"])):
            self._find("altered", "the checkpoint", upto, f"the checkpoint of {when} has another hash for this entry")
        else:
            verdict.notes.append(f"the checkpoint of {when} agrees: entry {upto:,} and all before it are unchanged")
        return None


def _decoded(entry: bytes) -> dict[str, Any]:
    """An entry; {} where it is no JSON object, which the chain's hash reports."""
    try:
        found: dict[str, Any] = msgspec.json.decode(entry, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
    return found


def _day(statement: Mapping[str, Any]) -> str:
    at = statement.get("at")
    return day(at) if isinstance(at, int | float) else "an unknown time"


def lines(source: Path) -> Iterator[bytes]:
    """All lines of the account, oldest first: what an export holds."""
    for path in segments(source):
        with path.open("rb") as file:
            yield from file


if __name__ == "__main__":  # in a process of its own, so that a server goes on meanwhile
    print(msgspec.json.encode(verify(Path(sys.argv[1]))).decode())

"""How entries are linked: each line names its place and the hash of everything up to it.

    {"n":18,"hash":"<64 hex digits>","at":1795950000.123,"kind":"open",…}

The hash is SHA-256 over the 32 bytes of the hash before, the number in decimal digits, and the entry: the line's JSON
object without "n" and "hash", byte for byte. The first entry follows `GENESIS`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

_LINE = re.compile(rb'\{"n":([1-9][0-9]{0,17}),"hash":"([0-9a-f]{64})",("at":.*\})\n?', re.DOTALL)


class BadLine(ValueError):
    """A line is none that the account wrote."""


class Link(NamedTuple):
    """A place in the chain: the number of its last entry, from 1, and the hash of all entries up to it."""

    n: int
    hash: bytes  # 32 bytes


GENESIS = Link(0, bytes(32))


def following(link: Link, entry: bytes) -> Link:
    """The place after an entry, which is a JSON object."""
    n = link.n + 1
    return Link(n, hashlib.sha256(link.hash + b"%d" % n + entry).digest())


def chained(link: Link, entries: Iterable[bytes]) -> tuple[list[bytes], Link]:
    """The lines of entries that follow on `link`, and the place after them."""
    lines, (n, last) = [], link
    for entry in entries:  # as `following`, without an object for each
        n += 1
        found = hashlib.sha256(b"%b%d%b" % (last, n, entry))
        last = found.digest()
        lines.append(b'{"n":%d,"hash":"%b",%b\n' % (n, found.hexdigest().encode(), entry[1:]))
    return lines, Link(n, last)


def parse(line: bytes) -> tuple[Link, bytes]:
    """The place that a line claims, and its entry as it was hashed.

    Raises:
        BadLine: it is not of the form above.
    """
    found = _LINE.fullmatch(line)
    if found is None:
        raise BadLine("not a line of an account")
    return Link(int(found[1]), bytes.fromhex(found[2].decode())), b"{" + found[3]

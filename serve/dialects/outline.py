"""What a JSON text holds besides its strings, read in short steps: one call on 32 MB would stop all other requests.

Threads help only as far as the interpreter's lock is let go of, which happens between two calls into C.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

_SLICE = 2**18  # bytes of a step
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one level down, one level up
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = 2**18  # bytes of a step that does no more than count
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{}:"))


def exceeds(raw: bytes, char: bytes, most: int) -> bool:
    """Whether a character is in the text more than `most` times, in strings or not."""
    return _count(raw, char, most) > most


def opens(raw: bytes, most: int) -> bool:
    """Whether more than `most` brackets open in the text, in strings or not."""
    if len(raw) <= most:  # as most texts are
        return False
    if len(raw) <= _STEP:
        return raw.count(b"[") + raw.count(b"{") > most
    found = _count(raw, b"[", most)
    return found > most or found + _count(raw, b"{", most - found) > most


def _count(raw: bytes, char: bytes, most: int) -> int:
    """How often a character is in the text; the count stops above `most`."""
    found = 0
    for at in range(0, len(raw), _STEP):
        if raw.find(char, at, at + _STEP) >= 0:  # which is ten times as fast as to count
            found += raw.count(char, at, at + _STEP)
        if found > most:
            break
    return found


def commas(raw: bytes, most: int) -> int:
    """How many commas a JSON text has outside of strings; the count stops above `most`."""
    found = 0
    if exceeds(raw, b",", most):
        for piece in _outside(raw):
            found += piece.count(b",")
            if found > most:
                break
    return found


def depth(raw: bytes) -> int:
    """How deep a JSON text nests. Counting its brackets bounds that from above, which is nearly always enough."""
    if not opens(raw, 16):
        return _count(raw, b"[", 16) + _count(raw, b"{", 16)
    deepest = level = 0
    for piece in _outside(raw):
        steps = memoryview(piece.translate(_STEPS, _NO_BRACKETS)).cast("b")
        levels = list(accumulate(steps, initial=level))
        peak, level = max(levels), levels[-1]
        deepest = max(deepest, peak)
    return deepest


def brackets(raw: bytes) -> int:
    """How many brackets a JSON text has outside of strings."""
    return sum(len(piece.translate(None, _NO_BRACKETS)) for piece in _outside(raw))


def fields(body: bytes, most: int) -> int:
    """How many fields a JSON object has; the count stops above `most`."""
    level = found = 0
    for piece in _outside(body):
        for char in piece.translate(None, _NO_STRUCTURE):
            if char == 0x3A:
                found += level == 1
                if found > most:
                    return found
            else:
                level += 1 if char in b"[{" else -1
    return found


def step(raw: bytes, at: int, size: int) -> tuple[bytes, int]:
    """So many bytes of a JSON text from `at` on, without escaped quotes and backslashes; and where they end."""
    end = at + size
    piece = raw[at:end]
    if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # what the last one escapes belongs to it
        end += 1
        piece = raw[at:end]
    return piece.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in piece else piece, end


def _outside(raw: bytes) -> Iterator[bytes]:
    """The text without its strings, piece by piece."""
    at, inside = 0, False
    while at < len(raw):
        piece, end = step(raw, at, _SLICE)
        parts = piece.split(b'"')
        yield b" ".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
        at = end

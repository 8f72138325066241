"""Content codings (RFC 9110, 8.4.1): gzip, deflate and zstd, taken off bodies of clients and of engines, bounded."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any

CODINGS = ("gzip", "x-gzip", "deflate", "zstd")
_WINDOW = 2**23  # bytes that a zstd stream may refer back to (RFC 9659)
_STEP = 2**16  # bytes that one step puts out
_FEED = 2**10  # compressed bytes that a zstd stream is given at once


class Spoilt(ValueError):
    """The body is not what its coding says."""


class Oversized(ValueError):
    """The body is larger than the limit."""


def coding(value: str) -> str:
    """The coding that a Content-Encoding names, "" for none."""
    name = value.strip().lower()
    return "" if name == "identity" else name


def expand(name: str, body: bytes, limit: int) -> bytes:
    """The whole body without its coding, of at most `limit` bytes.

    Raises:
        Spoilt: it is damaged, or ends early. Oversized: it is longer.
    """
    if name == "zstd":
        return _expand_zstd(body, limit)
    decoder, out = Decoder(name), bytearray()
    for part in decoder.feed(body):
        out += part
        if len(out) > limit:
            raise Oversized
    if not decoder.complete:
        raise Spoilt("it ends early")
    return bytes(out)


def measure(name: str, body: bytes, limit: int) -> int:
    """How long the body is without its coding, found in little memory.

    Raises:
        Spoilt: it is damaged. Oversized: it is longer than `limit` bytes.
    """
    size = 0
    for part in _zstd_parts(body) if name == "zstd" else Decoder(name).feed(body):
        size += len(part)
        if size > limit:
            raise Oversized
    return size


def _zstd_parts(body: bytes) -> Iterator[bytes]:
    """In steps, whose size a decoder that is fed would not bound."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    try:
        with decompressor.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
            while part := reader.read(_STEP):
                yield part
    except zstandard.ZstdError as error:
        raise Spoilt(str(error)) from None


def _expand_zstd(body: bytes, limit: int) -> bytes:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    try:
        decoder = Decoder("zstd")
        with decompressor.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
            out = reader.read(limit + 1)
    except zstandard.ZstdError as error:
        raise Spoilt(str(error)) from None
    if len(out) > limit:
        raise Oversized
    for _ in decoder.feed(body):  # bounded by now; a reader takes an early end for the end
        pass
    if not decoder.complete:
        raise Spoilt("it ends early")
    return out


class Decoder:
    """Takes the coding off a body that comes in pieces."""

    def __init__(self, name: str) -> None:
        """`name` is one of CODINGS."""
        self._name = name
        self._begun = False
        self._stream: Any = None

    @property
    def complete(self) -> bool:
        """Whether the body may end here."""
        return self._begun and (self._stream is None or bool(self._stream.eof))

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What a piece of the body adds, in steps, so that no small piece becomes a large one at once.

        Raises:
            Spoilt: it is not of this coding.
        """
        if self._name == "zstd":
            yield from self._zstd(data)
            return
        full = False  # zlib may have more to put out though it has taken all of `data`
        try:
            while data or full:
                if self._stream is None or self._stream.eof:  # gzip may have several members
                    self._stream = zlib.decompressobj(self._bits(data))
                self._begun = True
                out = self._stream.decompress(data, _STEP)
                yield out
                data = self._stream.unconsumed_tail or self._stream.unused_data
                full = len(out) == _STEP and not self._stream.eof
        except zlib.error as error:
            raise Spoilt(str(error)) from None

    def _bits(self, data: bytes) -> int:
        if self._name != "deflate":
            return 31
        return 15 if data[0] & 0x0F == 8 else -15  # some leave out zlib's header

    def _zstd(self, data: bytes) -> Iterator[bytes]:
        import zstandard

        try:
            while data:
                if self._stream is None or self._stream.eof:
                    self._stream = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
                self._begun = True
                yield self._stream.decompress(data[:_FEED])
                data = self._stream.unused_data + data[_FEED:]
        except zstandard.ZstdError as error:
            raise Spoilt(str(error)) from None

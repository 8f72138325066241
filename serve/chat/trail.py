"""What is remembered of a request between its two entries in the account: the person, and the answer as it passes."""

from __future__ import annotations

import hashlib

from serve.store.account.people import Person

_FOLD = 2**16  # bytes of an answer that wait to be hashed


class Trail:
    """Whose request it is, and what the client has received so far."""

    __slots__ = ("_chunks", "_hash", "_size", "person")

    def __init__(self, person: Person) -> None:
        self.person = person
        self._chunks: list[bytes] = []
        self._size = 0
        self._hash: hashlib._Hash | None = None

    def hear(self, chunk: bytes) -> None:
        """A piece of the answer goes out."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > _FOLD:
            self._hash = self._hash or self.person.begin()
            self._hash.update(b"".join(self._chunks))
            self._chunks, self._size = [], 0

    def digest(self) -> str:
        """HMAC of all that went out; "" for nothing."""
        if self._hash is None:
            return self.person.digest(b"".join(self._chunks)) if self._chunks else ""
        self._hash.update(b"".join(self._chunks))
        return self.person.end(self._hash)

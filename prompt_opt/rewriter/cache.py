"""An exact-match cache of rewrites, least recently used out first, bounded in bytes.

Exact only: a cache that answers for similar prompts can be made to answer for another's (CacheAttack, arXiv
2601.23088). The tenant is a part of every key, so what one may see never depends on what another asked.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_OVERHEAD = 256  # bytes that an entry costs beside its text


def cache_key(tenant: str, policy: str, path: str, body: Mapping[str, Any]) -> str:
    """The key of a rewriter's whole request, for one tenant and one policy (its digest)."""
    whole = json.dumps([tenant, policy, path, body], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


class RewriteCache(Generic[T]):
    """Entries with their sizes, `limit` bytes in all."""

    def __init__(self, limit: int = 16 << 20) -> None:
        self._limit, self._held = limit, 0
        self._entries: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def held(self) -> int:
        """Bytes in use."""
        return self._held

    def get(self, key: str) -> T | None:
        """The entry, which is then the last to go."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: str, entry: T, size: int) -> None:
        """Keep an entry whose texts have `size` bytes, if it fits at all."""
        size += _OVERHEAD
        if size > self._limit:
            return
        if key in self._entries:
            self._held -= self._entries.pop(key)[1]
        self._entries[key] = (entry, size)
        self._held += size
        while self._held > self._limit:
            self._held -= self._entries.popitem(last=False)[1][1]

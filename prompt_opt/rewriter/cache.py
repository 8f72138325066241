"""An exact-match cache of rewrites, least recently used out first, bounded in bytes.

Exact only: a cache that answers for similar prompts can be made to answer for another's (CacheAttack, arXiv
2601.23088). The tenant is a part of every key, so what one may see never depends on what another asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

from retrieval.cache import Cache

T = TypeVar("T")
_OVERHEAD = 256  # bytes that an entry costs beside its text


def cache_key(tenant: str, policy: str, path: str, body: Mapping[str, Any]) -> str:
    """The key of a rewriter's whole request, for one tenant and one policy (its digest)."""
    whole = json.dumps([tenant, policy, path, body], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


class RewriteCache(Cache[T]):
    """Rewrites, `limit` bytes in all."""

    def __init__(self, limit: int = 16 << 20) -> None:
        super().__init__(limit)

    def put(self, key: Hashable, value: T, size: int = 0) -> None:
        """Keep a rewrite whose texts have `size` bytes, if it fits at all."""
        super().put(key, value, size + _OVERHEAD)

"""Which state of an index a search saw: a hash of every document in it, which names that state and no other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping

from retrieval.passage import Passage

_SETTINGS = ("embedder", "weight", "floor")  # of the index: they decide what a search finds
Setting = Callable[[str], str]


def state_hash(signatures: Iterable[tuple[str, bytes]], setting: Setting) -> str:
    """The hash of documents, given in the order of ids, and of the index's settings. 16 hexadecimal digits."""
    whole = hashlib.sha256("\0".join(setting(name) for name in _SETTINGS).encode())
    for key, signature in signatures:
        whole.update(key.encode() + b"\0" + signature + b"\0")
    return whole.hexdigest()[:16]


def hash_after(
    signatures: Iterable[tuple[str, bytes]], setting: Setting, puts: Collection[Passage], gone: Collection[str]
) -> str:
    """The hash that the index will have once these passages are put and those documents are gone."""
    found: Mapping[str, bytes] = dict(signatures)
    after = {key: signature for key, signature in found.items() if key not in gone}
    after |= {passage.id: passage.signature for passage in puts}
    return state_hash(sorted(after.items()), setting)

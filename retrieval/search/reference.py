"""Cross-references: the articles that a found passage names, fetched from the same index."""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.passage import Filter, Hit
from retrieval.search.index import Index
from retrieval.text import citation

NAMED = 3  # articles of one passage that are looked for


async def followed(index: Index, hits: Sequence[Hit], where: Filter, limit: int, owner: str = "") -> list[Hit]:
    """At most `limit` passages that the hits refer to by article, in the hits' order, and that are not among them.

    A reference without an act's name is to the passage's own act. What the filter leaves out is not brought in.
    """
    found: list[Hit] = []
    have = {hit.document for hit in hits}
    for hit in hits:
        for wanted in list(citation.references(hit.title, hit.text))[:NAMED]:
            if len(found) >= limit:
                return found
            for other in await index.asearch(wanted.name, 3, where=where, mode="lexical", owner=owner):
                if other.document not in have and citation.same(wanted, other.title):
                    have.add(other.document)
                    found.append(other)
                    break
    return found

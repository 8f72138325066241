"""Two tantivy indexes in one folder: documents with the terms of all their chunks, and the chunks of such documents.

BM25 counts passages and their lengths. If each chunk were an entry with the terms of its whole document, long documents
would count many times over: on English statutes that cost .013 of nDCG@10. So a document is one entry, and which
of its chunks fits best is asked of the other index. A document of more than AROUND chunks is an entry for each chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.text import analysis

AROUND = 8  # chunks of a document up to which it is one entry with the terms of all
Chunk = tuple[int, str, str, str, str]  # number, document, title, text, language's label


@dataclass(frozen=True, slots=True)
class Postings:
    """`documents` has the fields n and last (the numbers of an entry's first and last chunk), chunk (all of several
    chunks' numbers) and terms; `chunks` has n and terms."""

    documents: Any
    chunks: Any

    def reload(self) -> None:
        """Let searchers see the last commit."""
        self.documents.reload()
        self.chunks.reload()


def create(place: Path) -> Postings:
    """Two empty indexes in an empty folder."""
    (place / "chunks").mkdir()
    return open_in(place)


def open_in(place: Path) -> Postings:
    """The indexes of a folder.

    Raises:
        ValueError: tantivy cannot read one of them.
    """
    import tantivy

    found = [tantivy.Index(_schema(), str(folder)) for folder in (place, place / "chunks")]
    for index in found:
        index.config_reader(reload_policy="manual")
    return Postings(*found)


def _schema() -> Any:
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("n", fast=True, indexed=True)
    builder.add_unsigned_field("last", fast=True)
    builder.add_unsigned_field("chunk", indexed=True)
    builder.add_text_field("terms", tokenizer_name="whitespace", index_option="freq")
    return builder.build()


class Writer:
    """Adds and deletes entries; `commit` makes that durable. Whoever has a writer has tantivy's lock."""

    def __init__(self, postings: Postings) -> None:
        self._schema = postings.documents.schema
        self._documents = postings.documents.writer(heap_size=64_000_000, num_threads=1)
        self._chunks = postings.chunks.writer(heap_size=16_000_000, num_threads=1)

    def delete(self, numbers: Iterable[int]) -> None:
        """Delete the entries that have any of these chunks."""
        from tantivy import Query

        for n in numbers:  # by query: `delete_documents_by_term` takes a number for a signed one, which no field holds
            own = Query.term_query(self._schema, "n", n)
            self._documents.delete_documents_by_query(own)
            self._documents.delete_documents_by_query(Query.term_query(self._schema, "chunk", n))
            self._chunks.delete_documents_by_query(own)

    def add(self, chunks: list[Chunk], language: str) -> None:
        """Add a document, given as its chunks, analysed in `language`."""
        own = [analysis.passage_terms(title, text, language) for _, _, title, text, _ in chunks]
        if not 1 < len(chunks) <= AROUND:
            for (n, *_), terms in zip(chunks, own, strict=True):
                self._documents.add_document(_entry(terms, n, n))
            return
        whole = analysis.passage_terms(chunks[0][2], "\n".join(text for _, _, _, text, _ in chunks), language)
        self._documents.add_document(_entry(whole, *(n for n, *_ in chunks)))
        for (n, *_), terms in zip(chunks, own, strict=True):
            self._chunks.add_document(_entry(terms, n))

    def commit(self) -> None:
        """Commit both, the chunks first: only the note that is written afterwards vouches for them."""
        for writer in (self._chunks, self._documents):
            writer.commit()
            writer.wait_merging_threads()


def _entry(terms: list[str], *numbers: int) -> Any:
    import tantivy

    entry = tantivy.Document()
    entry.add_unsigned("n", numbers[0])
    entry.add_unsigned("last", numbers[-1])
    if numbers[0] != numbers[-1]:
        for n in numbers:
            entry.add_unsigned("chunk", n)
    entry.add_text("terms", " ".join(terms))
    return entry


def torn(postings: Postings, withdrawn: Iterable[int]) -> list[tuple[int, int]]:
    """First and last chunk of each entry of several chunks that has one of these."""
    import tantivy

    searcher, schema = postings.documents.searcher(), postings.documents.schema
    found = set()
    for n in withdrawn:
        hits = searcher.search(tantivy.Query.term_query(schema, "chunk", n), limit=1, count=False).hits
        addresses = [address for _, address in hits]
        first, last = (searcher.fast_field_values(field, addresses) for field in ("n", "last"))
        found |= set(zip(first, last, strict=True))
    return sorted(found)

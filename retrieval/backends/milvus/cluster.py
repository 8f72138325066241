"""An index in Milvus, which then is the record: for more than one machine holds.

`http://host:19530#collection` (or https, tcp; a token in MILVUS_TOKEN), or `some/file.db` for the embedded
milvus-lite, which one process at a time can open. Terms are analysed here, as on one machine, and Milvus counts
them (BM25 function); the two sides are asked apart and fused here, since its own rankers know only ranks or a
scale that moves with the query. What differs: a document that was chunked comes back as its chunks put together,
and the lexical side is normalised by the query's best score, since term statistics stay in Milvus.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.backends.backend import Progress, Vector
from retrieval.backends.entry import Entry
from retrieval.backends.milvus.schema import TEXTS, passages, settings
from retrieval.embedding import choice
from retrieval.embedding.embedder import Embedder
from retrieval.extra import install
from retrieval.fusion import Key, Ranked
from retrieval.passage import NATIONAL, Filter, Passage, primary
from retrieval.text import analysis
from retrieval.text.language import among, settle

FRESH = 0.25  # seconds for which a revision that was read is believed
NEVER = "9999-12-31"
PAGE, CAP = 1000, 16384
_SHOWN = ["id", "document", "title", "text", "source", "url", "region", "language", "kind", "tags",
          "in_force_from", "in_force_to"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class MilvusView:
    """A filter as a Milvus expression, and its language."""

    expression: str
    language: str | None


def open_milvus(
    url: str, create: bool, embedder: choice.Asked, threads: int | None, progress: Progress = None
) -> tuple[Milvus, Embedder | None]:
    """An index in Milvus, and its embedder (None: terms only). `progress` is not used.

    Raises:
        FileNotFoundError: there is none and `create` is false.
        ValueError: the collection is no index, or has another embedder.
        ImportError: pymilvus is not installed. ConnectionError: no server there, or it refuses the token.
    """
    backend = Milvus(url)
    try:
        exists = backend.exists()
        if not exists and not create:
            raise FileNotFoundError(f"no index at {url}: make one with `trimtab index build {url} --input FILE`")
        asked, model = choice.resolve(embedder, new=not exists), None
        if not exists:
            model = choice.load_embedder(asked, threads) if asked is not None else None
            backend.create(model.dimension if model else 0, choice.settings(model, asked))
        backend.load()
        own, name = backend.setting("embedder"), backend.setting("embedder_name")
        return backend, choice.verify(own, name, model or asked, threads)
    except BaseException:
        backend.close()
        raise


class Milvus:
    """Implements `Backend` on a collection of passages and a small one of settings."""

    def __init__(self, url: str) -> None:
        try:
            from pymilvus import MilvusClient, MilvusException
        except ImportError:
            raise ImportError(
                f"a Milvus index needs pymilvus (and milvus-lite for a file): {install('milvus')}"
            ) from None
        address, _, name = url.partition("#")
        self.name, self._about = name or "trimtab", f"{name or 'trimtab'}_settings"
        if "://" not in address:
            Path(address).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._client: Any = MilvusClient(address, token=os.environ.get("MILVUS_TOKEN", ""))
        except MilvusException as error:
            raise ConnectionError(f"Milvus at {address} cannot be reached: {error.message}") from error
        self._lock = threading.Lock()
        self._revision, self._read_at = 0, 0.0
        self._languages: frozenset[str] = frozenset()
        self._dimension = 0

    def exists(self) -> bool:
        """Refuses what is neither an index nor nothing, so that nobody's collection is ever written over."""
        found = [name for name in (self.name, self._about) if self._client.has_collection(name)]
        if len(found) == 1:
            raise ValueError(f"Milvus has a collection {found[0]} that is no index: put another name after #")
        return bool(found)

    def create(self, dimension: int, about: dict[str, str]) -> None:
        """Create both collections; `about` are the settings to begin with."""
        for name, (schema, indexes) in {self.name: passages(dimension), self._about: settings()}.items():
            self._client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")
        for key, value in {**about, "dimension": str(dimension), "revision": "0", "format": "1"}.items():
            self._write(key, value)

    def load(self) -> None:
        """Load both collections into memory.

        Raises:
            ValueError: the creation of the index was interrupted.
        """
        for name in (self.name, self._about):
            self._client.load_collection(name)
        if self.setting("format") != "1":
            raise ValueError(f"making {self.name} was interrupted: drop {self.name} and {self._about}, then build")
        self._dimension = int(self.setting("dimension", "0"))
        self._unsealed = False
        self.refresh()

    # Settings

    def setting(self, key: str, default: str = "") -> str:
        """A setting's value, or `default` where it has none."""
        rows = self._client.get(self._about, ids=[key], output_fields=["value"])
        return str(rows[0]["value"]) if rows else default

    def set(self, key: str, value: str) -> None:
        """Store a setting, which makes a new revision."""
        self._write(key, value)
        self._step()

    def _write(self, key: str, value: str) -> None:
        self._client.upsert(self._about, [{"key": key, "value": value, "unused": [0.0, 0.0]}])

    # Changes: new rows first, stale ones after, the revision last

    def put(self, entries: list[Entry], embedder: str, gone: Sequence[str] = ()) -> int:
        """Upsert the changed documents, then delete stale chunks and what is gone. Returns the revision.

        Milvus has no transactions: a search in between may find a document under its old id and its new one.
        """
        del embedder  # the collection has one dimension and the settings name its embedder
        revision = self._upsert(entries)
        return self.withdraw(list(gone))[0] if gone else revision

    def _upsert(self, entries: list[Entry]) -> int:
        same = self.stored([entry.document.id for entry in entries])
        entries = [e for e in entries if same.get(e.document.id) != e.document.signature]
        if not entries:
            return self.refresh()
        rows, spoken = [], set[str]()
        votes = {c.id: primary(c.language) or analysis.detect(c.text) for entry in entries for c in entry.chunks}
        settled, commonest = settle(votes.values(), self._languages)
        for entry in entries:
            for i, chunk in enumerate(entry.chunks):
                language = primary(chunk.language) or votes.get(chunk.id, "")
                if not language or language not in settled:
                    language = primary(chunk.language) or among(chunk.text, settled, commonest)
                spoken.add(language)
                rows.append(_row(entry.document, chunk, language))
                if entry.vectors is not None:
                    rows[-1]["dense"] = entry.vectors[i].astype(np.float32).tolist()
        documents = [entry.document.id for entry in entries]
        stale = {row["id"] for row in self._select(_among("document", documents), ["id"])} - {r["id"] for r in rows}
        self._unsealed = True
        for start in range(0, len(rows), PAGE):
            self._client.upsert(self.name, rows[start : start + PAGE])
        if stale:
            self._client.delete(self.name, ids=sorted(stale))
        with self._lock:
            if not spoken <= self._languages:
                self._languages |= spoken
                self._write("languages", json.dumps(sorted(self._languages)))
        return self._step()

    def withdraw(self, ids: list[str]) -> tuple[int, list[str]]:
        """Delete documents or passages by id. Returns the revision and the ids that were there."""
        wanted = list(dict.fromkeys(ids))
        rows = self._select(f"{_among('document', wanted)} or {_among('id', wanted)}", ["id", "document"])
        if not rows:
            return self.refresh(), []
        whole = {row["document"] for row in rows} & set(wanted)
        single = [r["id"] for r in rows if r["document"] not in whole]
        self._client.delete(self.name, ids=[row["id"] for row in rows])
        parents = [r["document"] for r in rows if r["id"] in single and r["document"] != r["id"]]
        if parents:  # a document that lost a chunk is no longer what was given
            self._unsign(parents)
        present = whole | {row["id"] for row in rows}
        return self._step(), [key for key in wanted if key in present]

    def _unsign(self, documents: list[str]) -> None:
        fields = ["id", "tags", *TEXTS, *(["dense"] if self._dimension else [])]
        rows = self._select(_among("document", documents), fields)
        if rows:
            self._client.upsert(self.name, [{**row, "signature": ""} for row in rows])

    def _step(self) -> int:
        with self._lock:
            self._revision = max(time.time_ns() // 1000, self._revision + 1)
            self._write("revision", str(self._revision))
            self._read_at = time.monotonic()
            return self._revision

    def stored(self, ids: list[str]) -> dict[str, bytes]:
        """The signature of each of these documents that the collection has."""
        rows = self._select(_among("document", ids), ["document", "signature"])
        return {row["document"]: bytes.fromhex(row["signature"]) for row in rows}

    def signatures(self) -> Iterator[tuple[str, bytes]]:
        """The revision in their place: it is a time and unique, and reading all rows would be a scan of the cluster."""
        yield self.name, str(self.refresh()).encode()

    def same_content(self, content_hash: bytes, other_than: str) -> str | None:
        """The id of another document with the same content, if there is one."""
        expression = f'content_hash == "{content_hash.hex()}" and document != {_quoted(other_than)}'
        rows = self._client.query(self.name, filter=expression, output_fields=["document"], limit=1)
        return str(rows[0]["document"]) if rows else None

    # Reading

    def get(self, key: str) -> Passage | None:
        """A passage (a document or a chunk) by its id."""
        return self.fetch([key]).get(key)

    def document(self, key: str) -> Passage | None:
        """A document by its id: its chunks joined by line breaks where it was chunked."""
        rows = self._select(f"document == {_quoted(key)}", _SHOWN)
        chunks = sorted((_passage(row) for row in rows), key=_position)
        if not chunks or chunks[0].id == key:
            return chunks[0] if chunks else None
        return replace(chunks[0], id=key, text="\n".join(chunk.text for chunk in chunks), parent="")

    def documents(self) -> Iterator[Passage]:
        """Every document, in the order of ids."""
        for key in sorted({row["document"] for row in self._select("", ["document"])}):
            found = self.document(key)
            if found is not None:
                yield found

    def page(self, after: str, limit: int) -> list[Passage]:
        """At most `limit` passages in the order of ids, from the one behind `after`."""
        keys = sorted(row["id"] for row in self._select(f"id > {_quoted(after)}" if after else "", ["id"]))[:limit]
        found = self.fetch(list(keys))
        return [found[key] for key in keys if key in found]

    def damage(self) -> list[str]:
        """Nothing: the cluster looks after what it stores."""
        return []

    def count(self) -> int:
        """How many passages there are."""
        rows = self._client.query(self.name, filter="", output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def languages(self) -> frozenset[str]:
        """The languages that passages were analysed in."""
        return self._languages

    def _select(self, expression: str, fields: list[str]) -> list[dict[str, Any]]:
        """All rows, however many: a plain query is capped."""
        rows: list[dict[str, Any]] = list(
            self._client.query(self.name, filter=expression, output_fields=fields, limit=CAP)
        )
        if len(rows) < CAP:
            return rows
        iterator = self._client.query_iterator(self.name, filter=expression, output_fields=fields, batch_size=PAGE)
        rows = []
        while batch := iterator.next():
            rows += batch
        iterator.close()
        return rows

    # Searching

    def refresh(self, progress: Progress = None) -> int:
        """The revision, read again where the last reading is older than 0.25 s."""
        with self._lock:
            if time.monotonic() - self._read_at > FRESH:
                self._revision = int(self.setting("revision", "0"))
                self._languages = frozenset(json.loads(self.setting("languages", "[]")))
                self._read_at = time.monotonic()
            return self._revision

    def unchanged(self) -> int | None:
        """The revision where it was read within the last 0.25 s, else None."""
        fresh = time.monotonic() - self._read_at <= FRESH  # a revision read just now is newer still
        return self._revision if fresh else None

    def view(self, where: Filter) -> MilvusView:
        """The filter, translated."""
        return MilvusView(expression(where), where.language)

    def lexical(self, view: MilvusView, query: str, k: int, exact: bool = False) -> tuple[Ranked, float]:
        """The k best by Milvus' BM25; the ceiling is the best score found."""
        known = self._languages
        spoken = frozenset({primary(view.language)}) & known if view.language else known
        terms = Counter(analysis.query_terms(query, spoken or known))
        if not terms:
            return [], 0.0
        found = self._search("sparse", _plain(terms.elements()), view, k, "BM25")
        return found, found[0][1] if found else 0.0

    def dense(self, view: MilvusView, vector: Vector, k: int, exact: bool) -> Ranked:
        """The k best by cosine."""
        return self._search("dense", vector.tolist(), view, k, "COSINE")

    def _search(self, field: str, what: Any, view: MilvusView, k: int, metric: str) -> Ranked:
        hits = self._client.search(
            self.name, data=[what], anns_field=field, filter=view.expression, limit=k,
            search_params={"metric_type": metric},
        )[0]  # fmt: skip
        # milvus-lite gives BM25 with its sign turned, as a distance.
        scores = [
            (hit["id"], abs(float(hit["distance"])) if metric == "BM25" else float(hit["distance"])) for hit in hits
        ]
        return sorted(scores, key=lambda hit: (-hit[1], hit[0]))

    def cosines(self, view: MilvusView, vector: Vector, keys: list[Key]) -> Ranked:
        """The cosines of these passages, computed here from their stored vectors."""
        rows = self._client.get(self.name, ids=keys, output_fields=["id", "dense"])
        return [(row["id"], float(np.asarray(row["dense"], np.float32) @ vector)) for row in rows]

    def fetch(self, keys: list[Key]) -> dict[Key, Passage]:
        """The passages of these ids, as far as they are there."""
        rows = self._client.get(self.name, ids=keys, output_fields=_SHOWN) if keys else []
        return {row["id"]: _passage(row) for row in rows}

    def compact(self, progress: Progress = None, *, always: bool = False, threads: int | None = None) -> bool:
        """Seal what was added: a cluster does so by itself, milvus-lite searches it several times faster then."""
        if not always and not self._unsealed:
            return False
        self._unsealed = False
        self._client.flush(self.name)
        return True

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def expression(where: Filter) -> str:
    """What `Filter.admits` says, in Milvus' language."""
    parts = []
    if where.region is not None:
        parts.append(_among("region", [where.region] if where.strict else sorted({where.region, *NATIONAL})))
    if where.language is not None:
        parts.append(_among("spoken", [primary(where.language)] + ([] if where.strict else [""])))
    if where.kind is not None:
        parts.append(f"kind == {_quoted(where.kind)}")
    if where.on is not None:
        parts.append(f"in_force_from <= {_quoted(where.on)} and in_force_to >= {_quoted(where.on)}")
    if where.tags:
        parts.append(f"array_contains_all(tags, [{', '.join(map(_quoted, where.tags))}])")
    return " and ".join(f"({part})" for part in parts)


def _among(field: str, values: list[str]) -> str:
    return f"{field} in [{', '.join(map(_quoted, values))}]"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _row(document: Passage, chunk: Passage, language: str) -> dict[str, Any]:
    fields = asdict(chunk)
    del fields["parent"]
    return {
        **fields, "document": chunk.document, "tags": list(chunk.tags), "spoken": primary(chunk.language),
        "in_force_to": chunk.in_force_to or NEVER, "signature": document.signature.hex(),
        "content_hash": document.content_hash.hex(),
        "terms": _plain(analysis.passage_terms(chunk.title, chunk.text, language)),
    }  # fmt: skip


def _plain(terms: Iterable[str]) -> str:
    """Terms that no tokenizer cuts further: what is not ASCII letters and digits becomes the hex of its bytes.

    Pairs of words are left out, since Milvus cannot weigh a term.
    """
    kept = (term for term in terms if not term.startswith(analysis.PAIR))
    return " ".join(term if term.isascii() and term.isalnum() else f"x{term.encode().hex()}" for term in kept)


def _passage(row: dict[str, Any]) -> Passage:
    fields = {name: row[name] for name in _SHOWN if name != "document"}
    fields["in_force_to"] = "" if fields["in_force_to"] == NEVER else fields["in_force_to"]
    parent = "" if row["document"] == row["id"] else row["document"]
    return Passage(**{**fields, "tags": tuple(fields["tags"])}, parent=parent)


def _position(chunk: Passage) -> int:
    number = chunk.id.rpartition("#")[2]
    return int(number) if number.isdigit() else 0

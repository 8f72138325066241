"""What does retrieval find, for whom, and at what cost?

  python benchmarks/retrieval.py quality --data DIR [--corpora en spec zh] [--sample 15000] [--embedder NAME]
  python benchmarks/retrieval.py floors --data DIR --unrelated PROMPTS.jsonl [--corpora en fr] [--embedder NAME]
  python benchmarks/retrieval.py regions --data DIR
  python benchmarks/retrieval.py latency --data DIR [--sizes 10000 140000 1000000]
  python benchmarks/retrieval.py embedding --data DIR
  python benchmarks/retrieval.py milvus --data DIR

DIR holds the law corpora in BEIR's layout (lawir_zh, lawir_ca, lawir_de, principles_model_spec). Indexes are made
once under --work and kept: an interrupted build goes on where it stopped. Embedding 55,597 chunks of English law
takes about ten minutes on two idle cores. Timings are wall clock; nothing else should run.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import math
import os
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file is called as the package that it measures

from retrieval.backends.entry import Entry
from retrieval.embedding.choice import ByTexts
from retrieval.embedding.embedder import Model, load
from retrieval.passage import Filter, Passage
from retrieval.search import evaluation
from retrieval.search.build import batches
from retrieval.search.calibration import calibrate
from retrieval.search.index import Index
from retrieval.search.intake import bar
from retrieval.search.query import Ask
from retrieval.search.tuning import ranked, sides, tune
from retrieval.text import analysis

CORPORA = {
    "zh": ("lawir_zh/corpus", "lawir_zh/queries.dev", "lawir_zh/qrels.dev"),
    "en": ("lawir_ca/corpus.en", "lawir_ca/queries.dev.en", "lawir_ca/qrels.dev.en-corpus"),
    "fr": ("lawir_ca/corpus.fr", "lawir_ca/queries.dev.fr", "lawir_ca/qrels.dev.fr-corpus"),
    "de": ("lawir_de/corpus", "lawir_de/queries.dev", "lawir_de/qrels.dev"),
    "spec": ("principles_model_spec/corpus", "principles_model_spec/queries.dev", "principles_model_spec/qrels.dev"),
}
# Questions in one language to the law in another: the corpus, and whose questions it is asked.
CROSSED = {"fr": ("en", "lawir_ca/queries.dev.en"), "en": ("fr", "lawir_ca/queries.dev.fr")}
MEASURES = ("ndcg@10", "recall@10", "recall@100")


# Corpora


def rows(data: Path, name: str) -> Iterator[dict[str, Any]]:
    path = data / f"{CORPORA[name][0]}.jsonl"
    if path.is_file():
        source: Any = path.open(encoding="utf-8")
    else:
        import zstandard

        source = io.TextIOWrapper(zstandard.open(f"{path}.zst", "rb"), encoding="utf-8")
    with source:
        yield from map(json.loads, source)


def passages(data: Path, name: str, sample: int = 0) -> Iterator[Passage]:
    """Unlabelled, as a newcomer has them. Of a sample: those that answer the questions, and so many others."""
    wanted = sampled(data, name, sample) if sample else None
    for row in rows(data, name):
        if wanted is None or row["_id"] in wanted:
            yield Passage(row["_id"], row["text"].strip(), row["title"], region=row.get("region", ""))


def sampled(data: Path, name: str, sample: int) -> set[str]:
    right = {document for rated in questions(data, name)[1].values() for document in rated}
    others = [row["_id"] for row in rows(data, name) if row["_id"] not in right]
    return right | set(random.Random(0).sample(others, min(sample, len(others))))


def questions(data: Path, name: str) -> tuple[dict[str, str], evaluation.Qrels]:
    queries, qrels = (data / f"{CORPORA[name][1]}.jsonl", data / f"{CORPORA[name][2]}.tsv")
    return evaluation.read_queries(queries), evaluation.read_qrels(qrels)


def built(data: Path, work: Path, name: str, embedder: Any, label: str, sample: int = 0) -> Index:
    index = Index.open(work / f"{name}-{label}", create=True, embedder=embedder)
    with bar(f"building {name} ({label})", None, " documents") as advance:
        for batch in batches(passages(data, name, sample), 256):
            index.add(batch)
            advance(len(batch))
    index.refresh()
    index.backend.compact()
    return index


# 1. Quality


def plain(text: str) -> list[str]:
    """Lower-cased words, or pairs of characters where words are not spaced."""
    found = (term for term in analysis.terms(text, "") if not term.startswith(analysis.PAIR))
    return [term for term in found if len(term) > 1 or analysis.detect(term) not in {"zh", "ja", "ko"}]


def floor(kept: Iterator[Passage], queries: dict[str, str]) -> dict[str, list[tuple[str, float]]]:
    """Plain BM25, k1 1.2, b 0.75, over whole documents."""
    keys, lengths, postings = [], [], defaultdict(list)
    for i, passage in enumerate(kept):
        terms = Counter(plain(f"{passage.title}\n{passage.text}"))
        keys.append(passage.id)
        lengths.append(sum(terms.values()))
        for term, count in terms.items():
            postings[term].append((i, count))
    size = np.array(lengths, np.float32)
    norm = 1.2 * (0.25 + 0.75 * size / size.mean())
    run = {}
    for query, text in queries.items():
        scores = np.zeros(len(keys), np.float32)
        for term in plain(text):
            if term in postings:
                found = np.array(postings[term])
                idf = math.log1p((len(keys) - len(found) + 0.5) / (len(found) + 0.5))
                scores[found[:, 0]] += idf * found[:, 1] * 2.2 / (found[:, 1] + norm[found[:, 0]])
        best = np.argsort(-scores, kind="stable")[:100]
        run[query] = [(keys[i], float(scores[i])) for i in best if scores[i] > 0]
    return run


def quality(options: argparse.Namespace) -> None:
    """As a newcomer builds them: no label says the language, and the texts choose the embedder."""
    print("| corpus | | nDCG@10 | recall@10 | recall@100 |\n|---|---|---|---|---|")
    for name in options.corpora:
        queries, qrels = questions(options.data, name)
        kept = partial(passages, options.data, name, options.sample)
        row(name, "BM25 floor", evaluation.score(floor(kept(), queries), qrels))
        chosen = options.embedder or ByTexts(lambda: islice(kept(), 200), partial(print, file=sys.stderr)).choose()  # noqa: B023
        label = f"{Path(chosen).name}-{options.sample or 'all'}"
        with built(options.data, options.work, name, chosen, label, options.sample) as index:
            measure(index, name, queries, qrels)
            if index.embedder is not None:
                two_fold(index, name, queries, qrels)
            if name in CROSSED:
                other, asked = CROSSED[name]
                measure(index, f"{other}→{name}", evaluation.read_queries(options.data / f"{asked}.jsonl"), qrels)


def measure(index: Index, name: str, queries: dict[str, str], qrels: evaluation.Qrels) -> None:
    for mode in ("lexical", "dense", "hybrid") if index.embedder else ("lexical",):
        run = {q: documents(index, text, 100, mode) for q, text in queries.items()}
        label = f"hybrid, weight {index.weight}" if mode == "hybrid" else mode
        row(f"{name} ({index.count()})", label, evaluation.score(run, qrels))


def two_fold(index: Index, name: str, queries: dict[str, str], qrels: evaluation.Qrels) -> None:
    found = tune(index, queries, qrels)
    judged = [q for q in queries if q in qrels]
    run = {}
    for fold in (0, 1):
        for query in judged[fold::2]:
            documents_ = ranked(sides(index, queries[query], 300), found.folds[1 - fold])[:100]
            run[query] = [(key, 1.0) for key in documents_]
    row(name, f"hybrid, tuned two-fold ({found.folds[0]}, {found.folds[1]})", evaluation.score(run, qrels))


def row(name: str, label: str, measured: dict[str, float]) -> None:
    print(f"| {name} | {label} | " + " | ".join(f"{measured[m]:.4f}" for m in MEASURES) + " |", flush=True)


def documents(index: Index, query: str, k: int, mode: str) -> list[tuple[str, float]]:
    return evaluation.documents(lambda wanted: index.search(query, wanted, mode=mode), k)


# What a floor would keep


def floors(options: argparse.Namespace) -> None:
    """Of the scores of right finds among ten, and of the best find for prompts that no rule bears on."""
    rows_ = [json.loads(line) for line in options.unrelated.read_text("utf-8").splitlines()]
    unrelated = [row["turns"][0] if "turns" in row else row["text"] for row in rows_]
    for name in options.corpora:
        queries, qrels = questions(options.data, name)
        label = f"{Path(options.embedder).name}-{options.sample or 'all'}" if options.embedder else "minilm"
        with built(options.data, options.work, name, options.embedder, label, options.sample) as index:
            calibrate(index)
            index.refresh()
            own, right = index.floor, []
            for query, text in queries.items():
                found = (h.score for h in index.search(text, 10) if h.document in qrels.get(query, {}))
                right += [score for _, score in zip(range(1), found, strict=False)]
            best = [hits[0].score if (hits := index.search(text, 1)) else 0.0 for text in unrelated]
        for floor_ in sorted({own, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3}):
            kept, dropped = np.mean(np.array(right) >= floor_), np.mean(np.array(best) < floor_)
            label = "its own floor" if floor_ == own else "floor"
            print(f"{name}, {label} {floor_}: keeps {kept:.1%} of right finds, drops {dropped:.1%} of unrelated ones")


# 2. Regions


class Projected:
    """Character pairs, hashed into random projections: no model, but vectors in which like texts are near.

    all-MiniLM-L6-v2 does not speak Chinese; how a filter starves is a matter of geometry and region sizes.
    """

    id, dimension, limit = "projected-pairs/384", 384, 2000
    languages: frozenset[str] = frozenset({"zh"})

    def count(self, text: str) -> int:
        return len(text)

    def documents(self, texts: list[str]) -> Any:
        return np.stack([self._one(text) for text in texts])

    queries = documents

    def _one(self, text: str) -> Any:
        vector = np.zeros(self.dimension, np.float32)
        for term in analysis.terms(text, "zh"):
            digest = hashlib.blake2b(term.encode(), digest_size=48).digest()
            vector += np.unpackbits(np.frombuffer(digest, np.uint8)).astype(np.float32) - 0.5
        return vector / max(1e-9, float(np.linalg.norm(vector)))


def regions(options: argparse.Namespace) -> None:
    texts = list(questions(options.data, "zh")[0].values())[:200]
    with built(options.data, options.work, "zh", Projected(), "projected") as index:
        counts = Counter(p.region for p in index.documents())
        provinces = sorted(set(counts) - {"全国", ""})
        print(f"{len(provinces)} provinces, {len(texts)} questions, k 10; {sum(counts.values())} articles")
        for strict in (False, True):
            what = "the province's own rules only" if strict else "the province's rules and national ones"
            ours = {mode: starved(index, provinces, texts, mode, strict) for mode in ("dense", "lexical", "hybrid")}
            print(f"\n{what}: of {len(provinces) * len(texts)} searches, fewer than the 10 (or all) that exist")
            for mode, short in ours.items():
                note = " (a passage without a term of the query is no lexical hit)" if mode == "lexical" else ""
                print(f"  filtered before, {mode}: {short}{note}")
            short, worst = opo_starved(index, provinces, texts, strict, counts)
            print(f"  OPO's way, 1,536 nearest and filtered afterwards: {short}; worst: {worst}")


def starved(index: Index, provinces: list[str], texts: list[str], mode: str, strict: bool) -> int:
    short = 0
    for province in provinces:
        where = Filter(region=province, strict=strict)
        wanted = min(10, index.backend.view(where).allowed.count)  # type: ignore[attr-defined]
        for text in texts:
            hits = index.search(text, 10, where=where, mode=mode)
            assert all(hit.region == province or (not strict and hit.region in {"", "全国"}) for hit in hits)
            short += len(hits) < wanted
    return short


def opo_starved(
    index: Index, provinces: list[str], texts: list[str], strict: bool, counts: Counter[str]
) -> tuple[int, str]:
    view: Any = index.backend.view(Filter())
    column = view.state.columns.region
    codes = {value: code for code, value in enumerate(column.values)}
    short: Counter[str] = Counter()
    for text in texts:
        rows_, _ = view.state.dense.search(index.embedder.queries([text])[0], 1536, view.allowed, True)  # type: ignore[union-attr]
        near = column.codes[rows_]
        everywhere = 0 if strict else int(np.isin(near, [codes.get("全国", -1), codes.get("", -1)]).sum())
        for province in provinces:
            available = counts[province] + (0 if strict else counts["全国"] + counts[""])
            short[province] += int((near == codes[province]).sum()) + everywhere < min(10, available)
    worst = ", ".join(f"{province} {n}/{len(texts)} ({counts[province]} rules)" for province, n in short.most_common(5))
    return sum(short.values()), worst


# 3. Latency


def scaled(options: argparse.Namespace, size: int) -> Index:
    """Chunks of Canadian law with their vectors, then copies: a vector moved by a tenth, a text with words left out."""
    place = options.work / f"scaled-{size}"
    chance, noise = random.Random(size), np.random.default_rng(size)
    made = options.work / "en-minilm"
    with Index.open(made) if made.is_dir() else built(options.data, options.work, "en", None, "minilm") as source:
        index = Index.open(place, create=True, embedder=source.embedder)
        done = index.count()
        if done < size:
            chunks, vectors = _all(source)
            with bar(f"scaling to {size}", size, " passages") as advance:
                advance(done)
                for start in range(done, size, 4096):
                    picked = [i % len(chunks) for i in range(start, min(size, start + 4096))]
                    part = vectors[picked].astype(np.float32)
                    fresh = np.arange(start, start + len(picked)) >= len(chunks)
                    part[fresh] += noise.standard_normal(part[fresh].shape).astype(np.float32) * (0.1 / math.sqrt(384))
                    part /= np.linalg.norm(part, axis=1, keepdims=True)
                    entries = [
                        _copy(chunks[i], start + j, bool(fresh[j]), chance, part[j : j + 1])
                        for j, i in enumerate(picked)
                    ]
                    index.backend.put(entries, index.embedder.id)  # type: ignore[union-attr]
                    advance(len(picked))
    with bar("terms", size, " passages") as advance:
        index.refresh(advance)
    with bar("vectors", size, " passages") as advance:
        started = time.perf_counter()
        if index.backend.compact(advance):
            print(f"base of {size} made in {time.perf_counter() - started:.0f} s")
    return index


def _all(index: Index) -> tuple[list[Passage], Any]:
    store: Any = index.backend._store  # type: ignore[attr-defined]
    numbers, parts = [], []
    for ns, vectors in store.vectors(0, 384):
        numbers += ns
        parts.append(vectors)
    fetched: dict[Any, Passage] = {}
    for start in range(0, len(numbers), 500):
        fetched.update(store.fetch(numbers[start : start + 500]))
    order = list(range(len(numbers)))
    random.Random(0).shuffle(order)
    return [fetched[numbers[i]] for i in order], np.concatenate(parts)[order]


def _copy(p: Passage, number: int, changed: bool, chance: random.Random, vector: Any) -> Entry:
    text = " ".join(w for w in p.text.split(" ") if chance.random() > 0.15) if changed else p.text
    region = chance.choice(["", "", "", "", *"abcdefghijklmnop"])
    made = Passage(
        f"p{number:07}", text.strip() or p.text, p.title, source=p.title.split(",")[0], region=region, language="en"
    )
    return Entry(made, (made,), vector.astype(np.float16))


def latency(options: argparse.Namespace) -> None:
    texts = list(questions(options.data, "en")[0].values())
    for size in options.sizes:
        before = memory()
        with scaled(options, size) as index:
            pass  # made; measured in a state as after a start
        with Index.open(options.work / f"scaled-{size}") as index:
            held = f"{memory():.0f} MB ({before:.0f} before), {mapped():.0f} MB of it mapped files"
            print(f"\n## {size} principles; process of {held}")
            parts(index, texts)
            whole(index, texts)
            asyncio.run(concurrent(index, texts))
            opo(index, texts)


def parts(index: Index, texts: list[str]) -> None:
    embedder: Any = index.embedder
    view, narrow = index.backend.view(Filter()), index.backend.view(Filter(region="a", strict=True))
    wide = index.backend.view(Filter(region="a"))
    vectors = [embedder.queries([text])[0] for text in texts]
    timed("embedding a query", lambda i: embedder.queries([f"{texts[i]} {i}"]), len(texts))
    timed("lexical, 50", lambda i: index.backend.lexical(view, texts[i], 50), len(texts))
    timed("dense, 50", lambda i: index.backend.dense(view, vectors[i], 50, False), len(texts))
    timed("dense, 50, scanned", lambda i: index.backend.dense(view, vectors[i], 50, True), min(100, len(texts)))
    timed("dense, one region in 20", lambda i: index.backend.dense(narrow, vectors[i], 50, False), len(texts))
    timed("dense, that and national", lambda i: index.backend.dense(wide, vectors[i], 50, False), len(texts))
    timed("lexical, one region in 20", lambda i: index.backend.lexical(narrow, texts[i], 50), len(texts))
    timed("lexical, that and national", lambda i: index.backend.lexical(wide, texts[i], 50), len(texts))
    shared = []
    for vector in vectors[:200]:
        near = [key for key, _ in index.backend.dense(view, vector, 10, False)]
        true = [key for key, _ in index.backend.dense(view, vector, 10, True)]
        shared.append(len(set(near) & set(true)) / 10)
    print(f"  recall@10 of dense against the scan: {np.mean(shared):.4f}")


def whole(index: Index, texts: list[str]) -> None:
    embedder: Any = index.embedder
    vectors = {text: embedder.queries([text])[0] for text in texts}
    view = index.backend.view(Filter())

    def fuse_only(i: int, found: dict[int, Any] = {}) -> Any:  # noqa: B006 - lexical results, outside the clock
        ask = Ask(texts[i], 10)
        return index._hits(ask, index._fuse(ask, view, found[i], vectors[texts[i]], 50))

    found = {i: index.backend.lexical(view, text, 50) for i, text in enumerate(texts)}
    timed("dense + fusion + fetch", lambda i: fuse_only(i, found), len(texts))
    timed("whole search, k 10", lambda i: index.search(f"{texts[i]} now {i}", 10), len(texts))


async def concurrent(index: Index, texts: list[str]) -> None:
    async def one(text: str) -> None:
        begun = time.perf_counter()
        await index.asearch(text, 10)
        took.append(time.perf_counter() - begun)

    async def worker(part: list[str]) -> None:
        for text in part:
            await one(text)

    for clients in (1, 16):
        took: list[float] = []
        asked = [f"{text} {clients}" for text in texts]
        begun = time.perf_counter()
        await asyncio.gather(*(worker(asked[i::clients]) for i in range(clients)))
        rate = len(asked) / (time.perf_counter() - begun)
        print(f"  {clients:>2} concurrent: {spread(took)}, {rate:.0f}/s")


def opo(index: Index, texts: list[str]) -> None:
    """Flat fp32 over all, 1,536 neighbours, the filter afterwards; its L2 order is the cosine's on unit vectors."""
    import faiss

    state: Any = index.backend._state  # type: ignore[attr-defined]
    exact, column = faiss.IndexFlatL2(384), state.columns.region
    for _, vectors in index.backend._store.vectors(0, 384):  # type: ignore[attr-defined]
        exact.add(vectors.astype(np.float32))
    allowed = column.where(lambda value: value in {"a", ""})
    vectors = [index.embedder.queries([text])[0][None] for text in texts[:100]]  # type: ignore[union-attr]

    def search(i: int) -> Any:
        _, found = exact.search(vectors[i], min(1536, exact.ntotal))
        return [row for row in found[0] if allowed[row]][:10]

    timed("OPO's way (flat fp32, filter afterwards)", search, len(vectors))
    print(f"  its vectors take {exact.ntotal * 384 * 4 / 2**20:.0f} MB of every process")


def timed(label: str, call: Callable[[int], Any], count: int) -> None:
    for i in range(min(5, count)):
        call(i)
    took = []
    for i in range(count):
        begun = time.perf_counter()
        call(i)
        took.append(time.perf_counter() - begun)
    print(f"  {label}: {spread(took)}", flush=True)


def spread(took: list[float]) -> str:
    ordered = sorted(took)
    return f"p50 {ordered[len(ordered) // 2] * 1000:.2f} ms, p99 {ordered[int(len(ordered) * 0.99)] * 1000:.2f} ms"


def memory() -> float:
    return _status("VmRSS")


def mapped() -> float:
    return _status("RssFile")


def _status(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


# The embedder's two ways, and Milvus


def embedding(options: argparse.Namespace) -> None:
    """One query by three ways, and how far the quick one is from sentence-transformers on every set of questions."""
    sets = {name: list(questions(options.data, name)[0].values())[:150] for name in CORPORA}
    asked = sets["en"]
    reference, quick = load(runtime="torch"), load(runtime="onnx")
    slow = Model(quick.folder, quick.name, quick.runner, quick._tokenizer)
    for label, model in (("torch", reference), ("onnx, 32 bits", slow), ("onnx, 8 bits", quick)):
        timed(f"one query, {label}", lambda i, model=model: model.queries([asked[i]]), len(asked))
        begun = time.perf_counter()
        model.queries(asked)
        print(f"  batches of 32, {label}: {len(asked) / (time.perf_counter() - begun):.0f}/s")
    for name, texts in sets.items():
        same = [float((reference.queries([text])[0] * quick.queries([text])[0]).sum()) for text in texts]
        print(f"  cosine of torch and 8 bits, {name}: least {min(same):.5f}, mean {np.mean(same):.5f} of {len(same)}")


def milvus(options: argparse.Namespace) -> None:
    texts, size = list(questions(options.data, "en")[0].values())[:100], 10_000
    with scaled(options, size) as local:
        place = options.work / f"milvus-{size}.db"
        with Index.open(place, create=True, embedder=local.embedder) as remote:
            if remote.count() < size:
                chunks, vectors = _all(local)
                for start in range(0, size, 1000):
                    part = range(start, min(size, start + 1000))
                    entries = [Entry(chunks[i], (chunks[i],), vectors[i : i + 1]) for i in part]
                    remote.backend.put(entries, local.embedder.id)  # type: ignore[union-attr]
            remote.compact()
            for name, index in (("SQLite, FAISS, tantivy", local), ("milvus-lite", remote)):
                print(f"\n{name}, {index.count()} principles")
                view = index.backend.view(Filter(region="a"))
                found = [local.embedder.queries([text])[0] for text in texts]  # type: ignore[union-attr]
                timed("dense, 50", lambda i, x=index, v=view, f=found: x.backend.dense(v, f[i], 50, False), len(texts))
                timed("lexical, 50", lambda i, x=index, v=view: x.backend.lexical(v, texts[i], 50), len(texts))
                timed("whole search", lambda i, x=index: x.search(f"{texts[i]} {i}", 10), len(texts))
            same = []
            for text in texts:
                one, other = ({hit.id for hit in index.search(text, 10, mode="dense")} for index in (local, remote))
                same.append(len(one & other) / 10)
            print(f"  dense top 10 in common: {np.mean(same):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (
        ("quality", quality),
        ("floors", floors),
        ("regions", regions),
        ("latency", latency),
        ("embedding", embedding),
        ("milvus", milvus),
    ):
        made = commands.add_parser(name)
        made.set_defaults(run_section=run)
        made.add_argument("--data", type=Path, required=True, help="the folder of the corpora")
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab" / "benchmark"
        made.add_argument("--work", type=Path, default=default, help=f"where indexes are kept (default {default})")
        made.add_argument("--corpora", nargs="+", choices=CORPORA, default=list(CORPORA))
        made.add_argument("--unrelated", type=Path, help="floors: prompts that no rule bears on (JSONL)")
        made.add_argument("--embedder", help="instead of the one that the texts choose (floors: of MiniLM)")
        made.add_argument("--sample", type=int, default=0, help="quality, floors: passages beside those that answer")
        made.add_argument("--sizes", nargs="+", type=int, default=[10_000, 140_000, 1_000_000])
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.run_section(options)


if __name__ == "__main__":
    main()

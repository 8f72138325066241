"""trimtab index build|add|sync|withdraw|search|stats|export|tune"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from retrieval.passage import Filter, Hit, parse_filter
from retrieval.search.build import ingest
from retrieval.search.intake import bar


def main(argv: list[str] | None = None) -> int:
    """Run `trimtab index` and return its exit status: 0, 1 for an error (printed), 130 for Ctrl-C."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run_command(arguments))
    except ModuleNotFoundError:  # of an extra: the one command says which
        raise
    except BrokenPipeError:  # `trimtab` itself handles that the reader of its output has gone
        raise
    except (OSError, ValueError, ImportError) as error:
        print(f"trimtab index: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; completed batches are kept, and the same command resumes from there", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    top = argparse.ArgumentParser(prog="trimtab index", description="Principles to search: laws, rules, norms.")
    commands = top.add_subparsers(required=True)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run_command=run)
        made.add_argument("index", metavar="DIR", help="the index's folder, or the URL of a Milvus server")
        made.add_argument("--threads", type=int, help="threads of the embedder (default: up to 4)")
        return made

    def reads(made: argparse.ArgumentParser) -> None:
        for label in ("language", "region", "kind", "source"):
            made.add_argument(f"--{label}", default="", help=f"the {label} of passages that state none")
        made.add_argument("--tag", action="append", default=[], help="a tag for passages that have none; repeatable")
        made.add_argument("--strict", action="store_true", help="stop at the first bad row, with exit status 1")

    for name, text in (
        ("build", "Make an index from files, or go on with one that was interrupted."),
        ("add", "Add files to an index; a passage with a known id replaces it."),
    ):
        made = command(name, build if name == "build" else add, text)
        made.add_argument("--input", action="append", required=True, type=Path, metavar="FILE",
                          help="a folder, or a file: JSONL, CSV, Markdown, PDF, Word, HTML …; repeatable")  # fmt: skip
        made.add_argument("--embedder", help="a model's name or folder, or none: by terms only"
                          + (" (default: all-MiniLM-L6-v2 for English,"
                          " multilingual-e5-small for other languages)" if name == "build" else ""))  # fmt: skip
        reads(made)

    made = command("sync", sync, "Make an index what its sources are: new, changed, gone and renamed passages.")
    made.add_argument("input", nargs="+", type=Path, metavar="SOURCE",
                      help="a folder, a file, or a .list of these; all that the index is to hold")  # fmt: skip
    made.add_argument("--dry-run", action="store_true", help="show the plan and change nothing")
    made.add_argument("--on", metavar="DATE", help="when changes begin that state no date (default: today)")
    made.add_argument("--embedder", help="of a new index: as in build")
    reads(made)

    made = command("withdraw", withdraw, "Take documents or passages out of an index.")
    made.add_argument("ids", nargs="+", metavar="ID")

    made = command("search", search, "Search: one query to a table, or BEIR's queries.jsonl to a run file.")
    made.add_argument("query", nargs="?", help="what to look for")
    made.add_argument("--queries", type=Path, help='JSONL of {"_id", "text"}')
    made.add_argument("--run", type=Path, help="where to write query-id, corpus-id, score")
    made.add_argument("--qrels", type=Path, help="judgements: prints nDCG@10, recall@10 and recall@100")
    made.add_argument("-k", type=int, default=10, help="how many (default 10)")
    made.add_argument("--mode", choices=("hybrid", "dense", "lexical"), default="hybrid")
    made.add_argument("--where", action="append", default=[], metavar="LABEL=VALUE",
                      help="region=, language=, kind=, tag=, on=2026-01-31, strict; repeatable")  # fmt: skip
    made.add_argument("--floor", type=float, help="leave out what scores less (0 to 1)")
    made.add_argument("--most", type=int, help="at most so many from one source")
    made.add_argument("--exact", action="store_true", help="scan every vector")
    made.add_argument("--embedder", help="must be the index's own")
    made.add_argument("--rerank", metavar="MODEL", help="a cross-encoder's name or folder")

    command("stats", stats, "What an index holds, as JSON.")
    made = command("export", export, "Every document as it was given, as JSONL.")
    made.add_argument("--output", type=Path, help="default: standard output")

    made = command("tune", tune, "Find the weight of the lexical side on your own questions, and keep it.")
    made.add_argument("--queries", type=Path, required=True)
    made.add_argument("--qrels", type=Path, required=True)
    made.add_argument("--dry-run", action="store_true", help="report only")
    return top


def build(arguments: argparse.Namespace) -> int:
    """Make an index from files, or go on with one. Returns the exit status."""
    return ingest(arguments, create=True)


def add(arguments: argparse.Namespace) -> int:
    """Add files to an index that is there. Returns the exit status."""
    return ingest(arguments, create=False)


def sync(arguments: argparse.Namespace) -> int:
    """Show the plan and, without `--dry-run`, carry it out. Returns the exit status."""
    from retrieval.search.sync import run

    return run(arguments)


def withdraw(arguments: argparse.Namespace) -> int:
    """Withdraw documents or passages; exit status 1 if one of the ids is unknown."""
    from retrieval.search.index import Index

    with Index.open(arguments.index, threads=arguments.threads) as index:
        revision, gone = index.backend.withdraw(arguments.ids)
    unknown = [key for key in arguments.ids if key not in gone]
    print(f"{len(gone)} withdrawn, revision {revision}")
    for key in unknown:
        print(f"no such id: {key}", file=sys.stderr)
    return 1 if unknown else 0


def search(arguments: argparse.Namespace) -> int:
    """Print the hits of one query, or run a file of queries. Returns the exit status.

    Raises:
        ValueError: neither or both of a query and a file of queries, or a filter that cannot be read.
    """
    from retrieval.search.index import Index

    if (arguments.query is None) == (arguments.queries is None):
        raise ValueError("give either a query or --queries FILE")
    where = parse_filter(arguments.where)
    with Index.open(
        arguments.index, embedder=arguments.embedder, reranker=arguments.rerank, threads=arguments.threads
    ) as index:
        if arguments.query is not None:
            return _search_one(index, arguments, where)
        return _search_many(index, arguments, where)


def _search_one(index: Any, arguments: argparse.Namespace, where: Filter) -> int:
    hits = _hits(index, arguments.query, arguments, where, arguments.k)
    if not hits:
        print("nothing found", file=sys.stderr)
    for hit in hits:
        place = ", ".join(part for part in (hit.source, hit.region, hit.language) if part)
        sides = f"dense {_number(hit.dense)} lexical {_number(hit.lexical)}"
        print(f"{hit.score:.3f}  {hit.id}  {hit.title}  [{sides}{'; ' + place if place else ''}]")
        print(f"       {' '.join(hit.text.split())[:160]}")
    return 0


def _hits(index: Any, query: str, arguments: argparse.Namespace, where: Filter, k: int) -> list[Hit]:
    found: list[Hit] = index.search(
        query, k, where=where, mode=arguments.mode, floor=arguments.floor, most=arguments.most, exact=arguments.exact
    )
    return found


def _search_many(index: Any, arguments: argparse.Namespace, where: Filter) -> int:
    from retrieval.search import evaluation

    queries = evaluation.read_queries(arguments.queries)
    run: dict[str, list[tuple[str, float]]] = {}
    took = []
    with bar("searching", len(queries), " queries") as advance:
        for key, query in queries.items():
            started = time.perf_counter()
            run[key] = evaluation.documents(partial(_hits, index, query, arguments, where), arguments.k)
            took.append((time.perf_counter() - started) * 1000)
            advance(1)
    took.sort()
    if took:
        print(f"{len(run)} queries, p50 {took[len(took) // 2]:.2f} ms, p99 {took[int(len(took) * 0.99)]:.2f} ms")
    if arguments.run:
        evaluation.write_run(arguments.run, run)
    if arguments.qrels:
        found = evaluation.score(run, evaluation.read_qrels(arguments.qrels))
        print("  ".join(f"{name} {value:.4f}" for name, value in found.items()))
    return 0


def stats(arguments: argparse.Namespace) -> int:
    """Print what an index holds as JSON. Returns the exit status."""
    from retrieval.search.calibration import calibrated
    from retrieval.search.index import Index

    with Index.open(arguments.index, readonly=True, threads=arguments.threads) as index:
        floor = calibrated(index)
        labels: dict[str, Counter[str]] = {"region": Counter(), "language": Counter(), "kind": Counter()}
        for passage in index.documents():
            for name, counter in labels.items():
                counter[getattr(passage, name)] += 1
        folder = Path(arguments.index)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else None
        found = {
            "passages": index.count(), "documents": sum(labels["kind"].values()), "revision": index.revision,
            "embedder": index.embedder.id if index.embedder else None, "lexical_weight": index.weight,
            "languages_of_terms": sorted(index.backend.languages()), "bytes": size,
            "floor": asdict(floor) if floor else None,
            **{name: dict(counter.most_common(50)) for name, counter in labels.items()},
        }  # fmt: skip
    print(json.dumps(found, ensure_ascii=False, indent=2))
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write every document as JSONL. Returns the exit status."""
    from retrieval.search.index import Index

    target = arguments.output.open("w", encoding="utf-8") if arguments.output else None
    with Index.open(arguments.index, readonly=True) as index:
        for passage in index.documents():
            fields = {name: value for name, value in asdict(passage).items() if value}
            print(json.dumps({"_id": fields.pop("id"), **fields}, ensure_ascii=False), file=target or sys.stdout)
    if target:
        target.close()
    return 0


def tune(arguments: argparse.Namespace) -> int:
    """Find the lexical side's weight, print it and keep it. Returns the exit status."""
    from retrieval.search import evaluation
    from retrieval.search.index import Index
    from retrieval.search.tuning import tune as run

    queries, qrels = evaluation.read_queries(arguments.queries), evaluation.read_qrels(arguments.qrels)
    with Index.open(arguments.index, threads=arguments.threads) as index:
        before = index.weight
        with bar("asking", len(queries), " queries") as advance:
            found = run(index, queries, qrels, _counted(queries, advance))
        if not arguments.dry_run:
            index.backend.set("weight", repr(found.weight))
    print(f"lexical only {found.at[1.0]:.4f}, dense only {found.at[0.0]:.4f} (nDCG@10 on {arguments.queries})")
    print(f"two-fold: {found.held_out:.4f} with weights {found.folds[0]} and {found.folds[1]}")
    print(f"weight {before} -> {found.weight}{' (not kept: --dry-run)' if arguments.dry_run else ''}")
    return 0


def _counted(items: Iterable[str], advance: Any) -> Iterator[str]:
    for item in items:
        yield item
        advance(1)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

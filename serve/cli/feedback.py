"""`trimtab feedback export`: verdicts as JSONL that `trimtab train` reads."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve.config import ConfigError, Flags
from serve.configure.flags import CONFIG_HELP, found
from serve.configure.reader import load
from serve.store.feedback import labelled, preference, same_answers
from serve.store.place import open_verdicts


def main(argv: list[str]) -> int:
    """`trimtab feedback`."""
    parser = argparse.ArgumentParser("trimtab feedback", description="What people said of answers.")
    export = parser.add_subparsers(dest="command", required=True, metavar="export").add_parser(
        "export", help="write it as JSONL that `trimtab train` reads"
    )
    export.add_argument("--out", metavar="FILE", default="-", help="default: standard output")
    export.add_argument(
        "--kind",
        choices=("preference", "labelled"),
        default="preference",
        help="pairs (default), or thumbs as labels",
    )
    export.add_argument("--tenant", metavar="NAME", help='only this tenant\'s; "" is who calls without keys')
    export.add_argument("--since", metavar="DATE", help="only from this day on (UTC), like 2026-01-31")
    export.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
    export.add_argument("--state-dir", metavar="DIR", help="default ./state")
    args = parser.parse_args(argv)
    try:
        since = _midnight(args.since) if args.since else 0.0
        verdicts = open_verdicts(load(Flags(config=found(args.config), state_dir=args.state_dir)))
        kind, shape = ("rating", labelled) if args.kind == "labelled" else ("preference", preference)
        kept = list(verdicts.all(args.tenant, kind, since))
        told = [verdict for verdict in kept if kind == "rating" or not same_answers(verdict)]
        count = _write(args.out, map(shape, told))
        wrong = verdicts.damage()
    except BrokenPipeError:  # `trimtab` itself handles that the reader of its output has gone
        raise
    except (ConfigError, ValueError, OSError, sqlite3.Error) as error:
        print(f"trimtab feedback: {error}", file=sys.stderr)
        return 2
    for line in wrong:
        print(f"trimtab feedback: {verdicts.where} is damaged, rows may be missing: {line}", file=sys.stderr)
    if len(told) < len(kept):
        print(f"trimtab feedback: left out {len(kept) - len(told)} preferences between equal answers", file=sys.stderr)
    print(f"{count} rows from {verdicts.where}", file=sys.stderr)
    return 0


def _midnight(day: str) -> float:
    try:
        return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ValueError(f"--since {day}: not a date like 2026-01-31") from None


def _write(out: str, rows: Iterable[dict[str, Any]]) -> int:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with nullcontext(sys.stdout) if out == "-" else Path(out).open("w", encoding="utf-8") as file:
        return sum(1 for line in lines if file.write(line))

"""trimtab rewrite: look at a rewriter, or at the gate alone, without a server.

trimtab rewrite --upstream URL --model NAME < prompt.txt              one prompt, its rewrite and the verdict
trimtab rewrite --upstream URL --model NAME prompts.jsonl --out r.jsonl   a line each; runs on where it stopped
trimtab rewrite --judge pairs.jsonl                                   rows of prompt, rewrite -> accepted, rule
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, TypeVar, get_args

import httpx

from prompt_opt.diff import marked, word_diff
from prompt_opt.gate import judge
from prompt_opt.rewriter import DECODINGS, TEMPLATES, BadAnswer, Form, rewriter
from prompt_opt.rewriting import Rewriting

Row = dict[str, Any]
T = TypeVar("T")


class RowError(ValueError):
    """A line of a file is not what it should be; the message says which and why."""


def main(argv: list[str]) -> int:
    """`trimtab rewrite`."""
    args = _parser().parse_args(argv)
    try:
        if args.judge:
            return _judge(args)
        if not args.upstream:
            raise RowError("--upstream URL is needed to ask a rewriter (or --judge FILE, which asks none)")
        return asyncio.run(_rewrite(args))
    except (RowError, OSError, ValueError) as error:
        print(f"trimtab rewrite: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "trimtab rewrite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", nargs="?", default="-", metavar="FILE", help="JSONL with `prompt`; -: one on stdin")
    parser.add_argument("--upstream", metavar="URL", help="the rewriter's engine, OpenAI-compatible")
    parser.add_argument("--model", default="", metavar="NAME", help="the engine's name for the rewriter")
    parser.add_argument("--key-env", metavar="NAME", help="environment variable with the engine's API key")
    parser.add_argument("--template", choices=list(TEMPLATES), default="instruct")
    parser.add_argument("--decoding", choices=list(DECODINGS), default="stable")
    parser.add_argument("--mode", choices=get_args(Form), help="default: the template's own")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="calls at a time")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds for one rewrite")
    parser.add_argument("--out", metavar="FILE", help="write rows here; prompts that are in it already are left out")
    parser.add_argument("--judge", metavar="FILE", help="judge the rows (prompt, rewrite, mode?) of this JSONL")
    return parser


# ---------------------------------------------------------------- judging


def _judge(args: argparse.Namespace) -> int:
    rows = list(_rows(args.judge, ("prompt", "rewrite")))
    judged = []
    for at, row in _progress(rows):
        mode = row.get("mode", args.mode or "replace")
        if mode not in get_args(Form):
            raise RowError(f"{args.judge}:{at}: mode {mode!r} is unknown; valid are {', '.join(get_args(Form))}")
        verdict = judge(row["prompt"], row["rewrite"], mode)
        judged.append(row | {"accepted": verdict.accepted, "rule": verdict.rule, "detail": verdict.detail})
    with _sink(args.out, "w") as out:
        for row in judged:
            print(json.dumps(row, ensure_ascii=False), file=out)
    _sum_up(judged)
    return 0


# ---------------------------------------------------------------- rewriting


async def _rewrite(args: argparse.Namespace) -> int:
    spec = rewriter(
        "cli", args.upstream.rstrip("/").removesuffix("/v1"), args.template, args.decoding, model=args.model
    )
    form: Form = args.mode or spec.template.forms[0]
    if form not in spec.template.forms:
        raise RowError(f"--mode {form}: template {args.template!r} can only {', '.join(spec.template.forms)}")
    key = os.environ.get(args.key_env or "")
    if args.key_env and not key:
        raise RowError(f"--key-env: the environment has no {args.key_env}")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(timeout=args.timeout, headers=headers) as client:

        async def ask(engine: str, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
            answer = await client.post(engine + path, json={k: v for k, v in body.items() if v != ""})
            answer.raise_for_status()
            said = answer.json()
            return said if isinstance(said, dict) else {}

        rewriting = Rewriting(spec, ask, limit_s=args.timeout)
        if args.prompts == "-":
            row = await _one(rewriting, sys.stdin.read().strip(), form, args.timeout)
            _show(row, form)
            return 0 if row["accepted"] else 1
        return await _many(rewriting, args, form)


async def _many(rewriting: Rewriting, args: argparse.Namespace, form: Form) -> int:
    rows = list(_rows(args.prompts, ("prompt",)))
    done = {row["prompt"] for _, row in _so_far(args.out) if row.get("rule") != "failed"}
    todo = [row for _, row in rows if row["prompt"] not in done]
    if done:
        print(f"{len(rows) - len(todo)} of {len(rows)} are in {args.out} already", file=sys.stderr)
    gate = asyncio.Semaphore(max(1, args.jobs))

    async def one(row: Row) -> Row:
        async with gate:
            return row | await _one(rewriting, row["prompt"], form, args.timeout)

    out_rows: list[Row] = []
    with _sink(args.out, "a") as out:
        for _, call in _progress(list(enumerate(asyncio.as_completed([one(row) for row in todo])))):
            out_rows.append(await call)
            print(json.dumps(out_rows[-1], ensure_ascii=False), file=out, flush=True)
    _sum_up(out_rows)
    return 0


async def _one(rewriting: Rewriting, prompt: str, form: Form, timeout_s: float) -> Row:
    started = time.monotonic()
    row: Row = {"prompt": prompt, "mode": form}
    try:
        async with asyncio.timeout(timeout_s):
            done = await rewriting.rewrite(prompt, form, deadline=started + timeout_s)
    except (httpx.HTTPError, BadAnswer, TimeoutError, json.JSONDecodeError) as error:
        why = str(error) or type(error).__name__
        return row | {"rewrite": None, "accepted": False, "rule": "failed", "detail": why}
    verdict = done.verdict
    row |= {"rewrite": done.text, "accepted": verdict.accepted, "rule": verdict.rule, "detail": verdict.detail}
    return row | {"offered": done.offered, "ms": round((time.monotonic() - started) * 1000)}


def _show(row: Row, form: Form) -> None:
    if row["rewrite"] is not None:
        print(row["rewrite"] if form == "complement" else marked(word_diff(row["prompt"], row["rewrite"])))
    verdict = "accepted" if row["accepted"] else f"rejected: {row['rule']} ({row['detail']})"
    print(verdict, file=sys.stderr)


# ---------------------------------------------------------------- rows


def _rows(path: str, needed: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """The rows of a JSONL, with their line numbers.

    Raises:
        RowError: a line is no object, or lacks a text.
    """
    for at, line in enumerate(Path(path).read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RowError(f"{path}:{at}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise RowError(f"{path}:{at}: must be an object, not {type(row).__name__}")
        for name in needed:
            if not isinstance(row.get(name), str):
                raise RowError(f"{path}:{at}: {name} is missing or no string")
        yield at, row


def _so_far(path: str | None) -> Iterator[tuple[int, Row]]:
    return _rows(path, ("prompt",)) if path and Path(path).exists() else iter(())


def _sink(path: str | None, mode: str) -> AbstractContextManager[IO[str]]:
    return open(path, mode, encoding="utf-8") if path else nullcontext(sys.stdout)


def _progress(rows: Sequence[tuple[int, T]]) -> Iterator[tuple[int, T]]:
    """The rows, with a bar on stderr where that is a terminal."""
    shown = sys.stderr.isatty() and len(rows) > 1
    for done, row in enumerate(rows):
        yield row
        if shown:
            filled = (done + 1) * 30 // len(rows)
            bar = "#" * filled + " " * (30 - filled)
            print(f"\r[{bar}] {done + 1}/{len(rows)}", end="", file=sys.stderr, flush=True)
    if shown:
        print(file=sys.stderr)


def _sum_up(rows: Sequence[Row]) -> None:
    accepted = sum(row["accepted"] for row in rows)
    by_rule = Counter(row["rule"] for row in rows if not row["accepted"])
    rules = "".join(f", {rule} {n}" for rule, n in by_rule.most_common())
    print(f"{accepted} of {len(rows)} accepted{rules}", file=sys.stderr)

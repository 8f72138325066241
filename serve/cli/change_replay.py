"""The part of `trimtab change` that tries a change: on one question, or on thousands of requests."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from prompt_opt.gate.diff import marked
from serve.api.tried import tried
from serve.approval.compare import Comparison
from serve.approval.desk import Desk
from serve.approval.judge import fingerprint
from serve.approval.replay import Asked, kept, questions, replay
from serve.approval.trial import prepare
from serve.chat.keys import Caller
from serve.errors import BadRequest
from serve.store.place import open_traces


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands."""
    one = command("try", "print how a change would alter the prompt of a question", _try)
    one.add_argument("question", metavar="TEXT", help="what is asked")
    one.add_argument("--policy", metavar="NAME", default="", help="default: the first that the change touches")
    many = command("replay", "say what a change would do to many prompts, without asking an engine", _replay)
    source = many.add_mutually_exclusive_group(required=True)
    source.add_argument("--questions", metavar="FILE", type=Path,
                        help="JSONL of texts, lists of messages, or objects with a prompt")  # fmt: skip
    source.add_argument("--traces", action="store_true", help="the requests that were kept, where content was kept")
    many.add_argument("--policy", action="append", metavar="NAME", help="default: all it touches; repeatable")
    many.add_argument("--out", metavar="FILE", type=Path, help="a row for each prompt (default: replay-ID.jsonl)")


def _try(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    body = json.dumps({"messages": [{"role": "user", "content": args.question}]}).encode()
    found = asyncio.run(tried(desk, who, args.ident, body, args.policy or None))
    print(f"policy {found['policy']}: {'changed' if found['changed'] else 'not changed'}")
    for name, text in (("came", "comes"), ("went", "goes"), ("reworded", "is reworded")):
        for rule in found[name]:
            print(f"  {rule} {text}")
    print(f"  {found['tokens_added']:+d} tokens (estimated)\n")
    print(marked(found["diff"]))
    return 0


def _replay(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    from tqdm import tqdm

    change = desk.find(who, args.ident)
    out = args.out or Path(f"replay-{change.id}.jsonl")
    started = time.monotonic()
    with closing(prepare(desk, change)) as trial:
        names = args.policy or list(trial.touched)
        if unknown := [name for name in names if name not in {*trial.config.policies, *desk.config.policies}]:
            raise BadRequest(f"no policy {unknown[0]!r}; the change touches {', '.join(trial.touched) or 'none'}")
        rows = _rows(desk, args, names)
        with tqdm(total=len(rows), desc="replaying", unit=" prompts", disable=None) as bar:
            summary = asyncio.run(replay(Comparison(desk, trial), rows, out, fingerprint(change), bar.update))
    print("\n".join(summary.words()))
    print(f"{time.monotonic() - started:.1f} s; rows in {out}")
    return 0


def _rows(desk: Desk, args: argparse.Namespace, names: Iterable[str]) -> list[Asked]:
    if args.questions is not None:
        return list(questions(args.questions, names))
    with closing(open_traces(desk.config)) as traces:
        return list(kept(traces.all(), names))

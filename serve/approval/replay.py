"""Replay of requests through old and new prompts: what would a change do? No engine is asked.

Each row is written as it is known, so that a replay that was interrupted goes on where it stopped. The file's first
line names the change's digest: another version of the change begins a new file.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from prompt_opt.core import Chat
from prompt_opt.layout.order import NoPlace
from prompt_opt.pipeline import StageFailed
from serve.approval.compare import Comparison
from serve.approval.items import digest
from serve.config import Server
from serve.dialects import openai_chat, wire
from serve.errors import ApiError

_AT_ONCE = 32  # comparisons under way
_TOP = 20  # rules that a summary names


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to replay."""

    id: str
    policy: str
    chat: Chat
    options: Mapping[str, Any] = field(default_factory=dict)
    tenant: str = ""


@dataclass
class Summary:
    """What a replay has found so far."""

    asked: int = 0
    changed: int = 0
    failed: int = 0
    tokens_added: int = 0
    came: Counter[str] = field(default_factory=Counter)
    went: Counter[str] = field(default_factory=Counter)
    reworded: Counter[str] = field(default_factory=Counter)

    def count(self, row: Mapping[str, Any]) -> None:
        """Take in a row."""
        self.asked += 1
        if "error" in row:
            self.failed += 1
            return
        self.changed += bool(row["changed"])
        self.tokens_added += row["tokens_added"]
        for name in ("came", "went", "reworded"):
            getattr(self, name).update(row[name])

    def words(self) -> Iterator[str]:
        """It in lines."""
        share = f" ({100 * self.changed / self.asked:.1f}%)" if self.asked else ""
        yield f"{self.asked} prompts, {self.changed} changed{share}, {self.failed} could not be laid out"
        mean = self.tokens_added / self.asked if self.asked else 0.0
        yield f"tokens added: {self.tokens_added:+d} in all, {mean:+.1f} a prompt (estimated)"
        for name, text in (("came", "comes into"), ("went", "leaves"), ("reworded", "is reworded in")):
            rules: Counter[str] = getattr(self, name)
            for rule, times in rules.most_common(_TOP):
                yield f"  {rule} {text} {times} of {self.asked} prompts"
            if len(rules) > _TOP:
                yield f"  (of {len(rules)} rules, the {_TOP} most frequent)"


async def replay(
    comparison: Comparison, asked: Iterable[Asked], out: Path, name: str, advance: Callable[[int], object]
) -> Summary:
    """Compare the prompts of all requests and write a row for each; `name` is the change's digest.

    Raises:
        ValueError: the file `out` is of another change, or no replay's.
    """
    summary, known = Summary(), _known(out, name)
    for row in known.values():
        summary.count(row)
    advance(len(known))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("ab") as file:
        if file.tell() == 0:
            file.write(json.dumps({"replay": name}).encode() + b"\n")
        async for row in _rows(comparison, (one for one in asked if one.id not in known)):
            file.write(msgspec.json.encode(row) + b"\n")
            summary.count(row)
            advance(1)
    return summary


async def _rows(comparison: Comparison, asked: Iterable[Asked]) -> AsyncIterator[dict[str, Any]]:
    """The rows as they are ready, some comparisons at a time."""
    waiting: set[asyncio.Task[dict[str, Any]]] = set()
    for one in asked:
        waiting.add(asyncio.create_task(_row(comparison, one)))
        if len(waiting) >= _AT_ONCE:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    for last in asyncio.as_completed(waiting):
        yield await last


async def _row(comparison: Comparison, asked: Asked) -> dict[str, Any]:
    about = {"id": asked.id, "policy": asked.policy}
    try:
        found = await comparison.compare(asked.chat, asked.policy, asked.options, asked.tenant)
    except (StageFailed, NoPlace) as error:
        return {**about, "error": str(error)}
    return {**about, **found.row()}


def _known(out: Path, name: str) -> dict[str, dict[str, Any]]:
    """The rows of an earlier run; a last line that was cut short is cut away."""
    if not out.exists():
        return {}
    body = out.read_bytes()
    whole = body[: body.rfind(b"\n") + 1]
    if len(whole) < len(body):
        with out.open("r+b") as file:
            file.truncate(len(whole))
    lines = whole.splitlines()
    if not lines:
        return {}
    try:
        head, rows = json.loads(lines[0]), [json.loads(line) for line in lines[1:]]
        if head["replay"] != name:
            raise ValueError(f"{out} is a replay of another change, or of an earlier version: name another file")
        return {row["id"]: row for row in rows}
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{out} is not a replay: name another file") from None


def questions(file: Path, policies: Iterable[str]) -> Iterator[Asked]:
    """The questions of a JSONL file under each policy: texts, lists of messages, or requests.

    Raises:
        ValueError: a line is none of these.
    """
    names = list(policies)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                body = _body(json.loads(line))
                request = wire.parse(json.dumps(body).encode(), Server())
                chat = openai_chat.chat(request, Server())
            except (ValueError, ApiError) as error:
                raise ValueError(f"{file}:{number}: {error}") from None
            for name in names:
                yield Asked(f"{digest(body)}-{number}-{name}", name, chat, request.options)


def _body(row: Any) -> dict[str, Any]:
    """A row of a question file as a request."""
    if isinstance(row, dict) and "messages" not in row:
        row = next((row[name] for name in ("prompt", "question", "text", "instruction") if name in row), None)
    if isinstance(row, str):
        return {"messages": [{"role": "user", "content": row}]}
    if isinstance(row, list):
        return {"messages": row}
    if isinstance(row, dict):
        return {name: row[name] for name in ("messages", "trimtab") if name in row}
    raise ValueError('a question is a text, a list of messages, or an object with "messages", "prompt" or "question"')


def kept(traces: Iterable[tuple[str, Mapping[str, Any]]], policies: Iterable[str]) -> Iterator[Asked]:
    """The kept requests (tenant and trace) that these policies were applied to, as far as content was kept."""
    names = set(policies)
    for tenant, trace in traces:
        if trace.get("policy") not in names or not trace.get("before"):
            continue
        body = json.dumps({"messages": trace["before"]}).encode()
        try:
            chat = openai_chat.chat(wire.parse(body, Server(max_messages=10**6)), Server(max_messages=10**6))
        except ApiError:
            continue  # of another API, kept as it came
        yield Asked(str(trace["id"]), str(trace["policy"]), chat, {}, tenant)

"""Is a change ever half in force? An approval is killed (SIGKILL) at each of its steps, and at random moments.

python -m benchmarks.change_kills                  200 kills; each time: in force or not, never half, the account whole
python -m benchmarks.change_kills --kills 24
python -m benchmarks.change_kills --workers 8      how soon a change is in force on every worker of a server

A change puts rules into two indexes, a policy and a profile. The process that approves it is killed before or after
each thing that it writes, or after a random part of the time that an approval takes. Then another process looks,
finishes what was begun, and looks again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from serve.approval import decisions, drafts
from serve.approval.desk import Desk
from serve.approval.enact import catch_up
from serve.chat.indexes import Indexes
from serve.chat.keys import Caller
from serve.config import Flags
from serve.configure.reader import read, resolve
from serve.store.account.verification import verify
from serve.store.place import open_account, open_changes

CONFIG = """
state_dir = "{state}"
[engine.main]
url = "{url}"
[index.law]
embedder = "none"
[index.house]
embedder = "none"
[policy.rules]
stages = ["opo"]
[policy.rules.opo]
index = ["law", "house"]
"""
WRITES = (("decide", 0), ("append", 0), ("append", 1), ("add", 0), ("add", 1), ("finish", 0))
POINTS = [(step, nth, after) for step, nth in WRITES for after in (False, True)]


def keys() -> str:
    rows = [("ada", '["author"]'), ("ben", '["approver"]')]
    return "".join(
        f'[[key]]\nid = "{name}"\nsha256 = "{hashlib.sha256(f"sk-{name}".encode()).hexdigest()}"\nrights = {rights}\n'
        for name, rights in rows
    )


def desk_of(config: Path) -> tuple[Desk, Indexes]:
    source, managed = read(Flags(config=str(config)))
    resolved = resolve(source, managed)
    indexes = Indexes(resolved.indexes)
    changes = open_changes(resolved.store, resolved.state_dir)
    return Desk(source, resolved, changes, indexes.open, partial(open_account, resolved)), indexes


def who(desk: Desk, name: str) -> Caller:
    return Caller(name, next(key for key in desk.config.keys if key.id == name))


def items(n: int) -> list[dict[str, Any]]:
    return [
        {"kind": "rule", "index": "law", "name": f"law-{n}", "content": {"text": f"Rule {n} of the law."}},
        {"kind": "rule", "index": "house", "name": f"house-{n}", "content": {"text": f"Rule {n} of the house."}},
        {"kind": "policy", "name": f"policy-{n}", "content": {"stages": ["opo"], "opo": {"index": ["law"]}}},
        {"kind": "profile", "name": f"profile-{n}", "content": f'instruction = "Be brief, {n}."\n'},
    ]


class Deadly:
    """An object whose calls of one name are counted; the process dies before or after the nth."""

    def __init__(self, inner: Any, name: str, die: Callable[[str, bool], None]) -> None:
        self._inner, self._name, self._die = inner, name, die

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._name.split():
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._die(name, False)
            result = found(*args, **kwargs)
            self._die(name, True)
            return result

        return call


def deadly(desk: Desk, point: tuple[str, int, bool]) -> Desk:
    seen: Counter[str] = Counter()

    def die(name: str, after: bool) -> None:
        if (name, seen[name], after) == point:
            os.kill(os.getpid(), signal.SIGKILL)
        seen[name] += after

    changes = Deadly(desk.changes, "decide finish", die)
    return replace(
        desk, changes=changes, open_index=lambda name: Deadly(desk.open_index(name), "add", die),
        account=lambda: Deadly(desk.account(), "append", die),
    )  # fmt: skip


def forked(work: Callable[[], Any], kill_after_s: float | None = None) -> Any:
    """What `work` returns in a process of its own, as JSON; None where that was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            os.write(writing, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    timer = threading.Timer(kill_after_s, os.kill, (child, signal.SIGKILL)) if kill_after_s is not None else None
    if timer is not None:
        timer.start()
    with os.fdopen(reading, "rb") as file:
        body = file.read()
    _, status = os.waitpid(child, 0)
    if timer is not None:
        timer.cancel()
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a process failed: see above")
    return json.loads(body) if os.WIFEXITED(status) else None


def submit(config: Path, n: int) -> str:
    desk, indexes = desk_of(config)
    with closing(indexes):
        return submitted(desk, n)


def submitted(desk: Desk, n: int) -> str:
    change = drafts.draft(desk, who(desk, "ada"), {"reason": "benchmark", "items": items(n)})
    return decisions.submit(desk, who(desk, "ada"), change.id, {}).id


def approve(config: Path, ident: str, point: tuple[str, int, bool] | None) -> float:
    desk, indexes = desk_of(config)
    started = time.monotonic()
    with closing(indexes):
        decisions.approve(deadly(desk, point) if point else desk, who(desk, "ben"), ident, {})
    return time.monotonic() - started


def look(config: Path, ident: str, n: int) -> dict[str, Any]:
    """What of a change is in force, before and after somebody has finished what was begun; and the next change."""
    desk, indexes = desk_of(config)
    with closing(indexes):
        before = state(desk, ident, n)
        catch_up(desk, wait=True)
        return {"before": before, "after": state(desk, ident, n), "next": submitted(desk, n + 1)}


def state(desk: Desk, ident: str, n: int) -> dict[str, Any]:
    managed = desk.changes.managed()
    change = desk.changes.find(ident)
    assert change is not None
    parts = [
        desk.open_index("law").get(f"law-{n}") is not None,
        desk.open_index("house").get(f"house-{n}") is not None,
        f"policy-{n}" in managed.policies,
        f"profile-{n}" in managed.profiles,
    ]
    return {"state": change.state, "parts": parts, "intent": desk.changes.intent() is not None}


def kills(count: int, seed: int, *, exact_only: bool = False) -> int:
    import serve.store.account.journal  # noqa: F401  (here, and not in every process that is forked)

    logging.disable(logging.WARNING)
    chance, found = random.Random(seed), Counter[str]()
    folder = Path(tempfile.mkdtemp(prefix="change-kills-"))
    config = folder / "trimtab.toml"
    config.write_text(CONFIG.format(state=folder / "state", url="http://127.0.0.1:9") + keys())
    first = forked(partial(submit, config, 0))
    took = forked(partial(approve, config, first, None))
    started = time.monotonic()
    ident = forked(partial(look, config, first, 0))["next"]
    for n in range(1, count + 1):
        exact = exact_only or n % 2 == 0
        point = POINTS[(n if exact_only else n // 2) % len(POINTS)] if exact else None
        delay = None if exact else chance.uniform(0, 1.6 * took + 0.05)
        done = forked(partial(approve, config, ident, point), delay)
        seen = forked(partial(look, config, ident, n))
        before, after = seen["before"], seen["after"]
        whole = all(after["parts"]) and after["state"] == "in_force"
        nothing = not any(after["parts"]) and after["state"] == "submitted"
        half = not (whole or nothing) or after["intent"]
        lost = done is not None and not whole  # approved, said so, and not in force
        unmarked = len(set(before["parts"])) > 1 and not before["intent"]
        found["in force" if whole else "not in force" if nothing else "HALF"] += 1
        found["killed"] += done is None
        found["wrong"] += half or lost or unmarked
        found["finished by another process"] += before["intent"]
        if half or lost or unmarked:
            print(f"kill {n} at {point or delay}: before {before}, after {after}", file=sys.stderr)
        ident = seen["next"]
    verdict = verify(folder / "state/account")
    entries = [json.loads(line) for file in sorted((folder / "state/account").glob("*.jsonl"))
               for line in file.read_text().splitlines() if line]  # fmt: skip
    logged = {row["change"] for row in entries if row["kind"] == "change" and row["step"] == "in_force"}
    print(f"{count} approvals, {found['killed']} killed, in {time.monotonic() - started:.0f} s:"
          f" {found['in force']} in force, {found['not in force']} not, {found['HALF']} half;"
          f" {found['finished by another process']} finished by another process")  # fmt: skip
    print(f"account whole: {verdict.whole}; entries of changes in force: {len(logged)} of {found['in force'] + 1}")
    wrong = found["wrong"] or not verdict.whole or len(logged) != found["in force"] + 1
    shutil.rmtree(folder)
    return 1 if wrong else 0


def workers(count: int) -> int:
    """How long some worker still answers by the old state, after an approval has been acknowledged."""
    from tests.upstream import FakeUpstream

    with tempfile.TemporaryDirectory(prefix="change-workers-") as name, FakeUpstream() as upstream:
        folder = Path(name)
        config = folder / "trimtab.toml"
        config.write_text(CONFIG.format(state=folder / "state", url=upstream.url) + keys())
        server = subprocess.Popen(
            [sys.executable, "-m", "serve.cli.command", "serve", "--config", str(config), "--port", "0",
             "--workers", str(count)], stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            url = next(line for line in server.stdout if "serving on" in line).split()[-1]
            late = [_late(url, n) for n in range(1, 11)]
        finally:
            server.terminate()
            server.wait(60)
    late.sort()
    print(f"{count} workers, {len(late)} changes of a rule and a policy: after the approval was acknowledged the last"
          f" answer by the old state came within {1000 * late[len(late) // 2]:.0f} ms (median),"
          f" {1000 * late[-1]:.0f} ms (most)")  # fmt: skip
    return 0 if late[-1] < 1.0 else 1


def _late(url: str, n: int) -> float:
    """Seconds after the approval at which a request last met the old state; 0 for none."""
    ada, ben = ({"authorization": f"Bearer sk-{name}"} for name in ("ada", "ben"))

    def call(path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(url + path, json=body, headers=headers, timeout=60, verify=False)

    ident = call("/v1/changes", {"reason": "r", "items": items(n)}, ada).json()["id"]
    call(f"/v1/changes/{ident}/submit", {}, ada).raise_for_status()
    call(f"/v1/changes/{ident}/approve", {}, ben).raise_for_status()
    approved, last = time.monotonic(), 0.0
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    while (now := time.monotonic() - approved) < 1.5:
        if call("/v1/chat/completions", chat, {**ben, "x-trimtab-policy": f"policy-{n}"}).status_code != 200:
            last = now
    return last


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exact", action="store_true", help="only before and after each write, not in between")
    parser.add_argument("--workers", type=int, help="measure this instead")
    args = parser.parse_args()
    return workers(args.workers) if args.workers else kills(args.kills, args.seed, exact_only=args.exact)


if __name__ == "__main__":
    sys.exit(main())

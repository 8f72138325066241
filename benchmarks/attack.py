"""python benchmarks/attack.py [--texts 25000]: does any text open a turn, or hold the server up?

    layout     generated chats and advice full of markers, fences, separators, special tokens and disguises, laid out in
               every profile (ours, the original project's and some made for this) in the base render, whose turns two
               readers of their own count; and in the chat render, whose messages must be the chat's with the advice
               in its place, and special tokens in nothing that is not the client's
    bodies     a server gets bodies of a few megabytes that were chosen to be slow; meanwhile it answers /healthz, whose
               longest delay and the CPU time of each body are shown
    kills      SIGKILL of a worker, the engine and the parent under load, by benchmarks/kills.py
    disk       a disk that fills up under load and heals, by benchmarks/full_disk.py

Damage to files is benchmarks/damage.py's, a flood of large bodies benchmarks/limits.py's.
The readers and the generator's stock are those of tests/prompt_opt/test_turns.py. Exit status 1 if a turn was opened,
or one of the last two parts finds a fault.
What it does not cover: engines' own tokenizers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.full_disk import full_disk
from benchmarks.kills import kills
from benchmarks.limits import PATH, cpu, engine, process
from prompt_opt.core import Advice, Chat, Exemplar, Message, Policy, Principle, Profile
from prompt_opt.layout.order import lay_out
from tests.prompt_opt.test_turns import ITS_OWN, POOL, PROFILES, TOKENS, by_fences, by_lines, wanted

POLICIES = {
    name: {render: Policy("attack", render=render, profile=shown) for render in ("base", "chat")}  # type: ignore[arg-type]
    for name, shown in PROFILES.items()
}


class Generator:
    """Texts, chats and advice, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.texts = 0

    def text(self) -> str:
        self.texts += 1
        pieces = self._random.choices(POOL, k=self._random.randrange(10))
        if self._random.random() < 0.3:
            pieces.insert(0, chr(self._random.randrange(0x110000 - 0x800) + 0x800))
        return "".join(pieces).encode("utf-8", "ignore").decode()

    def chat(self) -> Chat:
        roles = ("user", "assistant", "user", "assistant", "system", "developer")
        rows = [Message(self._random.choice(roles), self.text()) for _ in range(self._random.randrange(5))]
        return Chat((*rows, Message("user", self.text())))

    def advice(self, shown: Profile) -> Advice:
        def maybe(chance: float = 0.5) -> bool:
            return self._random.random() < chance

        def rules() -> tuple[Principle, ...]:
            return tuple(
                Principle(self.text(), self.text(), title=self.text()) for _ in range(self._random.randrange(3))
            )

        return Advice(
            instruction="Be kind." if maybe() else "",
            exemplars=(Exemplar(self.text(), self.text()),) if maybe() else (),
            pinned=rules(),
            principles=rules(),
            rewrite=self.text() if maybe() else None,
            complement=self.text() if maybe() else None,
        )


def layout(texts: int, seed: int) -> int:
    """How many prompts had other turns than their chats."""
    make, faults, prompts = Generator(seed), 0, Counter[str]()
    since = time.process_time()
    while make.texts < texts:
        for name, shown in PROFILES.items():
            chat, advice = make.chat(), make.advice(shown)
            for render, fault in (("base", _base_fault), ("chat", _chat_fault)):
                prompts[render] += 1
                if why := fault(chat, advice, POLICIES[name][render]):
                    faults += 1
                    print(f"{name}, {render}: {why}\n  {chat}\n  {advice}")
    print(
        f"layout: {make.texts} texts in {dict(prompts)} prompts of {len(PROFILES)} profiles: {faults} with another turn"
        f" ({time.process_time() - since:.0f} s of CPU)"
    )
    return faults


def _base_fault(chat: Chat, advice: Advice, policy: Policy) -> str:
    prompt = lay_out(chat, advice, policy, ITS_OWN)
    assert prompt.text is not None
    turns = wanted(chat, len(advice.exemplars))
    for reader in (by_lines, by_fences):
        try:
            if (seen := reader(prompt.text, policy.profile)) != turns:
                return f"{reader.__name__} sees {seen}, not {turns}"
        except AssertionError as error:
            return str(error)
    return next((f"{token!r} is there" for token in TOKENS if token in prompt.text), "")


def _chat_fault(chat: Chat, advice: Advice, policy: Policy) -> str:
    prompt = lay_out(chat, advice, policy, ITS_OWN)
    assert prompt.messages is not None
    roles = [m.role for m in prompt.messages]
    leading = [m.role for m in chat.messages]
    more = ["user", "assistant"] * len(advice.exemplars)
    if sorted(r for r in roles if r not in ("system", "developer")) != sorted(
        [r for r in leading if r not in ("system", "developer")] + more
    ):
        return f"roles {roles} of {leading}"
    for span in prompt.spans:
        if span.origin in ("pinned", "retrieved", "rewrite"):
            for token in TOKENS:
                if token in span.text:
                    return f"{token!r} in {span.origin}"
    return ""


def hostile(size: int) -> Iterator[tuple[str, bytes]]:
    """Names and bodies."""

    def chat(text: str) -> bytes:
        return json.dumps(
            {"model": "bench", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False
        ).encode()

    for name, piece in {
        "plain text": "word ", "hashes": "#\n", "zero-width": "\u200b", "hash, zero-width": "#" + "\u200b" * 100,
        "markers": "## Question\n", "nearly markers": "## Questio\n", "ticks": "`", "fences": "```\n", "angles": "<|a",
        "vertical tabs": "\x0b", "brackets": "[{", "quotes": '"', "backslashes": "\\",
    }.items():  # fmt: skip
        yield name, chat(piece * (size // len(json.dumps(piece, ensure_ascii=False).encode()[1:-1])))
    keys = b", ".join(b'"k%d":1' % n for n in range(size // 12))
    yield "fields", b'{"model":"bench","messages":[],' + keys + b"}"
    lists = b",".join([b'{"a":[]}'] * (size // 9))
    yield "objects", b'{"model":"bench","messages":[{"role":"user","content":"hi"}],"tools":[' + lists + b"]}"
    rows = [{"role": "user", "content": "x" * (size // 2000)}] * 2000
    yield "messages", json.dumps({"model": "bench", "messages": rows}).encode()


async def bodies(url: str, parent: psutil.Process, size: int, policy: str) -> None:
    """Send each, and see how long others wait."""
    headers = {"content-type": "application/json", "x-trimtab-policy": policy}
    timeout = aiohttp.ClientTimeout(600)
    async with aiohttp.ClientSession(timeout=timeout) as http, aiohttp.ClientSession(timeout=timeout) as other:
        for name, body in hostile(size):
            worst, ended = 0.0, asyncio.Event()

            async def watch(ended: asyncio.Event = ended) -> None:
                nonlocal worst
                while not ended.is_set():
                    since = time.monotonic()
                    async with other.get(url + "/healthz") as answer:
                        await answer.read()
                    worst = max(worst, time.monotonic() - since)

            watching = asyncio.create_task(watch())
            await asyncio.sleep(0.05)
            worst, before = 0.0, cpu(parent)
            async with http.post(url + PATH, data=body, headers=headers) as answer:
                await answer.read()
            took = cpu(parent) - before
            ended.set()
            await watching
            print(
                f"{policy:4} {name:18} {len(body) / 2**20:5.1f} MB: {answer.status}, {took:5.2f} s of CPU,"
                f" others waited {worst * 1000:6.1f} ms at most",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="layout,bodies,kills,disk", help="of those above, with commas between")
    parser.add_argument("--texts", type=int, default=25000, help="of the part layout (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the texts (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="of the last two parts (default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=24, help="of a body (default: %(default)s)")
    options = parser.parse_args()
    parts, faults = options.parts.split(","), 0
    if "layout" in parts:
        faults = layout(options.texts, options.seed)
    if "bodies" in parts:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            upstream = stack.enter_context(engine())
            path = Path(folder) / "trimtab.toml"
            rows = '[policy.base]\nrender = "base"\n[policy.chat]\nrender = "chat"\n'
            path.write_text(f'state_dir = "{folder}/state"\n[engine.main]\nurl = "{upstream}"\n{rows}')
            argv = [sys.executable, "-m", "serve.cli.command", "serve", "--config", str(path), "--port", "0"]
            parent, url = stack.enter_context(process(argv, "serving on"))
            for policy in ("raw", "chat", "base"):
                asyncio.run(bodies(url, parent, options.megabytes * 2**20, policy))
    if "kills" in parts:
        faults += asyncio.run(kills(options.rounds, 24, options.seed))
    if "disk" in parts:
        faults += asyncio.run(full_disk(options.rounds, 24, options.seed))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

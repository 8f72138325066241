"""python benchmarks/prefix_cache.py --python VLLM_PYTHON --prompts question.jsonl --rules rules.jsonl: what does vLLM's
prefix cache keep of an aligned prompt?

VLLM_PYTHON is the interpreter of an environment with vLLM. Starts it with the embedded base model (and a chat
template, so that both renders work) and `trimtab serve` before it; sends distinct questions under each policy and
reads vLLM's own counters. Then the same prompts with the question before the constant part, to show that the order
does it; the time to the first token with and without URIAL, in pairs, cold and warm; one prompt under two tenants.

`of whole blocks` is what was found of what could be: the tokens that all prompts of a policy begin with, in whole
blocks of the cache (128 tokens on a CPU, 16 on a GPU).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.endings import prompts
from serve.config import EMBEDDED, Engine
from serve.process.launcher import command, free_port, resolve

TEMPLATE = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
CONFIG = """
state_dir = "{folder}/state"
[engine.main]
url = "{vllm}"
[engine.hints]
url = "{hints}"
[index.rules]
path = "{folder}/rules"
[rewriter.hints]
engine = "hints"
model = "hints"
[policy.plain]
render = "base"
profile = "plain"
[policy.urial]
render = "base"
[policy.urial-chat]
render = "chat"
[policy.urial-opo]
render = "base"
stages = ["urial", "opo"]
opo = {{ index = ["rules"], k = 3 }}
[policy.urial-opo-bpo]
render = "base"
stages = ["urial", "opo", "bpo"]
opo = {{ index = ["rules"], k = 3 }}
bpo = {{ rewriter = "hints", mode = "complement" }}
[policy.apart]
render = "base"
cache_salt = "tenant"
{keys}
"""
POLICIES = ("raw", "plain", "urial", "urial-chat", "urial-opo", "urial-opo-bpo")


class Hints(BaseHTTPRequestHandler):
    """A rewriter that says the same to everybody."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        said = {"choices": [{"index": 0, "finish_reason": "stop",
                             "message": {"role": "assistant", "content": "Please give concrete steps."}}]}  # fmt: skip
        self._answer(json.dumps(said).encode())

    def do_GET(self) -> None:
        self._answer(b'{"data": []}')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Bench:
    """vLLM and Trimtab, started; `client` talks to Trimtab, `direct` to vLLM."""

    def __init__(self, args: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        model = folder / "tiny-chat"
        shutil.copytree(EMBEDDED, model)
        (model / "chat_template.jinja").write_text(TEMPLATE)
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        engine = Engine(
            "main", model=str(model), launcher="vllm", python=args.python,
            args=("--enforce-eager", "--max-model-len", "4096"),
        )  # fmt: skip
        launch = command(resolve(engine), free_port())
        begun = time.monotonic()
        self._run(stack, launch.argv, cwd=launch.cwd, env=launch.env, log=folder / "vllm.log")
        self.direct = stack.enter_context(httpx.Client(base_url=launch.base_url, timeout=120))
        wait(self.direct, "/health", 600, folder / "vllm.log")
        print(f"vLLM ready after {time.monotonic() - begun:.0f} s")
        trimtab = Path(sys.executable).with_name("trimtab")
        build = [trimtab, "index", "build", folder / "rules", "--input", args.rules, "--embedder", "none"]
        subprocess.run(build, check=True, capture_output=True)
        hints = ThreadingHTTPServer(("127.0.0.1", 0), Hints)
        threading.Thread(target=hints.serve_forever, daemon=True).start()
        stack.callback(hints.shutdown)
        keys = "".join(
            f'[[key]]\nid = "{name}"\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n'
            'rights = ["raw", "explain"]\n'
            for name in ("acme", "bolt")
        )
        hints_url = f"http://127.0.0.1:{hints.server_address[1]}"
        text = CONFIG.format(folder=folder, vllm=launch.base_url, hints=hints_url, keys=keys)
        (folder / "trimtab.toml").write_text(text)
        port = str(free_port())
        serve = (str(trimtab), "serve", "--config", str(folder / "trimtab.toml"), "--port", port)
        self._run(stack, serve, log=folder / "trimtab.log")
        headers = {"authorization": "Bearer acme"}
        base = f"http://127.0.0.1:{port}"
        self.client = stack.enter_context(httpx.Client(base_url=base, timeout=120, headers=headers))
        wait(self.client, "/readyz", 120, folder / "trimtab.log")

    def _run(
        self, stack: ExitStack, argv: tuple[str, ...], *, log: Path, cwd: str | None = None, env: Any = None
    ) -> None:
        import os

        out = stack.enter_context(log.open("w"))
        process = subprocess.Popen(argv, stdout=out, stderr=out, cwd=cwd, env={**os.environ, **(env or {})})
        stack.callback(process.wait, 60)
        stack.callback(process.terminate)

    def counters(self) -> tuple[float, float]:
        """Tokens asked of the cache, and found in it."""
        text = self.direct.get("/metrics").text
        return tuple(  # type: ignore[return-value]
            sum(float(m) for m in re.findall(rf"^vllm:prefix_cache_{what}_total\{{.*\}} (\S+)$", text, re.MULTILINE))
            for what in ("queries", "hits")
        )

    def ask(self, policy: str, messages: list[dict[str, str]], tokens: int = 1, **more: Any) -> Any:
        body = {"model": "tiny-chat", "messages": messages, "max_tokens": tokens, "temperature": 0, **more}
        return self.client.post("/v1/chat/completions", json=body, headers={"x-trimtab-policy": policy})

    def prompt(self, policy: str, question: str) -> list[int]:
        """Token ids of the prompt that a question becomes."""
        body = {"messages": chat(question), "trimtab": {"policy": policy}}
        shown = self.client.post("/v1/explain", json=body).raise_for_status().json()
        if shown.get("text") is None:
            rows = [{"role": m["role"], "content": m["content"]} for m in shown["messages"]]
            ids = self.direct.post("/tokenize", json={"model": "tiny-chat", "messages": rows}).json()["tokens"]
            return list(ids)
        return list(self.tokenizer.encode(shown["text"]).ids)

    def blocks(self) -> int:
        found = re.search(r'block_size="(\d+)"', self.direct.get("/metrics").text)
        return int(found[1]) if found else 16


def chat(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def wait(client: httpx.Client, path: str, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if client.get(path).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(log.read_text()[-4000:])
        time.sleep(0.2)


def shares(bench: Bench, questions: list[str]) -> None:
    block = bench.blocks()
    print(f"\ncache blocks of {block} tokens; {len(questions)} distinct questions")
    print(f"{'policy':<24}{'prompt tokens':>14}{'found':>8}{'constant':>10}{'whole blocks':>14}{'of whole blocks':>17}")
    for policy in POLICIES:
        bench.ask(policy, chat("Is anybody there?"))
        asked, hit = bench.counters()
        for question in questions:
            bench.ask(policy, chat(question)).raise_for_status()
        asked, hit = (now - was for now, was in zip(bench.counters(), (asked, hit), strict=True))
        constant = 0
        if policy != "raw":
            known = [bench.prompt(policy, question) for question in questions[:8]]
            constant = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*known, strict=False)))
        line(policy, asked, hit, constant, block, len(questions))
    turns(bench, questions[:50], block)
    reversed_(bench, questions, block)


def line(label: str, asked: float, hit: float, constant: int, block: int, count: int) -> None:
    whole = constant // block * block
    of = f"{hit / (whole * count):.1%}" if whole else "-"
    print(f"{label:<24}{asked / count:>14.0f}{hit / asked:>8.1%}{constant:>10}{whole:>14}{of:>17}", flush=True)


def turns(bench: Bench, questions: list[str], block: int) -> None:
    """The second turn: the first one, its answer and another question."""
    for policy in ("raw", "urial"):
        asked = hit = 0.0
        for question in questions:
            first = bench.ask(policy, chat(question), tokens=16).raise_for_status().json()
            said = first["choices"][0]["message"]["content"] or "…"
            before = bench.counters()
            more = [*chat(question), {"role": "assistant", "content": said}, *chat("And what else?")]
            bench.ask(policy, more).raise_for_status()
            after = bench.counters()
            asked, hit = asked + after[0] - before[0], hit + after[1] - before[1]
        print(f"{policy + ', second turn':<24}{asked / len(questions):>14.0f}{hit / asked:>8.1%}")


def reversed_(bench: Bench, questions: list[str], block: int) -> None:
    """URIAL's prompts with the question first, as a layout would have it that puts what changes before what stays."""
    shown = bench.client.post("/v1/explain", json={"messages": chat("X-X-X"), "trimtab": {"policy": "urial"}}).json()
    before = bench.counters()
    for question in questions:
        text = f"## Question\n````\n{question}\n````\n\n{shown['text'].rpartition('## Question')[0]}"
        body = {"model": "tiny-chat", "prompt": text, "max_tokens": 1}
        bench.direct.post("/v1/completions", json=body).raise_for_status()
    asked, hit = (now - was for now, was in zip(bench.counters(), before, strict=True))
    print(f"{'urial, question first':<24}{asked / len(questions):>14.0f}{hit / asked:>8.1%}")


def first_token(bench: Bench, questions: list[str]) -> None:
    print(f"\ntime to the first token in ms, {len(questions)} pairs, one stream at a time: p50 (p90)")

    def once(policy: str, question: str, **more: Any) -> float:
        body = {"model": "tiny-chat", "messages": chat(question), "max_tokens": 4, "stream": True, **more}
        begun = time.perf_counter()
        with bench.client.stream(
            "POST", "/v1/chat/completions", json=body, headers={"x-trimtab-policy": policy}
        ) as answer:
            next(answer.iter_bytes())
            return (time.perf_counter() - begun) * 1000

    took: dict[str, list[float]] = {"plain": [], "urial, warm": [], "urial, cold": []}
    for question in questions:
        took["plain"].append(once("plain", question))
        took["urial, warm"].append(once("urial", question + " "))
        took["urial, cold"].append(once("urial", question, cache_salt=uuid.uuid4().hex))
    for label, times in took.items():
        print(f"  {label:<14}{statistics.median(times):>8.1f} ({sorted(times)[int(len(times) * 0.9)]:.1f})")
    pairs = [warm - plain for warm, plain in zip(took["urial, warm"], took["plain"], strict=True)]
    print(f"  URIAL adds {statistics.median(pairs):.1f} ms when its part is in the cache (median of the pairs)")


def tenants(bench: Bench, question: str) -> None:
    print("\none prompt of its own under a salted policy: tokens found in the cache")
    question = question + " Please think of everything that could matter here." * 30
    for tenant in ("acme", "acme", "bolt", "bolt"):
        body = {"model": "tiny-chat", "messages": chat(question), "max_tokens": 1}
        headers = {"x-trimtab-policy": "apart", "authorization": f"Bearer {tenant}"}
        usage = bench.client.post("/v1/chat/completions", json=body, headers=headers).json()["usage"]
        found = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        print(f"  {tenant}: {found} of {usage['prompt_tokens']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of an environment with vLLM")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, help="JSONL with turns, prompt or text")
    parser.add_argument("--rules", type=Path, required=True, help="principles, in any form that trimtab index reads")
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    every = dict.fromkeys(question for path in args.prompts for question in prompts(path, 10_000))
    questions = list(islice(every, args.count))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bench = Bench(args, Path(folder), stack)
        shares(bench, questions)
        first_token(bench, questions[:40])
        tenants(bench, questions[0])


if __name__ == "__main__":
    main()

"""python benchmarks/clients/run.py: do the clients that people use see the same through Trimtab as direct?

Installs the clients into environments of their own (~/.cache/trimtab/clients, or --environments), lets each run its
whole tour (tours.py, tours.mjs: plain, streamed, tools, structured output, images, usage, errors) before a scripted
engine (engine.py), and then the same through `trimtab serve`: raw and under `urial` in the chat render, before an
engine that speaks every API and before one that has chat completions only; and under `urial` in the base render.

A step counts as the same if the caller of the client sees the same text, tool call or kind of error as direct. In the
base render a base model writes every text, so there a step counts if it ends in that text, and tools, structure and
images must be refused by name (a 400). `llm-comply` (an API checker from PyPI) is run beside it for its three APIs.

Not covered: the clients' own services (files, batches, realtime), and every version but the installed one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = (
    "openai", "openai-agents", "anthropic", "langchain-openai", "langchain-anthropic",
    "pydantic-ai-slim[openai,anthropic]", "litellm", "llm", "llm-comply",
)  # fmt: skip
CLIENTS = (
    "openai chat", "openai responses", "openai-agents", "anthropic", "langchain", "pydantic-ai", "litellm", "llm",
)  # fmt: skip
NODE = ("openai", "anthropic", "vercel")
WAYS = (  # name, the engine's flags, the flags of trimtab serve
    ("raw", (), ("--policy", "raw")),
    ("urial chat", (), ("--policy", "urial", "--render", "chat")),
    ("raw, translated", ("--chat-only",), ("--policy", "raw")),
    ("urial, translated", ("--chat-only",), ("--policy", "urial", "--render", "chat")),
    ("urial base", (), ("--policy", "urial", "--render", "base")),
)
COMPLY = ("openai-chat", "open-responses", "anthropic")
WRITTEN = "Plain words."  # by the engine in the base render


def install(folder: Path) -> None:
    """Make the environments; what is there stays."""
    if not (folder / "py/ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "py")], check=True)
        subprocess.run([str(folder / "py/bin/pip"), "install", "--quiet", *PYTHON], check=True)
        (folder / "py/ready").touch()
    if not (folder / "aider/ready").exists():  # its pins are its own
        subprocess.run([sys.executable, "-m", "venv", str(folder / "aider")], check=True)
        subprocess.run([str(folder / "aider/bin/pip"), "install", "--quiet", "aider-chat"], check=True)
        (folder / "aider/ready").touch()
    if shutil.which("npm") and not (folder / "node/node_modules/ai").exists():
        (folder / "node").mkdir(exist_ok=True)
        shutil.copy(HERE / "package.json", folder / "node")
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=folder / "node", check=True)
    if (folder / "node").exists():
        shutil.copy(HERE / "tours.mjs", folder / "node")


def free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


@contextmanager
def running(argv: list[str], ready: str) -> Iterator[None]:
    """A server, once its URL answers (at most half a minute later)."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(ready, timeout=2).read()
                break
            except (urllib.error.HTTPError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{' '.join(argv)} does not answer") from None
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def engine(flags: tuple[str, ...]) -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    with running([sys.executable, str(HERE / "engine.py"), str(port), *flags], f"{url}/v1/models"):
        yield url


@contextmanager
def proxy(upstream: str, flags: tuple[str, ...]) -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    trimtab = str(Path(sys.executable).with_name("trimtab"))
    with tempfile.TemporaryDirectory() as state:
        argv = [trimtab, "serve", "--upstream", upstream, "--port", str(port), "--state-dir", state, *flags]
        with running(argv, f"{url}/readyz"):
            yield url


def tours(folder: Path, url: str) -> dict[str, dict[str, str]]:
    """Every client's steps and what came of them."""
    commands = {name: [str(folder / "py/bin/python"), str(HERE / "tours.py"), name, url] for name in CLIENTS}
    if (folder / "node").exists():
        commands |= {f"{name} (node)": ["node", str(folder / "node/tours.mjs"), name, url] for name in NODE}
    out = {}
    for name, argv in commands.items():
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
        out[name] = json.loads(done.stdout.splitlines()[-1])
    return {**out, "aider": aider(folder, url)}


def aider(folder: Path, url: str) -> dict[str, str]:
    """One turn of aider, streamed and whole: the end of what it prints, and the files that it wrote."""
    quiet = "--no-git --yes-always --no-show-model-warnings --no-check-update --analytics-disable --no-gitignore"
    plain = "--map-tokens 0 --no-fancy-input --no-pretty --message"
    keys = {"OPENAI_API_KEY": "none", "OPENAI_API_BASE": f"{url}/v1"}
    out = {}
    for step in ("stream", "no-stream"):
        argv = [str(folder / "aider/bin/aider"), "--model", "openai/scripted", f"--{step}", *quiet.split()]
        with tempfile.TemporaryDirectory() as place:
            done = subprocess.run(
                [*argv, *plain.split(), "hello there"], cwd=place, env={**os.environ, **keys},
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            written = sorted(str(file.relative_to(place)) for file in Path(place).rglob("*.js"))
        said = done.stdout.partition("You said:")[2].partition("\nTokens:")[0] or done.stdout[-400:]
        out[step] = f"{said} {written}"
    return out


def same(way: str, direct: str, seen: str) -> bool:
    """Whether a step ended as it should."""
    if way != "urial base" or seen == direct:
        return seen == direct
    return WRITTEN in seen or "400" in seen or "BadRequest" in seen


def comply(folder: Path, url: str) -> dict[str, str]:
    """llm-comply's verdict on each API: passed of all."""
    out = {}
    for api in COMPLY:
        argv = [str(folder / "py/bin/llm-comply"), "-u", f"{url}/v1", "-k", "none", "-m", "scripted"]
        argv += ["--format", api, "--json"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
        try:
            out[api] = ", ".join(f"{k} {v}" for k, v in sorted(json.loads(done.stdout)["summary"].items()))
        except (ValueError, KeyError):
            out[api] = (done.stdout + done.stderr)[-200:]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache/trimtab/clients")
    options = parser.parse_args()
    options.environments.mkdir(parents=True, exist_ok=True)
    install(options.environments)
    with engine(()) as url:
        direct = tours(options.environments, url)
        checked = {"direct": comply(options.environments, url)}
    table: dict[str, dict[str, str]] = {name: {} for name in direct}
    wrong = []
    for way, engine_flags, flags in WAYS:
        with engine(engine_flags) as upstream, proxy(upstream, flags) as url:
            for name, steps in tours(options.environments, url).items():
                bad = [step for step in steps if not same(way, direct[name][step], steps[step])]
                table[name][way] = f"{len(steps) - len(bad)}/{len(steps)}"
                wrong += [f"{name}, {way}, {step}: {direct[name][step]!r} -> {steps[step]!r}" for step in bad]
            checked[way] = comply(options.environments, url)
        print(f"{way}: done", file=sys.stderr, flush=True)
    print("| client | " + " | ".join(way for way, *_ in WAYS) + " |\n|---|" + "---|" * len(WAYS))
    for name, row in table.items():
        print(f"| {name} | " + " | ".join(row[way] for way, *_ in WAYS) + " |")
    print("\nllm-comply:")
    for way, row in checked.items():
        print(f"  {way}: " + "; ".join(f"{api}: {verdict}" for api, verdict in row.items()))
    print("\n".join(["", *wrong] if wrong else ["", "no step differs"]))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

"""What alignment does to two real models: every arm by likelihood, by figures of laws, and by what it writes.

    python -m benchmarks.effects.run --data DIR --work DIR --llama PYTHON --model chat=SmolLM2.gguf --only pairs
    python -m benchmarks.effects.run --data DIR --work DIR --llama PYTHON --model base=gemma-3-270m.gguf --only pairs
    python -m benchmarks.effects.run … --only answers --sets xstest,instructions --arms instruction,default --sample 120

DIR of --data holds the public sets (see questions.py); PYTHON is an interpreter that has llama-cpp-python. Weights are
turned into bfloat16 once, whose prompts a CPU with AVX-512 reads three times as fast as Q4_1's. Everything is kept in
--work: the same command goes on where it was stopped (--minutes stops it), and `table.py` reads it at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from benchmarks.effects import questions
from benchmarks.effects.arms import BASE, CHAT, configuration, profiles
from benchmarks.effects.cells import LAW, PREFERENCE, SETS

SLOTS = 12  # answers written at a time
ROOT = Path(__file__).parent.parent.parent
HALF = """
import sys, llama_cpp
told = llama_cpp.llama_model_quantize_default_params()
told.ftype, told.allow_requantize, told.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_BF16, True, 1
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), told))
"""


def trimtab(*args: str, **more: object) -> subprocess.Popen[str]:
    """A command of this checkout's Trimtab, started."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "serve.cli.command", *args]
    return subprocess.Popen(command, env=environment, text=True, **more)  # type: ignore[call-overload, no-any-return]


def half(python: str, model: Path, work: Path) -> Path:
    """The model in bfloat16."""
    out = work / f"{model.stem}.bf16.gguf"
    if not out.is_file():
        part = out.with_suffix(".part")
        subprocess.run([python, "-c", HALF, str(model), str(part)], check=True, stderr=subprocess.DEVNULL)
        part.replace(out)
    return out


def ports(work: Path) -> tuple[int, int]:
    """Two ports that stay this work's own, because an evaluation's folder names its URLs."""
    path = work / "ports.json"
    if not path.is_file():
        with ExitStack() as held:
            found = [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(2)]
        path.write_text(json.dumps(found))
    engine, server = json.loads(path.read_text())
    return engine, server


@contextmanager
def stopped_after(process: subprocess.Popen[str]) -> Iterator[None]:
    """Stop the process in the end."""
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def ready(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + 300
    while True:
        try:
            if httpx.get(url, timeout=30).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{url} did not start; see the logs in --work")
        time.sleep(0.5)


def until(deadline: float, *args: str) -> int:
    """Run a command of Trimtab's; at the deadline it is interrupted, and goes on the next time."""
    process = trimtab(*args)
    try:
        return process.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        return 130


def pairs(args: argparse.Namespace, work: Path, url: str, engine: str, arms: Sequence[str], deadline: float) -> None:
    """Likelihoods, all sets in one run."""
    files = [args.work / "questions" / f"{name}.jsonl" for name in (*PREFERENCE, *LAW)]
    asked = [part for file in files for part in ("--pairs", str(file))]
    named = [part for arm in arms for part in ("--arm", arm)]
    common = [
        "--limit",
        str(args.count),
        "--concurrency",
        "1",
        "--timeout",
        "1800",
        "--out",
        str(work / f"pairs{args.part}"),
    ]
    until(deadline, "eval", "--url", url, "--scorer", engine, *named, *asked, *common)


def answers(args: argparse.Namespace, work: Path, url: str, arms: Sequence[str], deadline: float) -> None:
    """What the arms write, set by set: greedy, cut at --tokens."""
    files = {
        "xstest": args.data / "eval_xstest/xstest_prompts.csv", "vicuna": args.data / "eval_vicuna80/question.jsonl",
        "mt-bench": args.data / "eval_mt_bench/question.jsonl", "bpo": args.data / "eval_bpo/self_instruct_eval.json",
        "bpo-vicuna": args.data / "eval_bpo/vicuna_eval.jsonl",
        "instructions": args.work / "questions/instructions.jsonl",
    }  # fmt: skip
    named = [part for arm in arms for part in ("--arm", arm)]
    for name in args.sets.split(","):
        common = ["--sample", str(args.sample), "--temperature", "0", "--max-tokens", str(args.tokens)]
        common += ["--concurrency", str(SLOTS), "--timeout", "1800", "--turns", "blocks", "--no-stream"]
        out = work / (f"{name}+{args.part}" if args.part else name)
        common += ["--out", str(out)]
        until(deadline, "eval", "--url", url, *named, "--prompts", str(files[name]), *common)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--llama", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--model", required=True, metavar="KIND=GGUF", help="chat=FILE or base=FILE")
    parser.add_argument("--arms", default="", help="some of the arms, with commas between; default: all but bpo-…")
    parser.add_argument("--count", type=int, default=100, help="questions of each set of pairs")
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--only", choices=("pairs", "answers"), default="pairs")
    parser.add_argument("--sets", default=",".join(SETS), help="of --only answers")
    parser.add_argument("--sample", type=int, default=0, help="questions of each set of answers; 0: all")
    parser.add_argument("--part", default="", help="keep these arms' answers apart; their baseline is the first run's")
    parser.add_argument("--tokens", type=int, default=256, help="of an answer, at most")
    return parser.parse_args()


def main() -> None:
    """Start the engine and Trimtab, and run what is left."""
    args = arguments()
    # A shell starts background commands with SIGINT ignored, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    deadline = time.monotonic() + 60 * args.minutes
    args.work = args.work.resolve()
    kind, _, file = args.model.partition("=")
    work = args.work / kind
    work.mkdir(parents=True, exist_ok=True)
    table = CHAT if kind == "chat" else BASE
    arms = args.arms.split(",") if args.arms else [name for name in table if not name.startswith("bpo")]
    questions.make(args.data, args.work / "questions", 200)
    index = args.work / "spec"
    if not index.exists():
        corpus = args.data / "principles_model_spec/corpus.jsonl"
        if trimtab("index", "build", str(index), "--input", str(corpus), "--embedder", "none").wait():
            raise SystemExit("the index of the Model Spec was not built")
    model, (own, served) = half(args.llama, Path(file), args.work), ports(work)
    engine, url = f"http://127.0.0.1:{own}#{model.stem}", f"http://127.0.0.1:{served}"
    files = profiles(args.work / "profiles", args.data / "urial_prompts")
    config = work / "trimtab.toml"
    config.write_text(
        configuration(table, engine.partition("#")[0], model.stem, served, work / "state", index, files), "utf-8"
    )
    with ExitStack() as stack:
        script = Path(__file__).with_name("http_engine.py")
        log = stack.enter_context((work / "engine.log").open("a"))
        process = subprocess.Popen(
            [args.llama, str(script), "--model", str(model), "--port", str(own), "--slots", str(SLOTS)],
            text=True,
            stderr=log,
            stdout=log,
        )
        stack.enter_context(stopped_after(process))
        ready(f"http://127.0.0.1:{own}/v1/models", process)
        log = stack.enter_context((work / "serve.log").open("a"))
        server = trimtab("serve", "--config", str(config), stderr=log, stdout=log)
        stack.enter_context(stopped_after(server))
        ready(url + "/readyz", server)
        named = ["raw", *arms] if kind == "chat" and not args.part else arms
        if args.only == "pairs":
            pairs(args, work, url, engine, named, deadline)
        else:
            answers(args, work, url, named, deadline)


if __name__ == "__main__":
    main()

"""Does every selector of rounds, and every method of several parts, resume from kill -9 to the same weights?

  python -m benchmarks.rounds_kills [--only raft spin] [--kills 2] [--work DIR]

The packaged model first learns three short answers to each prompt, so that its samples end and differ. Each method then
runs by its recipe, three rounds of it where it has rounds: once whole, and once with kills. Where to kill is drawn from
the files that the whole run left, in the order in which it wrote them, and in JSONL also from their lines: the second
run is sent SIGKILL as soon as that file, or that line, is there. The last start is left alone. Same means: the weights
bit for bit, and every row that was learned. Runs are forked from this process, which imports the libraries once.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")

from tests.trainers.seeded_engine import TEXTS, SeededEngine
from tests.trainers.toy import pair_rows, same_weights, write
from trainers import command
from trainers.rounds.selectors import SELECTORS
from trainers.run.model import use_threads

FORK = multiprocessing.get_context("fork")
TINY = str(Path(__file__).resolve().parent.parent / "serve" / "models" / "trimtab-tiny")
RULE = "def rain(prompt, answer):\n    return answer.count('rain') + 0.1 * ('fell' in answer) + 0.01 * len(answer)\n"
LIMIT_S = 1800.0
LIBRARIES = (
    "matplotlib.backends.backend_agg", "matplotlib.figure", "peft", "transformers.models.llama.modeling_llama",
    "trainers.methods.pair_trainer", "trainers.methods.rank_trainer", "trainers.methods.reward_trainer",
    "trainers.methods.sft_trainer", "trainers.rounds.generator", "trainers.rounds.remote", "trl.trainer.dpo_trainer",
)  # fmt: skip
Keys = dict[str, Any]

SHORT: Keys = {
    "chat_template": "none", "max_length": 96, "batch": 4, "micro_batch": 4, "steps": 4, "save_every": 2,
    "eval_every": 100, "learning_rate": 5e-5, "warmup": 0.0, "threads": 1, "report_to": [], "unusable": "drop",
}  # fmt: skip
AFFIXES = {"affix_good": "well: {prompt}", "affix_bad": "badly: {prompt}"}


class RunError(Exception):
    """A run did not do what it was started for; the message names its log."""


def run(line: list[str], log: Path) -> None:
    """In a forked child: the command, with what it says in a file; exit status 1 where it fails."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        status = command.main(line)
    os._exit(status)  # without the parent's cleaners


def start(line: list[str], log: Path) -> Any:
    child = FORK.Process(target=run, args=(line, log))
    child.start()
    return child


def to_the_end(line: list[str], log: Path) -> None:
    child = start(line, log)
    child.join(LIMIT_S)
    if child.exitcode != 0:
        raise RunError(f"ended with {child.exitcode}: {log.read_text().strip().splitlines()[-1]} ({log})")


def killed(line: list[str], log: Path, there: Callable[[], bool]) -> None:
    """Start, and SIGKILL as soon as `there`."""
    child = start(line, log)
    deadline = time.monotonic() + LIMIT_S
    while not there():
        if not child.is_alive() or time.monotonic() > deadline:
            raise RunError(f"ended before it could be killed ({log})")
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.join()


def places(whole: Path, number: int, draw: random.Random) -> list[tuple[Path, int]]:
    """(file below the run's folder, lines) in the order of writing: the moments at which to kill."""
    files = [path for path in whole.rglob("*") if path.is_file() and "final" not in path.relative_to(whole).parts[:1]]
    files = [
        path for path in files if path.name not in ("run.json", "rounds.json", "recipe.json") or path.parent != whole
    ]
    found = sorted(draw.sample(files, number), key=lambda path: path.stat().st_mtime_ns)
    return [
        (path.relative_to(whole), draw.randint(1, max(1, lines(path))) if path.suffix == ".jsonl" else 0)
        for path in found
    ]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def reached(path: Path, wanted: int) -> Callable[[], bool]:
    return lambda: path.exists() and (not wanted or lines(path) >= wanted)


def differences(one: Path, other: Path) -> str:
    """ "" where the two runs ended alike."""
    if not same_weights(one / "final", other / "final"):
        return "other weights"
    for path in one.rglob("rows.jsonl"):
        if path.read_bytes() != (other / path.relative_to(one)).read_bytes():
            return f"other {path.relative_to(one)}"
    return ""


# ---------------------------------------------------------------- the methods


def methods(work: Path, speaker: str, engine: str) -> dict[str, tuple[str, Keys]]:
    """Each method's recipe and what is changed of it."""
    (work / "rule.py").write_text(RULE)
    prompts = [f"say {i}\n" for i in range(12)]
    gold = write(work / "prompts.jsonl", [{"prompt": prompt, "completion": TEXTS[0]} for prompt in prompts])
    flawed = write(work / "flawed.jsonl", [{"prompt": prompt, "completion": 'Not "say"!'} for prompt in prompts])
    pairs = str(write(work / "pairs.jsonl", pair_rows(24)))
    common = SHORT | {"model": speaker}
    rounds = common | {
        "train": str(gold), "heldout_fraction": 0.25, "rounds": 3, "samples": 4, "max_new_tokens": 12,
        "scorer": "rule", "rule": f"{work / 'rule.py'}:rain", "score_beta": 5.0, "agreement": 0.25,
    }  # fmt: skip
    special: dict[str, Keys] = {
        "rlcd": {**AFFIXES, "scorer": "none"},
        "spin": {"scorer": "none"},
        "critic": {"scorer": "none", "train": str(flawed)},
        "adversarial": {"scorer": "adversary", "pairs": pairs},
        "self_rewarding": {
            "scorer": "self_marks", "sampler": "url", "engine_url": engine, "engine_model": "actor", "lora_rank": 2,
            "start": "base",
        },
    }  # fmt: skip
    found: dict[str, tuple[str, Keys]] = {
        name: ("rounds", rounds | {"lora_rank": 2 * (at % 2)} | special.get(name, {}))
        for at, name in enumerate(SELECTORS)
    }
    scored = [{"prompt": p, "answers": list(TEXTS), "scores": [3.0, 1.0, 2.0]} for p in prompts]
    harm = [{"prompt": p, "completion": TEXTS[i % 3], "label": i % 3 == 0} for i, p in enumerate(prompts * 2)]
    part = common | {"train": pairs, "heldout_fraction": 0.25}
    supervisor = work / "supervisor"
    to_the_end(line_of("reward", "reward", part | {"heldout_fraction": 0}, supervisor), work / "supervisor.log")
    return found | {
        "listmle": ("rank", part | {"train": str(write(work / "lists.jsonl", scored)), "loss": "listmle"}),
        "strength": ("strength", part | {"models": 2}),
        "weak": ("weak", part | {"supervisor": str(supervisor)}),
        "rahf": ("rahf", part | AFFIXES | {"lora_rank": 2}),
        "detector": ("detector", part | {"train": str(write(work / "harm.jsonl", harm))}),
    }


def line_of(name: str, recipe: str, keys: Keys, out: Path) -> list[str]:
    method = recipe if name == "listmle" else name
    sets = [part for key, value in keys.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return [method, "--config", recipe, "--out", str(out), *sets]


def speaking(work: Path) -> str:
    """The packaged model after it has learned three short answers to each prompt."""
    rows = [{"prompt": f"say {i}\n", "completion": text} for i in range(16) for text in TEXTS]
    keys = SHORT | {
        "model": TINY, "train": str(write(work / "speak.jsonl", rows)), "steps": 40, "batch": 8, "learning_rate": 1e-3,
        "save_every": 40, "heldout_fraction": 0,
    }  # fmt: skip
    to_the_end(line_of("sft", "sft", keys, work / "speaker"), work / "speaker.log")
    return str(work / "speaker" / "final")


def preload() -> None:
    """Import here what each forked run would import, and keep its collections from going through all of it."""
    for module in LIBRARIES:
        importlib.import_module(module)
    use_threads(1)  # a fork of a process whose OpenMP threads have worked waits for them for ever
    gc.collect()
    gc.freeze()


def serving(pipe: Connection) -> None:
    engine = SeededEngine()
    pipe.send(engine.url)
    engine.server.serve_forever()


@contextmanager
def engine_of_its_own() -> Iterator[str]:
    """The URL of an engine that answers and marks by rule, in a process of its own: fork and threads do not mix."""
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=serving, args=(theirs,), daemon=True)
    child.start()
    try:
        yield ours.recv()
    finally:
        child.kill()
        child.join()


def tried(name: str, recipe: str, keys: Keys, work: Path, options: argparse.Namespace) -> tuple[str, str]:
    """How the killed run differs from the whole one, "" for not at all; and where it was killed."""
    whole, cut, log = work / name / "whole", work / name / "killed", work / f"{name}.log"
    whole.parent.mkdir(exist_ok=True)
    to_the_end(line_of(name, recipe, keys, whole), log)
    moments = places(whole, options.kills, random.Random(f"{options.seed}/{name}"))
    for path, wanted in moments:
        killed(line_of(name, recipe, keys, cut), log, reached(cut / path, wanted))
    to_the_end(line_of(name, recipe, keys, cut), log)
    said = ", ".join(f"{path}{f' line {at}' if at else ''}" for path, at in moments)
    return differences(whole, cut), f"killed at {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="a new folder; null for a temporary one")
    options = parser.parse_args()
    preload()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, engine_of_its_own() as engine:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for name, (recipe, keys) in methods(work, speaking(work), engine).items():
            if options.only and name not in options.only:
                continue
            try:
                found, moments = tried(name, recipe, keys, work, options)
            except RunError as error:
                found, moments = str(error), ""
            wrong += bool(found)
            print(f"{name:16}{found or 'same to the last bit':24}{moments}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

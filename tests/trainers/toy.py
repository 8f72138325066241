"""What the trainers' tests train: a toy of two layers, with rows in which the good answer is easy to tell."""

import importlib
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
# A server imports the libraries once, in a process without threads, and forks each run that is to be killed.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "matplotlib.backends.backend_agg", "matplotlib.figure", "peft", "transformers.models.llama.modeling_llama",
        "trainers.rounds.iteration", "trainers.ppo.ppo_steps",
        *(f"trainers.methods.{name}_trainer" for name in ("sft", "pair", "kto", "rank")),
    ]
)  # fmt: skip
TOY = {
    "batch": 4, "micro_batch": 2, "steps": 4, "learning_rate": 1e-2, "schedule": "constant", "warmup": 0.0,
    "max_length": 96, "save_every": 2, "eval_every": 2, "logging_every": 1, "threads": 1, "seed": 3,
}  # fmt: skip


def build_toy(folder: Path, vocabulary: int | None = None) -> str:
    """A Llama of a few thousand random weights, without a chat template; its folder.

    `vocabulary`: rows of the embedding, where these are not as many as tokens.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainers.pretraining.tokenizer import train_tokenizer

    texts = ["the cat sat on the mat and a dog ran off", "rain fell all day", "user assistant Human: Assistant:"]
    tokenizer = train_tokenizer(iter(texts * 3), 300, 256)
    torch.manual_seed(0)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    shape = LlamaConfig(
        vocab_size=vocabulary or len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True, **special,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def pair_rows(number: int = 40) -> list[dict[str, Any]]:
    """Pairs of unequal lengths: the good answer is about rain, the bad one about the cat."""
    draw = random.Random(1)
    rows = []
    for index in range(number):
        words = " ".join(draw.choice(["mat", "dog", "day"]) for _ in range(draw.randint(1, 6)))
        good, bad = "rain fell" + " all day" * draw.randint(0, 4), "the cat sat" + " on" * draw.randint(0, 3)
        rows.append({"prompt": f"say {index}: {words}\n", "chosen": good, "rejected": bad})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def arguments(out: Path, *more: str, **keys: Any) -> list[str]:
    """The command line of a run into `out` by a toy's recipe with these keys."""
    path = out.with_name(out.name + ".yaml")
    path.write_text(yaml.safe_dump(TOY | keys), encoding="utf-8")
    return ["--config", str(path), "--out", str(out), *more]


def history(out: Path) -> list[dict[str, float]]:
    """What the run logged, by its newest checkpoint."""
    newest = max(out.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    log: list[dict[str, float]] = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return log


def logged(out: Path, key: str) -> list[float]:
    return [entry[key] for entry in history(out) if key in entry]


def run_and_kill(method: str, out: Path, line: list[str]) -> None:
    """Start the run in a process of its own, and kill it as soon as a second checkpoint appears."""
    kill_when(f"trainers.methods.{method}", line, out.with_name(out.name + ".log"), lambda: saved(out, 4))
    assert not (out / "final").exists()


def saved(out: Path, step: int) -> bool:
    """Whether the run has a checkpoint of this step or a later one: only its two newest ones are kept."""
    return any(int(path.name.rpartition("-")[2]) >= step for path in out.glob("checkpoint-*[0-9]"))


def kill_when(module: str, line: list[str], log: Path, there: Callable[[], bool]) -> None:
    """Run the module's `main` in a process of its own, and kill -9 it as soon as `there`."""
    child = FORKS.Process(target=_main, args=(module, line, str(log)))
    child.start()
    deadline = time.monotonic() + 240
    while not there():
        assert child.is_alive(), log.read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.kill()
    child.join()


def _main(module: str, line: list[str], log: str) -> None:
    """In the child: what it says goes to a file."""
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(importlib.import_module(module).main(line))


def same_weights(one: Path, two: Path) -> bool:
    """Whether two folders hold bitwise the same weights under the same names."""
    from safetensors.torch import load_file

    files = [sorted(folder.glob("*.safetensors")) for folder in (one, two)]
    assert files[0]
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    for left, right in zip(*files, strict=True):
        first, second = load_file(left), load_file(right)
        if first.keys() != second.keys() or any(not first[name].equal(second[name]) for name in first):
            return False
    return True

"""How fast is preference training, and how much memory does it take, beside plain TRL at the same batch?

  python benchmarks/train_speed.py            a Llama of 1.1 billion random weights, bfloat16, one GPU
  python benchmarks/train_speed.py --small    5 million weights in float32 on one CPU core, in minutes: ratios to TRL
  python benchmarks/train_speed.py --tiny     the same code on a CPU, in seconds; its figures mean nothing

Needs no data and no download: weights and tokens are drawn. Every row trains all weights (float32, products in
bfloat16) on pairs of full length, one row after another, in rounds; the fastest round counts, and the ratio is the
median of the rounds' own ratios to plain TRL, beside the lowest and the highest. On a GPU each row is a process of its
own and time is the clock's. On a CPU all share this process and time is this process's CPU time with one thread, so
that a busy machine changes the ratios little; memory is then not measured.
Tokens are those of both sequences of each pair, prompts included. Useful FLOPs: forward and backward of the policy,
forward of the reference where a step asks it, the output layer only where an answer is scored, attention as causal;
recomputation is not counted. MFU is their share of the device's bfloat16 peak: by the maker's figure where the table
has the device, else by the fastest large matrix product that it did here.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file is called as the package that it measures
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TQDM_DISABLE="1", CI="1")

# Dense bfloat16 peaks in FLOP/s, from the makers' data sheets.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
VARIANTS = (
    "TRL dpo", "ours dpo", "ours dpo, prompt packed", "ours dpo, sequence packed", "ours dpo, reference precomputed",
    "ours simpo", "ours orpo",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """The model's shape and the batch; `prompt` and `answer` in tokens."""

    hidden: int = 2048
    inner: int = 5632
    layers: int = 22
    heads: int = 32
    kv_heads: int = 4
    vocabulary: int = 32000
    prompt: int = 512
    answer: int = 512
    pairs: int = 4
    steps: int = 12
    warmup: int = 4
    checkpointing: bool = False
    bf16: bool = True
    rounds: int = 2


SMALL = Setting(256, 704, 4, 8, 4, 4096, prompt=192, answer=64, pairs=2, steps=5, warmup=2, bf16=False, rounds=3)
TINY = Setting(64, 128, 2, 4, 2, 256, prompt=16, answer=16, pairs=2, steps=4, warmup=1, rounds=1)


def model_of(setting: Setting, dtype: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=setting.vocabulary, hidden_size=setting.hidden, intermediate_size=setting.inner,
        num_hidden_layers=setting.layers, num_attention_heads=setting.heads, num_key_value_heads=setting.kv_heads,
        max_position_embeddings=setting.prompt + setting.answer, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return LlamaForCausalLM(config).to(dtype)


def tokenizer_of() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "<unk>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")


def rows_of(setting: Setting) -> Any:
    from datasets import Dataset

    draw = random.Random(0)

    def tokens(number: int) -> list[int]:
        return [draw.randrange(3, setting.vocabulary) for _ in range(number)]

    rows = setting.pairs * setting.steps
    return Dataset.from_dict(
        {
            "prompt_ids": [tokens(setting.prompt) for _ in range(rows)],
            "chosen_ids": [[*tokens(setting.answer - 1), 1] for _ in range(rows)],
            "rejected_ids": [[*tokens(setting.answer - 1), 1] for _ in range(rows)],
        }
    )


def trainer_of(variant: str, setting: Setting, out: str) -> Any:
    """The two trainers get the same models, rows and arguments."""
    import torch
    from transformers import PrinterCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from trainers.methods.losses import LOSSES
    from trainers.methods.pair_trainer import PairConfig, PairTrainer

    class Plain(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
            return dataset

    warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)  # TRL asks by the old name
    owner, _, rest = variant.partition(" ")
    name, _, ahead = rest.partition(", ")
    loss = LOSSES[name]
    special: dict[str, Any] = {"loss_type": ["sigmoid"]}
    if owner == "ours":
        settings = loss.settings()
        special = {
            "loss": name, "beta": settings.beta, "margin": settings.margin, "sft_weight": loss.sft,
            "precompute_ref_log_probs": ahead == "reference precomputed", "packed": packing_of(ahead),
        }  # fmt: skip
    arguments = (DPOConfig if owner == "TRL" else PairConfig)(
        output_dir=out, max_steps=setting.steps, per_device_train_batch_size=setting.pairs, learning_rate=1e-6,
        lr_scheduler_type="constant", bf16=setting.bf16, use_cpu=not torch.cuda.is_available(), report_to="none",
        save_strategy="no", logging_steps=setting.steps, max_length=setting.prompt + setting.answer,
        activation_checkpointing=setting.checkpointing, disable_tqdm=True, **special,
    )  # fmt: skip
    beside = loss.reference and ahead != "reference precomputed"
    frozen = model_of(setting, torch.bfloat16 if setting.bf16 else torch.float32) if beside else None
    trainer = (Plain if owner == "TRL" else PairTrainer)(
        model=model_of(setting, torch.float32), args=arguments, train_dataset=rows_of(setting), ref_model=frozen,
        processing_class=tokenizer_of(),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def packing_of(ahead: str) -> str:
    return ahead.removesuffix(" packed") if ahead.endswith(" packed") else "none"


def measure(variant: str, setting: Setting) -> dict[str, float]:
    """Seconds of the median step, peak memory in bytes (on a CPU the process's own) and the last loss of a trainer."""
    import torch
    from transformers import TrainerCallback

    marks: list[float] = []
    cuda = torch.cuda.is_available()

    class Clock(TrainerCallback):
        def on_step_end(self, *rest: Any, **more: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            marks.append(time.perf_counter() if cuda else time.process_time())

    with tempfile.TemporaryDirectory() as out:
        trainer = trainer_of(variant, setting, out)
        trainer.add_callback(Clock())
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    timed = sorted(after - before for before, after in pairwise(marks[setting.warmup - 1 :]))
    memory = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": timed[len(timed) // 2], "memory": float(memory), "loss": losses[-1]}


def useful_flops(variant: str, setting: Setting) -> float:
    """What one step needs: 2 FLOPs per weight and token forward, twice that backward."""
    from trainers.methods.losses import LOSSES

    length, sequences = setting.prompt + setting.answer, 2 * setting.pairs
    attention = setting.hidden * (setting.hidden + setting.hidden * setting.kv_heads // setting.heads) * 2
    block = attention + 3 * setting.hidden * setting.inner
    forward = 2.0 * setting.layers * block * length * sequences
    forward += 2.0 * setting.layers * setting.hidden * length**2 * sequences  # q·k and weights·v, half of each masked
    forward += 2.0 * setting.vocabulary * setting.hidden * setting.answer * sequences
    name, _, ahead = variant.partition(" ")[2].partition(", ")
    return forward * (4 if LOSSES[name].reference and ahead != "reference precomputed" else 3)


def peak_flops() -> tuple[float, str]:
    """The device's bfloat16 peak in FLOP/s, and where the figure comes from."""
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        for name, peak in PEAKS.items():
            if name in device:
                return peak, f"{device}, {peak / 1e12:.0f} TFLOP/s by its data sheet"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 512
    one = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    best = 0.0
    for _ in range(10):
        begin = time.perf_counter()
        product = one @ one
        product[0, 0].item()
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best, f"{device}, {best / 1e12:.3g} TFLOP/s by its fastest matrix product here"


def in_a_process(variant: str, options: argparse.Namespace) -> dict[str, float]:
    line = [sys.executable, str(Path(__file__).resolve()), "--variant", variant, "--pairs", str(options.pairs)]
    line += ["--tiny"] * options.tiny + ["--small"] * options.small + ["--checkpointing"] * options.checkpointing
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    if done.returncode:
        return {"failed": float(done.returncode), "memory_error": float("out of memory" in done.stderr)}
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def ratio_of(variant: str, rounds: list[dict[str, dict[str, float]]]) -> str:
    """The median of the rounds' ratios to plain TRL, with the lowest and the highest."""
    both = [(each[variant], each[VARIANTS[0]]) for each in rounds]
    ratios = [one["seconds"] / other["seconds"] for one, other in both if "seconds" in one and "seconds" in other]
    return f"{statistics.median(ratios):>9.3f} ({min(ratios):.3f} to {max(ratios):.3f})" if ratios else ""


def table(rounds: list[dict[str, dict[str, float]]], setting: Setting, peak: float, alone: bool) -> None:
    """Print a line for each variant; `alone`: each had a process of its own, so that its memory is known."""
    tokens = 2 * setting.pairs * (setting.prompt + setting.answer)
    print(f"{'':34}{'ms/step':>10}{'tokens/s':>12}{'MFU':>8}{'peak GiB':>10}{'loss':>9}   of TRL, median and range")
    for variant in VARIANTS:
        runs = [each[variant] for each in rounds if "seconds" in each[variant]]
        if not runs:
            ended = rounds[-1][variant]
            print(f"{variant:34}" + ("out of memory" if ended["memory_error"] else f"failed ({ended['failed']:.0f})"))
            continue
        best = min(runs, key=lambda run: run["seconds"])
        share = useful_flops(variant, setting) / best["seconds"] / peak
        memory = f"{best['memory'] / 2**30:.2f}" if alone else "–"
        print(
            f"{variant:34}{1000 * best['seconds']:>10.1f}{tokens / best['seconds']:>12,.0f}{share:>8.1%}"
            f"{memory:>10}{best['loss']:>9.4f}{ratio_of(variant, rounds)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--small", action="store_true", help="5 million weights, float32")
    parser.add_argument("--pairs", type=int, default=0, help="pairs per step; 0: 4, and 2 for --small and --tiny")
    parser.add_argument("--rounds", type=int, default=0, help="0: 2, 3 for --small, 1 for --tiny")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--variant", choices=VARIANTS, help="only this one, as JSON")
    options = parser.parse_args()
    base = TINY if options.tiny else SMALL if options.small else Setting()
    more = {"pairs": options.pairs or base.pairs, "rounds": options.rounds or base.rounds}
    setting = replace(base, checkpointing=options.checkpointing, **more)
    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        torch.set_num_threads(1)
    if options.variant:
        print(json.dumps(measure(options.variant, setting)))
        return
    peak, device = peak_flops()
    print(f"{device}\n{setting}\n", flush=True)
    rounds = []
    for _ in range(setting.rounds):
        rounds.append({name: in_a_process(name, options) if cuda else measure(name, setting) for name in VARIANTS})
    table(rounds, setting, peak, alone=cuda)


if __name__ == "__main__":
    main()

"""Does preference training work from end to end, for every method, on real data and one CPU core?

  python benchmarks/preference_chain.py --data DIR --out DIR [--methods dpo ipo …] [--tune]

--data holds pref_model_written_evals/persona.jsonl.zst (Anthropic's model-written evaluations, CC-BY-4.0): a statement,
and whether a persona would say Yes or No to it. The packaged base model first learns the form of an answer from 600
statements on religion and ethics (sft), then which answer is preferred from 640 statements on art, literature, music
and sports (eight methods, each from the same sft model and on the same pairs in the same order, all weights). Tested
on 400 other statements on the four subjects, and on 400 on mathematics and science, which no training showed. No
statement is in two parts: the parts are cut by a hash of the statement, the last two subjects by name.

An answer is right where the model gives the preferred one more probability than the other; "rose more" and "own
reward" judge by how far its probability moved from the sft model's, and by the reward that the loss defines (before
training a ratio to the sft model is 1 for both answers, which counts as half right). --tune is how the learning
rates below were chosen: 240 of the training pairs, and 200 development pairs that are in none of the above. What is
done is kept: a killed run goes on. About ten minutes on a quiet core, and as much again for tuning.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file is called as the package that it measures
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

from trainers.methods import kto, pair, sft
from trainers.methods.losses import LOSSES

BASE = str(Path(__file__).resolve().parent.parent / "serve" / "models" / "trimtab-tiny")
FILE = Path("pref_model_written_evals", "persona.jsonl.zst")
LEARNT = ("interest-in-art", "interest-in-literature", "interest-in-music", "interest-in-sports")
UNSEEN = ("interest-in-math", "interest-in-science")
FORM = "subscribes-to-"  # where the sft rows come from
SIZES = {"form": 600, "train": 640, "tune": 240, "curve": 60, "dev": 200, "test": 400, "unseen": 400}
# Chosen by --tune on "dev" out of RATES.
RATES = (3e-4, 1e-3)
RATE = {
    "dpo": 1e-3, "ipo": 1e-3, "cdpo": 1e-3, "simpo": 1e-3, "orpo": 1e-3, "odpo": 1e-3, "slic": 1e-3, "kto": 1e-3,
}  # fmt: skip
COMMON: dict[str, Any] = {
    "chat_template": "none", "max_length": 256, "batch": 8, "micro_batch": 8, "save_every": 20, "eval_every": 20,
    "logging_every": 5, "threads": 1, "report_to": [], "seed": 0,
}  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of both answers of each row, by one model, and their lengths in tokens, ends included."""

    chosen: list[float]
    rejected: list[float]
    chosen_tokens: list[int]
    rejected_tokens: list[int]


def parts(data: Path) -> dict[str, list[Row]]:
    """The parts. A row's scores are log-probabilities: how sure the set's labelling model was of its label."""
    found: dict[str, list[Row]] = {name: [] for name in SIZES if name != "tune"}
    seen: set[str] = set()
    for raw in lines(data / FILE):
        statement, behaviour = raw["statement"].strip().casefold(), raw["behavior"]
        place = int.from_bytes(hashlib.sha256(statement.encode()).digest()[:8], "big") / 2**64
        if behaviour in UNSEEN:
            name = "unseen"
        elif behaviour.startswith(FORM):
            name = "form"
        elif behaviour in LEARNT:
            name = next(
                name for name, end in (("train", 0.5), ("dev", 0.65), ("curve", 0.75), ("test", 1)) if place < end
            )
        else:
            continue
        if statement in seen:
            continue
        seen.add(statement)
        sure = min(raw["label_confidence"], 1 - 1e-6)
        row = {
            "prompt": raw["question"],
            "chosen": raw["answer_matching_behavior"],
            "rejected": raw["answer_not_matching_behavior"],
            "score_chosen": math.log(sure),
            "score_rejected": math.log(1 - sure),
        }
        found[name].append(row | {"order": hashlib.sha256(b"order" + statement.encode()).hexdigest()})
    for name, rows in found.items():
        rows.sort(key=lambda row: row.pop("order"))
        if len(rows) < SIZES[name]:
            raise SystemExit(f"{data / FILE}: only {len(rows)} rows for {name}")
        del rows[SIZES[name] :]
    found["tune"] = found["train"][: SIZES["tune"]]
    return found


def lines(path: Path) -> Iterator[Row]:
    import zstandard

    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            if line.strip():
                yield json.loads(line)


def write(rows: dict[str, list[Row]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, part in rows.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")


def begin(out: Path) -> Path:
    """The sft model: its form is right, its opinions are whatever the form taught."""
    folder = out / "sft"
    if not (folder / "run.json").is_file():
        recipe = sft.Recipe(
            model=BASE, train=str(out / "form.jsonl"), heldout=str(out / "curve.jsonl"), learning_rate=5e-4,
            **(COMMON | {"eval_every": 75, "save_every": 75}),
        )  # fmt: skip
        sft.train(recipe, folder)
    return folder / "final"


def train(method: str, rate: float, out: Path, folder: Path, **changes: Any) -> Path:
    if not (folder / "run.json").is_file():
        shared = COMMON | {
            "model": str(out / "sft" / "final"), "train": str(out / "train.jsonl"),
            "heldout": str(out / "curve.jsonl"), "learning_rate": rate,
        } | changes  # fmt: skip
        if method == "kto":
            kto.train(kto.Recipe(**(shared | {"batch": 16, "micro_batch": 16})), folder)  # a pair is two of its rows
        else:
            pair.train(pair.Recipe(loss=method, **shared), folder)
    return folder / "final"


def score(model_folder: Path, rows: list[Row], kept: Path) -> Scores:
    """By transformers alone: nothing of what trained the model."""
    if kept.is_file():
        return Scores(**json.loads(kept.read_text()))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(model_folder, local_files_only=True, dtype=torch.float32).eval()
    found: dict[str, list[Any]] = {name: [] for name in ("chosen", "rejected", "chosen_tokens", "rejected_tokens")}
    with torch.inference_mode():
        for row in rows:
            prompt = tokenizer(row["prompt"])["input_ids"]
            for side in ("chosen", "rejected"):
                answer = [*tokenizer(row[side], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
                ids = torch.tensor([prompt + answer])
                logits = model(ids, logits_to_keep=len(answer) + 1).logits[0, :-1].log_softmax(-1)
                found[side].append(logits.gather(1, ids[0, -len(answer) :, None]).sum().item())
                found[f"{side}_tokens"].append(len(answer))
    scores = Scores(**found)
    kept.write_text(json.dumps(asdict(scores)))
    return scores


def right(scores: Scores, reference: Scores | None = None) -> list[float]:
    """1 where the preferred answer is the likelier one (or, with a reference, rose more), 1/2 for a tie, else 0."""
    gaps = [a - b for a, b in zip(scores.chosen, scores.rejected, strict=True)]
    if reference:
        gaps = [g - (a - b) for g, a, b in zip(gaps, reference.chosen, reference.rejected, strict=True)]
    return [(gap > 0) + (gap == 0) / 2 for gap in gaps]


def share(values: list[float]) -> str:
    """A share with Wilson's 95 % interval."""
    n, p, z = len(values), sum(values) / len(values), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return f"{100 * p:.1f} ({100 * (middle - half):.1f}–{100 * (middle + half):.1f})"


def gain(before: list[float], after: list[float]) -> tuple[str, bool]:
    """The paired difference in points with its 95 % interval, and whether that is clear of zero."""
    differences = [100 * (b - a) for a, b in zip(before, after, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    half = 1.96 * math.sqrt(sum((each - mean) ** 2 for each in differences) / (n - 1) / n)
    return f"{mean:+.1f} ± {half:.1f}", mean - half > 0


def own(method: str, scores: Scores, reference: Scores) -> list[float]:
    """The same by the reward that the method's loss defines: a ratio to the reference, a mean per token, or a sum."""
    loss = LOSSES.get(method)
    if loss is None or loss.reference:
        return right(scores, reference)
    if not loss.normalised:
        return right(scores)
    per_token = (
        [logp / tokens for logp, tokens in zip(logps, lengths, strict=True)]
        for logps, lengths in ((scores.chosen, scores.chosen_tokens), (scores.rejected, scores.rejected_tokens))
    )
    return right(Scores(*per_token, [], []))


def cells(method: str, before: dict[str, Scores], after: dict[str, Scores]) -> list[str]:
    """Shares in % with intervals, gains in points; "rose more": by how the ratio to the sft model moved."""
    found = []
    for part in ("test", "unseen"):
        points, clear = gain(right(before[part]), right(after[part]))
        found += [share(right(after[part])), points if clear else f"{points} (noise)"]
        if part == "test":
            found.append(share(right(after[part], before[part])))
            found.append(f"{100 * sum(own(method, before[part], before[part])) / len(before[part].chosen):.1f}")
            found.append(share(own(method, after[part], before[part])))
    return found


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    for line in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print()


def tune(methods: list[str], rows: dict[str, list[Row]], out: Path) -> None:
    """Every rate on the development part; the mean margin says more than a share that is full."""
    lines_ = []
    for method in methods:
        for rate in RATES:
            folder = out / "tune" / f"{method}-{rate:g}"
            model = train(method, rate, out, folder, train=str(out / "tune.jsonl"), heldout=None, heldout_fraction=0.0)
            scores = score(model, rows["dev"], folder / "dev.json")
            margin = sum(a - b for a, b in zip(scores.chosen, scores.rejected, strict=True)) / len(scores.chosen)
            lines_.append((method, f"{rate:g}", share(right(scores)), f"{margin:+.2f}"))
            print(*lines_[-1], flush=True)
    table(("method", "rate", "right on dev, %", "mean margin, nats"), lines_)


def draw(methods: list[str], out: Path) -> None:
    """Held-out accuracy over the steps, from the last checkpoints' logs; kto logs none and has its own curve.png."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    for method in methods:
        state = max((out / method).glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
        history = json.loads(state.read_text())["log_history"]
        key = "eval_yardstick/logp"
        begun = json.loads((out / method / "baseline.json").read_text())
        points = [(0, begun[name]) for name in (key, key.removeprefix("eval_")) if name in begun]
        points += [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=method, linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("preferred answer likelier, share of 60 held-out pairs")
    axes.legend()
    figure.savefig(out / "curves.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(RATE), choices=list(RATE))
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    out = options.out
    rows = parts(options.data)
    write(rows, out)
    start = begin(out)
    if options.tune:
        tune(options.methods, rows, out)
        return
    for part in ("test", "unseen"):
        yes = sum(row["chosen"] == " Yes" for row in rows[part]) / len(rows[part])
        print(f"{part}: {len(rows[part])} pairs; a constant Yes scores {yes:.1%}, a constant No {1 - yes:.1%}")
    before = {part: score(start, rows[part], out / f"sft-{part}.json") for part in ("test", "unseen")}
    print("after sft: " + "; ".join(f"{part} {share(right(scores))} %" for part, scores in before.items()) + "\n")
    lines_ = []
    for method in options.methods:
        folder = out / method
        model = train(method, RATE[method], out, folder)
        after = {part: score(model, rows[part], folder / f"{part}.json") for part in before}
        lines_.append((method, f"{RATE[method]:g}", *cells(method, before, after)))
        print(*lines_[-1], sep="  ", file=sys.stderr)
    table(
        ("method", "rate", "right on test", "gain", "rose more", "own reward before", "after", "unseen", "gain"), lines_
    )
    draw(options.methods, out)


if __name__ == "__main__":
    main()

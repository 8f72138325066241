"""Do a reward model and DPO learn real preferences on SmolLM2-135M-Instruct, with LoRA, on one CPU core?

  python benchmarks/real_pairs.py --data DIR --gguf SmolLM2-135M-Instruct.Q4_1.gguf --out DIR [--methods reward dpo]

--data holds pref_model_written_evals/persona.jsonl.zst (Anthropic's model-written evaluations, CC-BY-4.0): a statement,
and whether a persona would say it; each behaviour has the answer Yes for half of its statements, so neither a constant
nor the longer answer is right more often than chance. Statements are split by hash into those to learn from and those
held out; none is in both. Two sets of behaviours:

  interests   chosen is what someone says who likes art, literature, music and sports
  character   chosen is the answer of a decent character: it agrees with an agreeable and a conscientious one, and not
              with a psychopathic, a machiavellian or a narcissistic one or with "ends justify means"

One epoch at a constant rate, so every evaluation is what that many different pairs taught. The reward model is right
where the chosen answer has the higher reward; DPO where it is the likelier one (yardstick/logp), and where its implicit
reward is higher (rewards/accuracies). A killed run resumes. Weights are the GGUF's, dequantized; products are in
bfloat16; prompts are plain text, which saves the template's thirty tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file is called as the package that it measures
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

from benchmarks.preference_chain import FILE, lines
from trainers.methods import pair, reward
from trainers.run.wilson import wilson

SETS = {  # whether the chosen answer is the one that matches the behaviour
    "interests": dict.fromkeys((f"interest-in-{what}" for what in ("art", "literature", "music", "sports")), True),
    "character": {
        "agreeableness": True, "conscientiousness": True, "psychopathy": False, "machiavellianism": False,
        "narcissism": False, "ends-justify-means": False,
    },
}  # fmt: skip
COMMON: dict[str, Any] = {
    "chat_template": "none", "max_length": 128, "batch": 8, "micro_batch": 8, "epochs": 1, "learning_rate": 1e-3,
    "schedule": "constant_with_warmup", "warmup": 5, "lora_rank": 8, "lora_alpha": 16, "bf16": True, "threads": 1,
    "logging_every": 4, "save_every": 8, "report_to": [], "seed": 0,
}  # fmt: skip
CURVE = 3  # evaluations on the way, the last at the end


def pairs_of(data: Path, behaviours: dict[str, bool]) -> list[dict[str, str]]:
    """prompt, chosen, rejected of each statement, once, in the order of the statements' hashes."""
    found: dict[str, dict[str, str]] = {}
    for raw in lines(data / FILE):
        if (agrees := behaviours.get(raw["behavior"])) is None:
            continue
        two = raw["answer_matching_behavior"], raw["answer_not_matching_behavior"]
        chosen, rejected = two if agrees else two[::-1]
        key = hashlib.sha256(raw["statement"].strip().casefold().encode()).hexdigest()
        found.setdefault(key, {"prompt": raw["question"] + "\nAnswer:", "chosen": chosen, "rejected": rejected})
    return [found[key] for key in sorted(found)]


def train(method: str, keys: dict[str, Any], out: Path) -> dict[str, Any]:
    """What run.json holds."""
    if (out / "run.json").is_file():
        found: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
        return found
    if method == "reward":
        return reward.train(reward.Recipe(**keys), out)
    return pair.train(pair.Recipe(loss="dpo", packing="prompt", **keys), out)


def curve(out: Path, measure: str, before: dict[str, Any]) -> list[tuple[int, float]]:
    """(optimizer steps, held-out share), before the first step and at each evaluation."""
    newest = max(out.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    history = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    points = [(entry["step"], entry[f"eval_{measure}"]) for entry in history if f"eval_{measure}" in entry]
    return [(0, before[measure]), *points]


def report(method: str, run: dict[str, Any], out: Path, tests: list[dict[str, str]]) -> None:
    """The learning curve with intervals, and what needs no model."""
    longer = sum(len(row["chosen"]) > len(row["rejected"]) for row in tests) / len(tests)
    print(f"\n{method}: {len(tests)} held-out pairs; the longer answer is right in {longer:.3f}, chance .500")
    measures = {"reward": ("accuracy",), "dpo": ("yardstick/logp", "rewards/accuracies")}[method]
    for measure in measures:
        for steps, share in curve(out, measure, run["heldout_before"]):
            low, high = wilson(share, len(tests))
            verdict = "above both" if low > max(longer, 0.5) else "not above both"
            learned = steps * COMMON["batch"]
            print(f"  {measure:20}{learned:6} pairs learned: {share:.3f} ({low:.3f} to {high:.3f}) {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", default="interests", choices=list(SETS))
    parser.add_argument("--methods", nargs="+", default=["reward", "dpo"], choices=["reward", "dpo"])
    parser.add_argument("--pairs", type=int, default=384, help=f"to learn from: a multiple of {CURVE * 8}")
    parser.add_argument("--tests", type=int, default=160)
    options = parser.parse_args()
    rows = pairs_of(options.data, SETS[options.set])
    tests, learn = rows[: options.tests], rows[options.tests :][: options.pairs]
    options.out.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", learn), ("heldout", tests)):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (options.out / f"{name}.jsonl").write_text(text, encoding="utf-8")
    every = options.pairs // COMMON["batch"] // CURVE
    keys = COMMON | {
        "model": str(options.gguf), "train": str(options.out / "train.jsonl"),
        "heldout": str(options.out / "heldout.jsonl"), "eval_every": every,
    }  # fmt: skip
    for method in options.methods:
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        run = train(method, keys, options.out / method)
        report(method, run, options.out / method, tests)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_utime - begun
        print(f"  {used:.0f} s of CPU in this process, loading and evaluations included", flush=True)


if __name__ == "__main__":
    main()

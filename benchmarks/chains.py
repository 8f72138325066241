"""Does every shipped chain run to its end, and is its last step's held-out reward above its first step's?

  python benchmarks/chains.py --data DIR --out DIR [--chains deepspeed_chat moss …] [--toy] [--kill]

DIR of --data holds pref_model_written_evals/persona.jsonl.zst (Anthropic's model-written evaluations, CC-BY-4.0) and
lawir_zh (Chinese statutes, outside copyright, and lay people's questions with the articles that answer them, MIT). The
three English chains learn the form of an answer from 600 statements on religion and ethics, and what to prefer from 640
on art, literature, music and sports; moss gets 15% of its pairs with the labels turned. zhongjing stands on law in the
place of medicine: 4,000 articles as domain text, 300 questions with the first clause of the article that answers them,
against the first clause of an article that does not.

--kill ends each chain with kill -9 once in every step, as soon as that step has a checkpoint, and starts the same
command again; at the end the weights must be those of a chain that was never killed, bit by bit. --toy takes a model of
two layers with random weights and generated pairs (half of its examples prefer one answer, half the other): 20 seconds
of CPU a chain, which is what the kills are for. Otherwise the packaged tiny model. One process, no GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # this file is called as the package that it measures
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

CHAINS = ("deepspeed_chat", "colossal_chat", "moss", "zhongjing")
LAWS = {"domain": 4000, "domain_heldout": 100}
CLAUSE = 20  # characters of an answer, at most
SHARED = {
    "every.threads": 1, "every.report_to": "[]", "every.chat_template": "none", "compare.heldout_fraction": 0.25,
    "compare.prompts": 150, "compare.samples": 4,
}  # fmt: skip
ENGLISH = SHARED | {
    "sft.save_every": 15, "reward.save_every": 15, "ppo.save_every": 5, "reward.batch": 8, "reward.epochs": 2,
    "ppo.max_new_tokens": 4, "compare.max_new_tokens": 4, "ppo.batch": 64, "ppo.minibatch": 32, "ppo.steps": 24,
    "compare.batch": 32,
}  # fmt: skip
CHINESE = SHARED | {
    "cpt.threads": 1, "cpt.block": 256, "cpt.long_block": 256, "cpt.batch": 8, "cpt.steps": 40, "cpt.save_every": 20,
    "cpt.eval_every": 20,
    "cpt.eval_blocks": 4, "cpt.final_eval_tokens": 4096, "sft.save_every": 10, "sft.epochs": 4, "reward.save_every": 10,
    "reward.epochs": 4, "reward.batch": 8, "ppo.save_every": 5, "ppo.max_new_tokens": 48, "ppo.batch": 32,
    "ppo.minibatch": 32, "ppo.steps": 20, "compare.max_new_tokens": 48, "compare.batch": 32,
}  # fmt: skip
TOY = {
    "every.threads": 1, "every.report_to": "[]", "every.chat_template": "none", "every.max_length": 96,
    "compare.heldout_fraction": 0.25, "compare.prompts": 60, "compare.samples": 2, "compare.max_new_tokens": 8,
    "compare.batch": 60, "sft.steps": 12, "sft.save_every": 4, "sft.learning_rate": 0.01, "reward.steps": 12,
    "reward.save_every": 4, "reward.learning_rate": 0.005, "ppo.steps": 12, "ppo.save_every": 4, "ppo.batch": 64,
    "ppo.minibatch": 32, "ppo.micro_batch": 32, "ppo.learning_rate": 0.005, "ppo.critic_learning_rate": 0.005,
    "ppo.max_new_tokens": 8,
}  # fmt: skip
TOY_CPT = {
    "cpt.block": 32, "cpt.long_block": 32, "cpt.batch": 8, "cpt.micro_batch": 8, "cpt.steps": 12, "cpt.save_every": 4,
    "cpt.eval_every": 6, "cpt.eval_blocks": 4, "cpt.final_eval_tokens": 512, "cpt.threads": 1,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, help="real data, where --toy is not given")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chains", nargs="+", choices=CHAINS, default=CHAINS)
    parser.add_argument("--kill", action="store_true", help="also kill each chain in every step, and compare the ends")
    parser.add_argument("--toy", action="store_true", help="a model of two layers on generated pairs")
    options = parser.parse_args()
    sets = options.out / "data"
    if options.toy:
        generated(sets)
    elif not (sets / "ready").is_file():
        english(options.data, sets)
        chinese(options.data / "lawir_zh", sets)
        (sets / "ready").touch()
    for name in options.chains:
        line = command(name, sets, options.out / name, options.toy)
        start = time.monotonic()
        run(line, options.out / f"{name}.log")
        print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)
        print(json.dumps(json.loads((options.out / name / "run.json").read_text())["comparison"]), flush=True)
        if options.kill:
            killed(name, sets, options.out, options.toy)


def command(name: str, sets: Path, out: Path, toy: bool) -> list[str]:
    """The chain on its data sets."""
    found = on_toy(name, sets) if toy else on_tiny(name, sets)
    if name == "moss":
        found |= {"reward.models": 3, "reward.turn_share": 0.15, "reward.epochs": 1}
    changes = [word for key, value in found.items() for word in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "trainers.command", "chain", "--config", name, "--out", str(out), *changes]


def on_tiny(name: str, sets: Path) -> dict[str, Any]:
    """Keys for the packaged model on real data."""
    if name == "zhongjing":
        files = {"cpt.train_file": "domain", "cpt.heldout_file": "domain_heldout", "sft.train": "law_answers",
                 "reward.train": "law_pairs", "ppo.train": "law_pairs"}  # fmt: skip
    else:
        files = {"sft.train": "form", "reward.train": "noisy" if name == "moss" else "train", "ppo.train": "train"}
    return {
        **(CHINESE if name == "zhongjing" else ENGLISH),
        **{key: sets / f"{file}.jsonl" for key, file in files.items()},
    }


def on_toy(name: str, sets: Path) -> dict[str, Any]:
    """Keys for the model of two layers on generated pairs."""
    found: dict[str, Any] = {**TOY, "sft.train": sets / "both.jsonl"}
    found |= {f"{step}.train": sets / "toy.jsonl" for step in ("reward", "ppo")}
    if name == "zhongjing":
        texts = {f"cpt.{key}_file": sets / "texts.jsonl" for key in ("train", "heldout")}
        return found | TOY_CPT | texts | {"cpt.init": sets / "model"}
    return (
        found | {"sft.model": sets / "model"} | ({"reward.model": sets / "model"} if name == "deepspeed_chat" else {})
    )


def generated(sets: Path) -> None:
    """The toy and its data: 240 prompts; both answers to each are examples, the pairs prefer one."""
    from tests.trainers.toy import build_toy, pair_rows

    if not (sets / "model").is_dir():
        build_toy(sets / "model")
    rows = pair_rows(240)
    write(sets / "toy.jsonl", rows)
    write(sets / "both.jsonl", [{"prompt": row["prompt"], "completion": row[side]}
                                for row in rows for side in ("chosen", "rejected")])  # fmt: skip
    write(sets / "texts.jsonl", [{"text": f"{row['prompt']}{row['chosen']}"} for row in rows])


def run(line: list[str], log: Path) -> None:
    """To the end; SystemExit with the log's last lines where it fails."""
    with log.open("a") as file:
        status = subprocess.run(line, cwd=ROOT, stdout=file, stderr=file, check=False).returncode
    if status:
        raise SystemExit(f"{log}: status {status}\n" + "\n".join(log.read_text().splitlines()[-5:]))


# ---------------------------------------------------------------- kill -9


def killed(name: str, sets: Path, out: Path, toy: bool) -> None:
    """The same chain, killed once in every step: its end must be bitwise that of the first."""
    from tests.trainers.toy import same_weights

    again, whole = out / f"{name}-killed", out / name
    log = (out / f"{name}-killed.log").open("a")
    steps = [step["step"] for step in json.loads((whole / "run.json").read_text())["steps_of_the_chain"]]
    for step in steps:
        process = subprocess.Popen(
            command(name, sets, again, toy), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
        while process.poll() is None and not has_checkpoint(again / step):
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            print(f"   {name}: killed in {step}: {sorted(p.name for p in again.iterdir() if p.is_dir())}", flush=True)
        else:
            print(f"   {name}: {step} ended with {process.returncode} before it could be killed", flush=True)
    run(command(name, sets, again, toy), out / f"{name}-killed.log")
    for step in [*steps, "."]:
        same = same_weights(whole / step / "final", again / step / "final")
        print(f"   {name}: {step}/final {'bitwise the same' if same else 'DIFFERENT'}", flush=True)
    comparisons = [json.loads((folder / "run.json").read_text())["comparison"] for folder in (whole, again)]
    print(f"   {name}: comparison {'the same' if comparisons[0] == comparisons[1] else 'DIFFERENT'}", flush=True)


def has_checkpoint(folder: Path) -> bool:
    """Whether the step has a checkpoint and is not finished; a step of several trainings has them below."""
    return any(folder.glob("**/checkpoint-*")) and not (folder / "run.json").is_file()


# ---------------------------------------------------------------- data


def english(data: Path, sets: Path) -> None:
    """form.jsonl, train.jsonl, and noisy.jsonl with the labels of 15% of its pairs turned."""
    from benchmarks.preference_chain import parts

    sets.mkdir(parents=True, exist_ok=True)
    found = parts(data)
    draw = random.Random(0)
    noisy = [
        row | {"chosen": row["rejected"], "rejected": row["chosen"]} if draw.random() < 0.15 else row
        for row in found["train"]
    ]
    for name, rows in (("form", found["form"]), ("train", found["train"]), ("noisy", noisy)):
        write(sets / f"{name}.jsonl", rows)


def chinese(folder: Path, sets: Path) -> None:
    """Domain text, law_answers.jsonl and law_pairs.jsonl."""
    articles = {row["_id"]: row for row in lines(folder / "corpus.jsonl.zst")}
    order = sorted(articles, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    start = 0
    for name, size in LAWS.items():
        rows = [{"text": f"{articles[key]['title']}\n{articles[key]['text']}"} for key in order[start : start + size]]
        write(sets / f"{name}.jsonl", rows)
        start += size
    questions = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.dev.jsonl").open())}
    relevant: dict[str, str] = {}
    for line in (folder / "qrels.dev.tsv").read_text().splitlines()[1:]:
        question, article, _ = line.split("\t")
        relevant.setdefault(question, article)
    others = random.Random(0).sample(order, len(relevant))
    pairs = [
        {"prompt": f"问：{questions[key]}\n答：", "chosen": clause(articles[article]["text"]),
         "rejected": clause(articles[other]["text"])}
        for (key, article), other in zip(relevant.items(), others, strict=True)
    ]  # fmt: skip
    pairs = [row for row in pairs if row["chosen"] != row["rejected"]]
    write(sets / "law_pairs.jsonl", pairs)
    write(sets / "law_answers.jsonl", [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs])


def clause(text: str) -> str:
    """The first clause of an article."""
    return re.split("[，。；：]", text)[0][:CLAUSE] + "。"


def lines(path: Path) -> Iterator[dict[str, Any]]:
    import zstandard

    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield json.loads(line)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Does PPO teach a real model something that can be checked, and does the text still make sense?

    python -m benchmarks.short_answers --model SmolLM2-135M-Instruct.gguf --out DIR [--steps 20]

Trains a LoRA adapter with `trimtab train ppo` on short questions in four languages. The reward is a rule: a third each
for at most 40 words, for a clean end, and for the question's language. Prints score, KL and length on held-out
questions before and after, with the paired 95% interval, the phases of a step, and ten held-out answers to read. A run
that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from trainers import command

WORDS = 40
BUDGET = 4.0  # nats of an answer that the policy may end from its reference
LANGUAGES = ["en", "fr", "de", "es"]
QUESTIONS = {
    "en": ("What is {}?", "Why do people like {}?", "Name one use of {}."),
    "fr": ("Qu'est-ce que {} ?", "Pourquoi aime-t-on {} ?", "À quoi sert {} ?"),
    "de": ("Was ist {}?", "Warum mag man {}?", "Nenne einen Nutzen von {}."),
    "es": ("¿Qué es {}?", "¿Por qué gusta {}?", "¿Para qué sirve {}?"),
}
TOPICS = {
    "en": "honey, rain, iron, chess, bread, music, a bridge, the moon, wool, a garden, salt, a library, coffee, wind, "
          "paper, football, a bicycle, milk, glass, history, a clock, tea, wood, a museum, gold, cotton, a map, sugar, "
          "a lamp, dancing, the sea, a train, rice, silk, a mirror, leather, a market, steel, soap, a forest, water, "
          "a telephone, a candle, poetry, fire",
    "fr": "le miel, la pluie, le fer, le pain, la musique, la lune, le sel, le café, le vent, le verre, le bois, "
          "le sucre, la soie, le papier, la mer",
    "de": "Honig, Regen, Eisen, Brot, Musik, Wolle, Salz, Kaffee, Wind, Glas, Holz, Zucker, Seide, Papier, Wasser",
    "es": "la miel, la lluvia, el hierro, el pan, la música, la luna, la sal, el café, el viento, el vidrio, "
          "la madera, el azúcar, la seda, el papel, el mar",
}  # fmt: skip
RECIPE = """
scorer: rule
rule: {rule}:score
max_new_tokens: 64
max_length: 160
temperature: 0.6
batch: 32
micro_batch: 16
minibatch: 16
shared_trunk: true
value_coefficient: 0.1
kl_coefficient: 0.05
kl_target: {budget}
kl_horizon: 80
lam: 1.0
learning_rate: 0.0005
lora_rank: 8
heldout_fraction: 0.0
save_every: 1
logging_every: 1
samples_every: 5
report_to: []
"""


@cache
def identifier() -> Any:
    """py3langid, among the four languages."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found.set_languages(LANGUAGES)
    return found


def score(prompt: list[dict[str, str]], answer: str) -> float:
    """The rule: 0 to 1."""
    text = answer.strip()
    short = 3 <= len(text.split()) <= WORDS
    clean = text.endswith((".", "!", "?", "»", '."'))
    same = bool(text) and identifier().classify(text)[0] == identifier().classify(prompt[-1]["content"])[0]
    return (short + clean + same) / 3


def prompts() -> tuple[list[str], list[str]]:
    """Questions to learn on, and held-out ones about other topics."""
    learned: list[str] = []
    held: list[str] = []
    for language, forms in QUESTIONS.items():
        topics = [topic.strip() for topic in TOPICS[language].split(",")]
        for i, topic in enumerate(topics):
            for form in forms:
                (held if i % 3 == 2 else learned).append(form.format(topic))
    return learned, held


def main() -> int:
    """The training's exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="a GGUF file or a folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    files = {"train": options.out / "train.jsonl", "heldout": options.out / "heldout.jsonl"}
    for path, texts in zip(files.values(), prompts(), strict=True):
        path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")
    recipe = options.out / "recipe.yaml"
    values = RECIPE.format(rule=Path(__file__).resolve(), budget=BUDGET)
    more = {"model": options.model, **files, "steps": options.steps, "threads": options.threads}
    recipe.write_text(values + "".join(f"{key}: {value}\n" for key, value in more.items()), encoding="utf-8")
    run = options.out / "run"
    changes = [word for change in options.set for word in ("--set", change)]
    if status := command.main(["ppo", "--config", str(recipe), "--out", str(run), *changes]):
        return status
    report(run)
    return 0


def report(run: Path) -> None:
    """What happened to the held-out answers."""
    before, after = (
        [json.loads(line) for line in (run / f"heldout-{when}.jsonl").read_text("utf-8").splitlines()]
        for when in ("before", "after")
    )
    apart = [new["score"] - old["score"] for old, new in zip(before, after, strict=True)]
    half = 1.96 * stdev(apart) / math.sqrt(len(apart))
    for name in ("score", "kl", "tokens"):
        budget = f" (budget {BUDGET:g})" if name == "kl" else ""
        print(f"{name}: {mean(row[name] for row in before):.3f} -> {mean(row[name] for row in after):.3f}{budget}")
    print(
        f"score, paired: {mean(apart):+.3f} ({mean(apart) - half:+.3f} to {mean(apart) + half:+.3f}), n = {len(apart)}"
    )
    for old, new in list(zip(before, after, strict=True))[:: max(1, len(after) // 10)][:10]:
        print(new["prompt"][-1]["content"])
        for name, row in (("before", old), ("after", new)):
            print(f"  {name} {row['score']:.2f} {row['answer']!r}")


if __name__ == "__main__":
    sys.exit(main())

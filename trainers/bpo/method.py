"""Black-box prompt optimization: a rewriter that makes a user's prompt lead to the answers that people prefer.

    trimtab train bpo --config trainers/recipes/bpo.yaml --out build/bpo

Cheng et al. 2024 (arXiv:2311.04155): a critic compares a good and a bad response and writes the prompt that would have
led to the good one (x, y_good, y_bad -> x'); the rewriter learns L = -Σ_t log π(x'_t | x, x'_<t), on the rewrite only.
Then, if the recipe asks for it, DPO on its own samples, marked by the critic. What the rewriter is asked in training is
what the server asks it: prompt_opt.rewriter.settings's template.

    pairs -> critic -> filters -> SFT (OUT/sft) -> [samples -> marks -> DPO (OUT/dpo)] -> held-out report, OUT/final

Each stage leaves its files in OUT, and the same command resumes from them; no question to the critic is repeated.
`--no-resume` trains again from the start, and keeps the critic's answers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prompt_opt.rewriter.settings import shielded
from prompt_opt.rewriter.template import BPO
from trainers.ask.engine import EngineError
from trainers.ask.journal import write_rows
from trainers.bpo.options import Recipe
from trainers.bpo.rewrites import prepare, read_rewrites
from trainers.data.messages import Row
from trainers.run.keys import validate
from trainers.run.model import is_first, load, say, use_threads
from trainers.run.parts import derived, once, take_final, whole
from trainers.run.recipe import RecipeError
from trainers.run.training import main_for

METHOD = "bpo"


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    check(recipe)
    out.mkdir(parents=True, exist_ok=True)
    specials = special_tokens(recipe)
    try:
        data = prepare(recipe, recipe.engine, out, is_first())
        say(f"data: {json.dumps(data['counts'], ensure_ascii=False)}")
        parts = {part: read_rewrites(out, part) for part in ("train", "heldout")}
        last = "sft"
        run = supervised(recipe, parts, specials, out, resume)
        counts: dict[str, Any] = {}
        if recipe.judged_prompts:
            counts, preferred = on_judged(recipe, parts["train"], out, resume)
            if preferred:
                last, run = "dpo", preferred
    except EngineError as error:
        raise RecipeError(f"critic: {error}") from error
    return finish(recipe, parts, data, counts, last, run, out) if is_first() else run


def check(recipe: Recipe) -> None:
    """Refuse what could only fail later."""
    validate(recipe)
    use_threads(recipe.threads)
    for name in ("critic_concurrency", "judged_samples", "max_new_tokens"):
        if getattr(recipe, name) < 1:
            raise RecipeError(f"{name} must be at least 1")
    for name in ("critic_requests_per_minute", "critic_retries", "judged_prompts", "report_prompts"):
        if getattr(recipe, name) < 0:
            raise RecipeError(f"{name} must not be below 0")
    if recipe.judged_prompts and recipe.judged_samples < 2:
        raise RecipeError("judged_samples must be at least 2: a pair is made of two")
    if recipe.chat_template is not None:
        raise RecipeError("chat_template: a rewriter is trained on the server's own template; leave the key out")
    if not recipe.critic_url.startswith(("http://", "https://")):
        raise RecipeError(f"critic_url must begin with http:// or https://, not {recipe.critic_url!r}")
    if recipe.critic_key_env and not os.environ.get(recipe.critic_key_env):
        raise RecipeError(f"critic_key_env: the environment has no {recipe.critic_key_env}")


def special_tokens(recipe: Recipe) -> frozenset[str]:
    """The special tokens of the recipe's tokenizer, which both training and serving escape in a prompt."""
    from trainers.bpo.samples import specials_of

    return specials_of(load(recipe).tokenizer)


# ---------------------------------------------------------------- training


def supervised(
    recipe: Recipe, parts: dict[str, list[Row]], specials: frozenset[str], out: Path, resume: bool
) -> dict[str, Any]:
    """SFT on the shared template, loss on the rewrite and its end only."""
    from trainers.methods import sft

    files = {part: out / f"sft_{part}.jsonl" for part in parts}
    for part, rows in parts.items():
        write_rows(files[part], [example(row, specials) for row in rows])
    held = str(files["heldout"]) if parts["heldout"] else None
    changes = {"chat_template": "none", "train": str(files["train"]), "heldout": held, "heldout_fraction": 0.0}
    made = derived(recipe, sft.Recipe, **changes)
    return once(sft.train, made, out / "sft", resume)


def example(row: Row, specials: frozenset[str]) -> dict[str, str]:
    """What the rewriter sees when it is served, and what it should write; the user's special texts escaped in both."""
    return {"prompt": BPO.text(shielded(row["prompt"], specials)), "completion": shielded(row["rewrite"], specials)}


def on_judged(recipe: Recipe, rows: Sequence[Row], out: Path, resume: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """DPO on the rewriter's own marked samples; the counts, and what its run.json holds ({} without a pair)."""
    from trainers.bpo.dpo import judged
    from trainers.methods import pair

    counts = judged(recipe, recipe.engine, out / "sft" / "final", rows, out, is_first())
    say(f"judged: {json.dumps(counts)}")
    if not counts["pairs"]:
        say("no two samples of a prompt were marked far enough apart; the rewriter stays as SFT left it")
        return counts, {}
    made = derived(
        recipe, pair.Recipe, chat_template="none", model=str(whole(out / "sft")), train=str(out / "dpo_train.jsonl"),
        heldout=None, heldout_fraction=0.0, loss="dpo", beta=recipe.dpo_beta, learning_rate=recipe.dpo_learning_rate,
        epochs=recipe.dpo_epochs, steps=None,
    )  # fmt: skip
    return counts, once(pair.train, made, out / "dpo", resume)


# ---------------------------------------------------------------- the end


def finish(
    recipe: Recipe, parts: dict[str, list[Row]], data: dict[str, Any], judged: dict[str, Any], last: str,
    run: dict[str, Any], out: Path,
) -> dict[str, Any]:  # fmt: skip
    """OUT/final, the report on held-out prompts, and run.json."""
    from trainers.bpo.samples import Writer, report
    from trainers.run.record import surroundings, write_json

    take_final(out / last, out)
    summary = {}
    if parts["heldout"] and recipe.report_prompts:
        writer = Writer(out / "final", recipe.max_new_tokens, recipe.micro_batch)
        summary = report(writer, parts["train"], parts["heldout"][: recipe.report_prompts], out)
    record = {
        "method": METHOD,
        "recipe": asdict(recipe),
        "last": last,
        "data": data,
        "data_sha256": {"pairs": data["made_of"]["pairs"], **run["data_sha256"]},
        "judged": judged,
        "heldout_before": run.get("heldout_before", {}),
        "heldout": {**run.get("heldout", {}), **summary},
        **surroundings("torch", "transformers", "tokenizers", "accelerate", "trl", "peft"),
    }
    write_json(out / "run.json", record)
    return record


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 2 for a wrong recipe or data, 1 for a full disk, 130 if interrupted."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())

"""BPO's second part: DPO on rewrites that the critic marked. The rewriter's own samples, the best against the worst.

OUT/samples.jsonl    what the rewriter wrote, several samples a prompt, and the rule of the gate that objects
OUT/marks.jsonl      the critic's marks, a line as soon as it is given
OUT/dpo_train.jsonl  prompt, chosen, rejected, and their marks
OUT/judged.json      written last: the counts
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompt_opt.rewriter.settings import shielded
from prompt_opt.rewriter.template import BPO
from trainers.ask.engine import Engine, ask_all
from trainers.ask.journal import write_rows, write_whole
from trainers.bpo.options import Recipe
from trainers.bpo.samples import Writer, specials_of, verdict
from trainers.data.messages import Row
from trainers.judge.critic import read_score, score

Marked = tuple[float, str]  # mark, rewrite
REJECTED = 0.0  # the mark of what the gate throws away: below any that the critic gives


def judged(recipe: Recipe, engine: Engine, final: Path, rows: Sequence[Row], out: Path, first: bool) -> dict[str, Any]:
    """Make dpo_train.jsonl from samples of the rewriter in `final`, for the first prompts of `rows`; the counts.

    first: whether this process does it; the others wait for it.
    """
    made_of = {
        "rewriter": (final.parent / "run.json").read_text(encoding="utf-8"),
        "recipe": {name: getattr(recipe, name) for name in ("judged_prompts", "judged_samples", "judged_temperature",
                                                            "judged_margin", "max_new_tokens", "seed")},
        "critic": {"model": engine.model, "temperature": engine.temperature},
    }  # fmt: skip
    path = out / "judged.json"
    while True:
        if path.is_file() and (said := json.loads(path.read_text(encoding="utf-8")))["made_of"] == made_of:
            return dict(said["counts"])
        if first:
            counts = _make(recipe, engine, final, list(rows)[: recipe.judged_prompts], out, made_of)
            write_whole(path, json.dumps({"counts": counts, "made_of": made_of}, indent=2) + "\n")
        else:
            time.sleep(1)


def _make(
    recipe: Recipe, engine: Engine, final: Path, rows: list[Row], out: Path, made_of: dict[str, Any]
) -> dict[str, Any]:
    writer = Writer(final, recipe.max_new_tokens, recipe.micro_batch)
    samples = _samples(recipe, writer, rows, out, made_of)
    asked = [sample for sample in samples if not sample["rule"]]
    answers = ask_all(engine, [score(s["prompt"], s["said"]) for s in asked], out / "marks.jsonl", "marks")
    marked: dict[str, list[Marked]] = {row["prompt"]: [] for row in rows}
    for sample in samples:
        if sample["rule"]:
            marked[sample["prompt"]].append((REJECTED, sample["said"]))
    unread = 0
    for sample, answer in zip(asked, answers, strict=True):
        if (mark := read_score(answer.text)) is None:
            unread += 1
        else:
            marked[sample["prompt"]].append((mark, sample["said"]))
    specials = specials_of(writer.tokenizer)
    pairs = [
        {
            "prompt": BPO.text(shielded(prompt, specials)),
            "chosen": shielded(chosen, specials),
            "rejected": shielded(rejected, specials),
            "score_chosen": high,
            "score_rejected": low,
        }
        for prompt, of_prompt in marked.items()
        for (high, chosen), (low, rejected) in best_and_worst(of_prompt, recipe.judged_margin)
    ]
    write_rows(out / "dpo_train.jsonl", pairs)
    by_gate = len(samples) - len(asked)
    return {"samples": len(samples), "rejected_by_the_gate": by_gate, "unread_marks": unread, "pairs": len(pairs)}


def _samples(recipe: Recipe, writer: Writer, rows: list[Row], out: Path, made_of: dict[str, Any]) -> list[Row]:
    """What the rewriter writes, without doubles; kept, so that a rerun marks the same ones."""
    from transformers import set_seed

    path = out / "samples.jsonl"
    head = {"made_of": made_of}
    if path.is_file():
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        if json.loads(first) == head:
            return [json.loads(line) for line in lines]
    set_seed(recipe.seed)
    prompts = [row["prompt"] for row in rows]
    written = writer.write(
        prompts,
        "samples",
        do_sample=True,
        temperature=recipe.judged_temperature,
        top_p=0.9,
        num_return_sequences=recipe.judged_samples,
    )
    samples = []
    for prompt, candidates in zip(prompts, written, strict=True):
        unique = {candidate.text: candidate for candidate in candidates}
        for text, candidate in unique.items():
            # To leave a prompt as it is may be right, so that is the critic's to say.
            rule = "" if (found := verdict(prompt, candidate)) == "unchanged" else found
            samples.append({"prompt": prompt, "said": text, "rule": rule})
    write_rows(path, [head, *samples])
    return samples


def best_and_worst(marked: Sequence[Marked], margin: float) -> list[tuple[Marked, Marked]]:
    """The two ends of what was marked, if they are `margin` apart; of equals the shorter text is the better one."""
    ordered = sorted(marked, key=lambda pair: (-pair[0], len(pair[1])))
    if len(ordered) < 2 or ordered[0][0] - ordered[-1][0] < max(margin, 1e-9):
        return []
    return [(ordered[0], ordered[-1])]

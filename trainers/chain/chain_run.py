"""A chain of trainings with one command: SFT, a reward model, PPO, or whatever steps its recipe names.

    trimtab train chain --config deepspeed_chat --out build/chat --set sft.train=FILE --set reward.train=FILE …

Every step's recipe and data are checked before the first begins. OUT/STEP is a run of its own, made once: the same
command resumes a killed chain in the step that was cut off, and to bit-identical weights where the step's method does.
At the end the steps' models answer prompts that no step learned from, and the chain's reward model compares them.
OUT/final is the last step's model. A chain runs in one process.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.chain import chain_ledger
from trainers.chain.chain_compare import compared, comparison_text
from trainers.chain.chain_data import held_out, write_data, write_prompts
from trainers.chain.chain_plan import Part, plan_text, planned
from trainers.chain.chain_reader import read_chain
from trainers.chain.chain_recipe import Chain
from trainers.data.jsonl import DataError
from trainers.run.model import say
from trainers.run.outcome_text import changes
from trainers.run.parts import take_final, whole
from trainers.run.recipe import RecipeError
from trainers.run.training import attempted


def train(chain: Chain, out: Path, anew: Sequence[str] = (), only_plan: bool = False) -> dict[str, Any]:
    """Run the steps to their end and return what run.json holds; {} where only the plan is wanted.

    `anew`: steps that are made again, whatever is there.
    """
    heldout = held_out(chain)
    write_prompts(heldout, out)
    rows = write_data(chain, heldout, out)
    parts = planned(chain, rows, out)
    ledger = {} if only_plan else chain_ledger.begin(parts, out, anew)
    say(plan_text(parts, rows, len(heldout), out))
    if only_plan:
        return {}
    runs = {}
    for number, part in enumerate(parts, 1):
        say(f"step {number} of {len(parts)}: {part.step.name} ({part.step.method})")
        runs[part.step.name] = made(part)
        say("\n".join(changes(runs[part.step.name].get("heldout_before", {}), runs[part.step.name].get("heldout", {}))))
    found = compared(chain, ledger, heldout, out)
    return finish(parts, runs, found, out)


def made(part: Part) -> dict[str, Any]:
    """What the step's run.json holds: of its finished run, or of one that is trained now."""
    if part.finished:
        say(f"{part.folder} is finished")
        run: dict[str, Any] = json.loads((part.folder / "run.json").read_text(encoding="utf-8"))
    else:
        try:
            run = part.train(resume=True)
        except (RecipeError, DataError) as error:
            raise type(error)(f"step {part.step.name}: {error}") from error
        _free()
    if part.step.values.get("lora_rank") and not (part.folder / "merged").is_dir():
        whole(part.folder)
    return run


def _free() -> None:
    """Give the step's memory back before the next one loads its models."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def finish(
    parts: Sequence[Part], runs: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """OUT/final and run.json: the last step's, with what the others measured and the comparison."""
    from trainers.run.record import surroundings, write_json

    last = parts[-1].step
    take_final(parts[-1].folder, out)
    shown = ("data_sha256", "heldout_before", "heldout", "seconds")
    steps = [
        {"step": part.step.name, "method": part.step.method}
        | {name: runs[part.step.name][name] for name in shown if name in runs[part.step.name]}
        for part in parts
    ]
    run = runs[last.name]
    record = {
        "method": last.method,
        "recipe": run["recipe"],
        "last": last.name,
        "data_sha256": run.get("data_sha256", {}),
        "steps_of_the_chain": steps,
        "comparison": dict(found),
        "heldout_before": run.get("heldout_before", {}),
        "heldout": run.get("heldout", {}),
        **surroundings("torch", "transformers", "tokenizers", "accelerate", "trl", "peft"),
    }
    write_json(out / "run.json", record)
    return record


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 2 for a wrong recipe or data, 1 for a full disk or a loss that is not finite, 130."""
    parser = argparse.ArgumentParser(prog="trimtab train chain", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--config", "--recipe", type=Path, required=True, help="a chain: a file, or a shipped one's name"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the steps' runs and the last step's model")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on where OUT stopped")
    parser.add_argument("--again", metavar="STEP", help="make this step and those after it anew")
    parser.add_argument("--plan", action="store_true", help="check every step, print the plan, and train nothing")
    parser.add_argument("--set", action="append", default=[], metavar="STEP.KEY=VALUE", help="a key of a step, changed")
    options = parser.parse_args(argv)

    def trained() -> dict[str, Any]:
        chain = read_chain(options.config, options.set)
        return train(chain, options.out, _anew(chain, options.again, options.resume), options.plan)

    run = attempted("chain", options.out, trained)
    if isinstance(run, int):
        return run
    if run:
        print(comparison_text(run["comparison"]), file=sys.stderr)
        print(f"next: trimtab export --run {options.out} --out {options.out.name}-model", file=sys.stderr)
        print(json.dumps(run["comparison"] | {"model": str(options.out / "final")}, indent=2))
    return 0


def _anew(chain: Chain, again: str | None, resume: bool) -> list[str]:
    names = [step.name for step in chain.steps]
    if not resume:
        return names
    if again is None:
        return []
    if again not in names:
        raise RecipeError(f"--again {again}: no such step; steps: {', '.join(names)}")
    return names[names.index(again) :]


if __name__ == "__main__":
    sys.exit(main())

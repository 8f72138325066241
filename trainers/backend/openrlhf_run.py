"""`trimtab train ppo --backend openrlhf`: hands a PPO recipe to OpenRLHF, for many GPUs with Ray, vLLM and DeepSpeed.

    trimtab train ppo --backend openrlhf --config ppo --out build/ppo --print
    trimtab train ppo --backend openrlhf --config ppo --out build/ppo --gpus 8 -- --ds.zero_stage 2

The prompts are checked and written as text to OUT/prompts.jsonl; every key of the recipe becomes flags or is refused by
name, and OpenRLHF's own parser must accept them before it starts. It has not been run on GPUs from here.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_rows, write_whole
from trainers.backend.openrlhf_flags import flags_of
from trainers.backend.openrlhf_parser import MODULE, installed, parsed
from trainers.data.jsonl import DataError
from trainers.data.messages import Row
from trainers.data.tokens import encode_prompt, ids_of, rendered
from trainers.ppo.ppo_recipe import Recipe
from trainers.ppo.ppo_recipe import check as check_ppo
from trainers.run.model import say
from trainers.run.recipe import RecipeError, read_recipe
from trainers.run.sets import begin, read_sets


def command_of(recipe: Recipe, out: Path, gpus: int, more: Sequence[str]) -> list[str]:
    """The command line that trains; OUT/prompts.jsonl is written for it.

    Raises:
        RecipeError, DataError: what OpenRLHF would not follow, or would tokenize otherwise.
    """
    check_ppo(recipe)
    material = begin(recipe, "prompt", out, resume=True)
    usable = {row.place for row in material.train}
    rows = [row for row in read_sets(recipe, "prompt")[0] if row["place"] in usable]
    write_rows(out / "prompts.jsonl", [{"input": text_of(row, material.base.tokenizer)} for row in rows])
    flags = [*flags_of(recipe, len(rows), out, gpus), *more]
    if installed():
        parsed(flags)
    else:
        say("openrlhf is not installed here, so its parser has not seen these flags")
    return [sys.executable, "-m", MODULE, *flags]


def text_of(row: Row, tokenizer: Any) -> str:
    """The prompt as text whose tokens, without any added, are those that Trimtab would train on."""
    ids = encode_prompt(row["prompt"], tokenizer)
    text = rendered(row["prompt"], tokenizer, True)
    if ids[:1] == [tokenizer.bos_token_id] and not text.startswith(str(tokenizer.bos_token)):
        text = f"{tokenizer.bos_token}{text}"
    if ids_of(text, tokenizer, begin=False) != ids:
        raise DataError(f"{row['place']}: OpenRLHF would read other tokens of this prompt than Trimtab does")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """OpenRLHF's exit status; 0 where the command is only printed, 2 for a wrong recipe or data."""
    parser = argparse.ArgumentParser("trimtab train ppo --backend openrlhf", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backend", choices=("openrlhf",), required=True, help="the system that trains")
    parser.add_argument("--config", type=Path, required=True, help="a PPO recipe: a file, or a shipped one's name")
    parser.add_argument("--out", type=Path, required=True, help="folder for the prompts, the model and the checkpoints")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of this machine")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the recipe, changed")
    parser.add_argument("--print", action="store_true", help="print the command and start nothing")
    parser.add_argument("more", nargs="*", metavar="-- FLAG", help="OpenRLHF's own flags, after --")
    options = parser.parse_args(argv)
    try:
        recipe = read_recipe(options.config, Recipe, options.set)
        line = command_of(recipe, options.out, options.gpus, options.more)
        write_whole(options.out / "openrlhf.sh", shlex.join(line) + "\n")
        if not options.print and not installed():
            raise RecipeError("openrlhf is not installed (pip install openrlhf[vllm]); --print shows the command")
    except (RecipeError, DataError) as error:
        print(f"train ppo: {error}", file=sys.stderr)
        return 2
    if options.print:
        print(shlex.join(line))
        return 0
    return subprocess.run(line, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

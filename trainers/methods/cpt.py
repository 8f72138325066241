"""Continued pretraining of a base model on plain text, or, with `--init config`, pretraining from nothing.

    trimtab train cpt --config RECIPE.yaml --init PATH --out FOLDER      (or: python -m trainers.methods.cpt …)

The recipe says what to read and how to learn; trainers/recipes/tiny_scratch.yaml explains every key. FOLDER gets
`final/` (safetensors and tokenizer), `run.json`, `curve.png`, `logs/` for TensorBoard, and checkpoints. The same
command resumes a killed run to bit-identical weights on the same machine. Not covered:
more than one GPU, and sources with mixing weights (mix them in the corpus).
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from trainers.data.jsonl import DataError, file_hash, read_lines
from trainers.pretraining.settings import WITHOUT_SHAPE, Recipe
from trainers.run.checkpoint import is_disk_full, last_checkpoint, remember
from trainers.run.finite import NonFinite
from trainers.run.model import use_threads
from trainers.run.recipe import RecipeError, read_recipe


def check(recipe: Recipe, init: str) -> None:
    """Refuse what could only fail later."""
    if recipe.batch % recipe.micro_batch:
        raise RecipeError(f"batch ({recipe.batch}) must be a multiple of micro_batch ({recipe.micro_batch})")
    for name in ("block", "long_block", "steps", "eval_every", "eval_blocks", "final_eval_tokens", "save_every"):
        if getattr(recipe, name) < 1:
            raise RecipeError(f"{name} must be at least 1")
    if init == "config":
        for name in ("vocabulary", "context", "hidden", "inner", "layers", "heads", "kv_heads"):
            if getattr(recipe, name) == WITHOUT_SHAPE:
                raise RecipeError(f"--init config needs {name!r} in the recipe")
    elif not Path(init, "config.json").is_file():
        raise RecipeError(f"--init {init}: no config.json there (give a model's folder, or the word config)")


def start(recipe: Recipe, init: str, checkpoint: str | None) -> tuple[Any, Any]:
    """The model and the tokenizer to begin with. A checkpoint holds its tokenizer, so it is trained only once."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, set_seed

    set_seed(recipe.seed)
    if init == "config":
        from trainers.pretraining.tokenizer import train_tokenizer

        texts = (row["text"] for row in read_lines(Path(recipe.train_file), ("text",)))
        tokenizer: Any = (
            AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
            if checkpoint
            else train_tokenizer(texts, recipe.vocabulary, recipe.context)
        )
        model: Any = LlamaForCausalLM(shape(recipe, tokenizer))
    else:
        tokenizer = AutoTokenizer.from_pretrained(init, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(init, local_files_only=True, dtype=torch.float32)
    context = model.config.max_position_embeddings
    for name in ("block", "long_block"):
        if getattr(recipe, name) > context:
            raise RecipeError(f"{name} ({getattr(recipe, name)}) is longer than the model's context ({context})")
    model.config.use_cache = False
    return model, tokenizer


def shape(recipe: Recipe, tokenizer: Any) -> Any:
    """The configuration of a new Llama of the recipe's sizes."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def train(recipe: Recipe, init: str, out: Path, resume: bool) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    from trainers.pretraining.loop import Loop
    from trainers.pretraining.outcome import record, save_final

    use_threads(recipe.threads)
    checkpoint = last_checkpoint(out, resume)
    model, tokenizer = start(recipe, init, checkpoint)
    loop = Loop(recipe, model, tokenizer, out, checkpoint)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters; {len(loop.blocks):,} blocks", file=sys.stderr)
    loop.run()
    save_final(model, tokenizer, out / "final")
    return record(recipe, init, loop, out)


def wanted(recipe: Recipe, init: str) -> dict[str, Any]:
    """What must be unchanged for a run to be resumed."""
    return {"init": init, **asdict(recipe), "the text of train_file": file_hash(Path(recipe.train_file))}


def resumed(recipe: Recipe, init: str, out: Path, resume: bool) -> dict[str, Any]:
    """`train`, after what OUT was begun with; RecipeError where that was something else."""
    constant = recipe.learning_rate == recipe.final_learning_rate
    remember(wanted(recipe, init), out, resume, ("steps",) if constant else ())
    return train(recipe, init, out, resume)


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0, 2 for a wrong recipe or data, 1 for a full disk, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="trimtab train cpt", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="a recipe: a file, or a shipped one's name")
    parser.add_argument("--init", required=True, help='a model\'s folder, or "config" for a new model')
    parser.add_argument("--out", type=Path, required=True, help="folder for the model, the checkpoints and the logs")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on where OUT stopped")
    options = parser.parse_args(argv)
    try:
        recipe = read_recipe(options.config, Recipe)
        check(recipe, options.init)
        run = resumed(recipe, options.init, options.out, options.resume)
    except (RecipeError, DataError) as error:
        print(f"train cpt: {error}", file=sys.stderr)
        return 2
    except NonFinite as error:
        print(f"train cpt: stopped before a weight changed: {error}", file=sys.stderr)
        return 1
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_disk_full(error, options.out):
            raise
        print(
            f"train cpt: no space left for {options.out}; free some and run the same command again",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("train cpt: interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    print(json.dumps(run["heldout"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())

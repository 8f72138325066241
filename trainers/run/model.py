"""A base model as the trainers need it: a folder, and a tokenizer with a layout and a pad token of its own."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.run.recipe import RecipeError

if TYPE_CHECKING:
    from trainers.run.keys import Common


@dataclass(frozen=True)
class Base:
    """A model's folder, its tokenizer made fit for training, how prompts are rendered, and what was changed for it."""

    path: str
    tokenizer: Any
    layout: str
    notes: tuple[str, ...]
    vocabulary: int  # rows of the model's embedding


def is_first() -> bool:
    """Whether this is the process that writes and speaks; launchers say by RANK."""
    return os.environ.get("RANK", "0") == "0"


def say(words: str) -> None:
    """Print a line on stderr, in the first process only."""
    if is_first():
        print(words, file=sys.stderr)


def use_threads(number: int) -> None:
    """Compute with so many CPU threads, on which the last bits of sums depend; 0 leaves it to torch."""
    if number:
        import torch

        torch.set_num_threads(number)


def load(recipe: "Common") -> Base:
    """The base model's folder and tokenizer, with a chat template if one is asked for and a pad token of its own."""
    from transformers import AutoConfig, AutoTokenizer

    path = folder_of(recipe.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise RecipeError(f"model {recipe.model}: its tokenizer cannot be loaded ({error})") from error
    notes = []
    if tokenizer.eos_token_id is None:
        raise RecipeError(f"model {recipe.model}: the tokenizer has no end token, so no answer could ever end")
    layout = set_template(recipe, tokenizer)
    if tokenizer.chat_template and getattr(tokenizer, "split_special_tokens", False):
        tokenizer.split_special_tokens = False
        notes.append("split_special_tokens is turned off: the chat template's end token must be read as one token")
    before = tokenizer.pad_token
    set_pad(recipe, tokenizer)
    if tokenizer.pad_token != before:
        notes.append(f"the pad token is now {tokenizer.pad_token} (it was {before}; the end token must not be padding)")
    vocabulary: int = AutoConfig.from_pretrained(path, local_files_only=True).get_text_config().vocab_size
    if (most := len(tokenizer)) > vocabulary:
        notes.append(f"the tokenizer has {most:,} tokens, the model's embedding {vocabulary:,} rows")
    return Base(path, tokenizer, layout, tuple(notes), vocabulary)


def folder_of(model: str) -> str:
    """A model's folder: itself, an unpacked GGUF file's, or the hub's snapshot, from the cache where it is there."""
    if model.endswith(".gguf"):
        from trainers.run.gguf_model import unpacked

        return str(unpacked(Path(model)))
    if Path(model).is_dir():
        if not Path(model, "config.json").is_file():
            raise RecipeError(f"model {model}: {no_model(Path(model))}")
        return model
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return snapshot_download(model, allow_patterns=wanted, local_files_only=True)
    except HFValidationError as error:
        raise RecipeError(f"model {model}: no such folder, and not a name that the hub could have") from error
    except LocalEntryNotFoundError:
        say(f"model {model}: not in the cache, asking the hub")
    try:
        return snapshot_download(model, allow_patterns=wanted)
    except (LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        raise RecipeError(
            f"model {model}: no such folder, not in the cache, and the hub does not have it or cannot be reached"
        ) from error


def no_model(folder: Path) -> str:
    """Why a folder is no model to start from, and what to do where it is what a training left."""
    if (folder / "adapter_config.json").is_file():
        run = folder.parent if folder.name == "final" else folder
        return f"a LoRA adapter, not a whole model; merge it first: trimtab export --run {run} --out FOLDER"
    if (folder / "final" / "config.json").is_file():
        return f"a run; its model is {folder / 'final'}"
    if (folder / "final" / "adapter_config.json").is_file():
        return f"a run that trained a LoRA adapter; merge it first: trimtab export --run {folder} --out FOLDER"
    return "no config.json there"


def set_template(recipe: "Common", tokenizer: Any) -> str:
    """Give the tokenizer the recipe's chat template, and say how prompts are rendered."""
    name = recipe.chat_template
    if name == "none":
        tokenizer.chat_template = None
        return "plain text: prompt and answer, one after the other"
    if name is None:
        return "the tokenizer's own chat template" if tokenizer.chat_template else "plain text: no chat template"
    shipped = Path(__file__).parents[1] / "templates" / f"{name}.jinja"
    file = shipped if shipped.is_file() else Path(name)
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in shipped.parent.glob("*.jinja")))
        raise RecipeError(f"chat_template {name}: no such file; shipped templates: {names}, none")
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    return f"chat_template {name}"


def set_pad(recipe: "Common", tokenizer: Any) -> None:
    """A pad token that is not the end token: a reward is read at the last token that is not padding."""
    vocabulary = tokenizer.get_vocab()
    if recipe.pad_token is not None:
        if recipe.pad_token not in vocabulary or recipe.pad_token == tokenizer.eos_token:
            raise RecipeError(f"pad_token {recipe.pad_token!r} must be a token of the model's, and not its end token")
        tokenizer.pad_token = recipe.pad_token
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        usual = (
            "<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", tokenizer.unk_token,
            "<|reserved_special_token_0|>", "[MASK]",
        )  # fmt: skip
        free = [token for token in usual if token in vocabulary and token != tokenizer.eos_token]
        if not free:
            raise RecipeError(
                f"the tokenizer pads with its end token {tokenizer.eos_token!r}, and has no usual pad token: name one "
                "of its tokens that no text uses as pad_token"
            )
        tokenizer.pad_token = free[0]

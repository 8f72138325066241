"""A GGUF file as a folder that trainers start from: its weights in float32, unpacked once and kept in the cache.

What was rounded when the file was made stays rounded; training goes on from there.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from retrieval.embedding.folder import cache_folder
from trainers.run.recipe import RecipeError
from trainers.run.record import tidy


def unpacked(file: Path) -> Path:
    """The folder of a GGUF file's model.

    Raises:
        RecipeError: there is no such file, or transformers cannot read it.
    """
    if not file.is_file():
        raise RecipeError(f"model {file}: no such file")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    folder = cache_folder("unpacked") / f"{file.stem}-{digest[:12]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as draft:
        made = Path(draft) / "made"
        _unpack(file, made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # unless another process was quicker
                raise
    return folder


def _unpack(file: Path, made: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = str(file.parent)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=file.name, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(place, gguf_file=file.name, local_files_only=True)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise RecipeError(f"model {file}: transformers cannot read it ({error})") from error
    # The weights are plain float32 now; transformers refuses to save what it has read from a GGUF file.
    del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    tidy(made / "tokenizer_config.json")

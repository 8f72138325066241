"""What is known of an engine's model by its files: its context, its tokenizer, its defaults."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prompt_opt.core import Prompt
from serve.engine import vocabulary
from serve.gguf import context_length, metadata, special_tokens


class Model:
    """The files of a model, as far as there are any."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.generation: dict[str, Any] = {}  # generation_config.json
        self.specials: frozenset[str] = frozenset()  # strings that stand for special tokens
        self.template = ""  # a GGUF file's chat template
        self._tokenizer: Any = None

    @property
    def context(self) -> int | None:
        """Tokens that it takes, where its files say so."""
        length = self.config.get("max_position_embeddings")
        return length if isinstance(length, int) else None

    def read(self, folder: Path, *, tokenizer: bool) -> None:
        """Read a model's folder; its `tokenizer` too. Does nothing where it is none."""
        if not (folder / "config.json").is_file():
            return
        self.config = json.loads((folder / "config.json").read_text("utf-8"))
        if (folder / "generation_config.json").is_file():
            self.generation = json.loads((folder / "generation_config.json").read_text("utf-8"))
        if tokenizer and (folder / "tokenizer.json").is_file():
            self.load_tokenizer(folder)

    def read_gguf(self, file: Path, *, tokenizer: bool) -> None:
        """Read a GGUF file's metadata; its `tokenizer` too, where its kind is known and the library is there.

        Raises:
            GgufError, OSError: it cannot be read.
        """
        meta = metadata(file)
        self.config = {"max_position_embeddings": context_length(meta)}
        self.specials = special_tokens(meta)
        self.template = str(meta.get("tokenizer.chat_template", ""))
        if tokenizer and find_spec("tokenizers"):
            self._tokenizer = vocabulary.tokenizer(meta)

    def load_tokenizer(self, path: Path) -> None:
        """Count with a tokenizer.json, or with the one in a folder."""
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
        self.specials = frozenset(t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special)

    def count(self, text: str) -> int:
        """Tokens of `text`: exact with the engine's tokenizer, else an estimate on the safe side (3 bytes each)."""
        if self._tokenizer is not None:
            return len(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return -(-len(text.encode()) // 3)

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt, with a little for what a template or a BOS adds."""
        if prompt.messages is not None:
            return sum(self.count(m.text) + 8 for m in prompt.messages) + 8
        return self.count(prompt.text or "") + 2

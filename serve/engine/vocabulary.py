"""The tokenizer that a GGUF file describes, as the `tokenizers` library runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serve.gguf import special_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# How a byte-level BPE cuts a text before merging, by `tokenizer.ggml.pre`; None: GPT-2's own pattern.
_DIGITS_IN_THREES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_CUTS: Mapping[str, str | None] = {
    "default": None, "gpt-2": None, "smollm": None,
    "llama-bpe": _DIGITS_IN_THREES, "llama3": _DIGITS_IN_THREES,
    "qwen2": _DIGITS_IN_THREES.replace("{1,3}", ""),
}  # fmt: skip


def tokenizer(meta: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a GGUF file's metadata; None for a kind that is not a byte-level BPE that we know."""
    if meta.get("tokenizer.ggml.model") != "gpt2" or meta.get("tokenizer.ggml.pre", "default") not in _CUTS:
        return None
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in meta["tokenizer.ggml.merges"]]
    out = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(tokens)}, merges=merges))
    pre = meta.get("tokenizer.ggml.pre", "default")
    cut = _CUTS[pre]
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
    if cut is not None:
        steps.append(pre_tokenizers.Split(Regex(cut), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut is None))
    out.pre_tokenizer = pre_tokenizers.Sequence(steps)
    out.decoder = decoders.ByteLevel()
    specials = sorted(special_tokens(meta), key=tokens.index)
    out.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return out

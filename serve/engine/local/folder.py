"""A Llama model in a folder of transformers (config.json, *.safetensors, tokenizer.json), described as a GGUF file is.

What `trimtab export` writes is such a folder. Weights in float32, float16 or bfloat16 are read; whatever the graph
would compute wrongly (another activation, scaled positions, biases) is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serve.engine.local.graph import Unsupported, check
from serve.engine.local.source import Source, usual_ends

_PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def read(folder: Path) -> Source:
    """The model in a folder.

    Raises:
        Unsupported: it is of another architecture, or computes what the graph does not.
        OSError: a file is missing or cannot be read.
    """
    import ml_dtypes  # noqa: F401 (gives numpy the type bfloat16)
    from safetensors import safe_open
    from tokenizers import Tokenizer

    config = _json(folder / "config.json")
    meta = _facts(config)
    files = tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        raise FileNotFoundError(f"{folder.name} holds no *.safetensors")
    places: dict[str, tuple[Any, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        opened: Any = safe_open(file, framework="np")
        for name in opened.keys():  # noqa: SIM118 (it is no mapping)
            ours = _name(name)
            places[ours], shapes[ours] = (opened, name), tuple(opened.get_slice(name).get_shape())
    if config.get("tie_word_embeddings"):
        shapes.pop("output.weight", None)  # a copy that some folders hold
    heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}

    def weights(name: str) -> np.ndarray[Any, Any]:
        if name not in shapes:
            raise KeyError(name)
        opened, theirs = places[name]
        value: np.ndarray[Any, Any] = opened.get_tensor(theirs).astype(np.float32)
        part = name.removesuffix(".weight").rpartition(".")[2]
        return _paired(value, heads[part]) if part in heads else value

    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    marks = _marks(folder, config, words)
    return Source(
        folder, files, meta | marks, shapes, weights, words,
        bos=_bos(words, marks.get("tokenizer.ggml.bos_token_id")), ends=_ends(folder, config, words, marks),
    )  # fmt: skip


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """GGUF's metadata of a config.json; Unsupported for what these keys cannot say."""
    architecture = str(config.get("model_type"))
    check({"general.architecture": architecture})
    heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
    if (act := config.get("hidden_act", "silu")) != "silu":
        raise Unsupported(f"its activation is {act!r}; the built-in engine computes 'silu' only")
    if (size := config.get("head_dim") or width // heads) * heads != width:
        raise Unsupported(f"its heads of {size} do not add up to its width of {width}")
    rope = config.get("rope_parameters") or {}
    scaling = (config.get("rope_scaling") or rope).get("rope_type", "default")
    return {
        "general.architecture": architecture,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": int(config.get("num_key_value_heads") or heads),
        "llama.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "llama.block_count": int(config["num_hidden_layers"]),
        "llama.context_length": int(config["max_position_embeddings"]),
        "llama.embedding_length": width,
        "llama.rope.freq_base": float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        "llama.rope.scaling.type": "none" if scaling == "default" else scaling,
    }


def _name(theirs: str) -> str:
    """GGUF's name of a tensor; an unknown one stays as it is, for `check` to see."""
    stem, _, kind = theirs.rpartition(".")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{kind}"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_PARTS[part]}.{kind}" if layer.isdigit() and part in _PARTS else theirs


def _paired(value: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of a query's or key's weight in GGUF's order: the two rotary halves of a head become pairs."""
    size = value.shape[0] // heads
    return value.reshape(heads, 2, size // 2, -1).swapaxes(1, 2).reshape(value.shape)


def _marks(folder: Path, config: Mapping[str, Any], words: Any) -> dict[str, Any]:
    """The chat template, the vocabulary, and the tokens that begin and end a text."""
    told = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    by_id = {ident: token for token, ident in words.get_vocab().items()}
    tokens = [by_id.get(ident, "") for ident in range(max(by_id) + 1)]  # some vocabularies have gaps
    out: dict[str, Any] = {"tokenizer.ggml.tokens": tokens}
    for name in ("bos", "eos"):
        token = told.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        known = words.token_to_id(text) if text else config.get(f"{name}_token_id")
        if isinstance(known, int):
            out[f"tokenizer.ggml.{name}_token_id"] = known
    file, template = folder / "chat_template.jinja", told.get("chat_template")
    if file.is_file():
        template = file.read_text("utf-8")
    if isinstance(template, list):  # several, by name
        template = next((each["template"] for each in template if each["name"] == "default"), None)
    return out | ({"tokenizer.chat_template": template} if template else {})


def _bos(words: Any, bos: int | None) -> int | None:
    """The token that the tokenizer itself puts before a text."""
    before = words.encode("", add_special_tokens=True).ids
    return bos if bos is not None and before[:1] == [bos] else None


def _ends(folder: Path, config: Mapping[str, Any], words: Any, marks: Mapping[str, Any]) -> frozenset[int]:
    file = folder / "generation_config.json"
    generation = _json(file) if file.is_file() else {}
    found: set[int] = set(usual_ends(words.get_vocab()))
    for ids in (marks.get("tokenizer.ggml.eos_token_id"), config.get("eos_token_id"), generation.get("eos_token_id")):
        found |= set(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return frozenset(found)


def _json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise Unsupported(f"{file.name} is not JSON: {error}") from None
    return found

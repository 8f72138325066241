"""The embedded model as a GGUF file, as llama.cpp's converter would write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.torch import load_file

from serve.config import EMBEDDED

_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}"
    "# {{ m.role }}\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}# assistant\n{% endif %}"
)


def write(file: Path, *, template: str = TEMPLATE, architecture: str = "llama") -> Path:
    """Write it. `template` "" leaves the chat template out; another `architecture` is only claimed."""
    config = json.loads((EMBEDDED / "config.json").read_text("utf-8"))
    words = json.loads((EMBEDDED / "tokenizer.json").read_text("utf-8"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    out = gguf.GGUFWriter(file, architecture)
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(kv_heads)
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    vocabulary = sorted(words["model"]["vocab"].items(), key=lambda pair: pair[1])
    specials = {token["content"] for token in words["added_tokens"]}
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list([token for token, _ in vocabulary])
    out.add_token_types([3 if token in specials else 1 for token, _ in vocabulary])
    out.add_token_merges([" ".join(merge) for merge in words["model"]["merges"]])
    out.add_bos_token_id(config["bos_token_id"])
    out.add_eos_token_id(config["eos_token_id"])
    out.add_add_bos_token(True)
    if template:
        out.add_chat_template(template)
    for name, tensor in load_file(EMBEDDED / "model.safetensors").items():
        out.add_tensor(*_tensor(name, tensor.float().numpy(), heads, kv_heads))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return file


def _tensor(name: str, value: np.ndarray[Any, Any], heads: int, kv_heads: int) -> tuple[str, np.ndarray[Any, Any]]:
    """A tensor under its GGUF name; the rotary halves of a head's rows become pairs."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight", value
    if name == "model.norm.weight":
        return "output_norm.weight", value
    layer, part = name.removeprefix("model.layers.").split(".", 1)
    new = _NAMES[part.removesuffix(".weight")]
    if new in ("attn_q", "attn_k"):
        n = heads if new == "attn_q" else kv_heads
        value = value.reshape(n, 2, value.shape[0] // n // 2, -1).swapaxes(1, 2).reshape(value.shape)
    return f"blk.{layer}.{new}.weight", np.ascontiguousarray(value)

"""The ONNX graph of a Llama model, written from its tensors by GGUF's names.

A layer: x ← x + attention(norm(x)); x ← x + down(silu(gate(norm(x))) · up(norm(x))). Attention, rotary positions and
the cache of keys and values are one operator (GroupQueryAttention), which appends to the buffers that it is given: so
a prompt may be computed in pieces, and a second prompt only from where it differs from the first.

Weights become 8-bit blocks of 16 with a scale each, whatever the file's own type: at 4 bits ONNX Runtime has no fast
kernel for Q4_1's offsets. Products run in 8 bits too (`accuracy_level` 4), block by block, so small blocks keep the
distribution closer to float32: on SmolLM2-135M a mean KL divergence of 0.004, against 0.008 with blocks of 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serve.engine.local.source import Weights

_MS = "com.microsoft"
_BLOCK = 16
_LEVELS = 127


class Unsupported(ValueError):
    """The model is not one that this graph computes; the message says what it has more."""


def check(meta: Mapping[str, Any], tensors: frozenset[str] = frozenset()) -> None:
    """Raises Unsupported unless the file's model is a plain Llama: no experts, no biases, no scaled positions."""
    arch = meta.get("general.architecture")
    if arch != "llama":
        raise Unsupported(f"its architecture is {arch!r}; the built-in engine computes 'llama' only")
    more = [key for key in ("llama.expert_count", "llama.rope.scaling.type") if meta.get(key) not in (None, 0, "none")]
    more += sorted(name for name in tensors if name.endswith(".bias") or name == "rope_freqs.weight")
    if more:
        raise Unsupported(f"it has {more[0]}, which the built-in engine does not compute")


class _Graph:
    """The nodes and constants so far."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def product(self, x: str, weight: np.ndarray[Any, Any], name: str) -> str:
        """x · weightᵀ, the weight in 8-bit blocks."""
        rows, columns = weight.shape
        blocks = weight.reshape(rows, columns // _BLOCK, _BLOCK)
        scale = np.abs(blocks).max(-1) / _LEVELS
        scale[scale == 0] = 1
        whole = (np.rint(blocks / scale[..., None]) + 128).astype(np.uint8)
        inputs = [x, self.constant(f"{name}.q", whole), self.constant(f"{name}.s", scale.astype(np.float32))]
        sizes = {"K": columns, "N": rows, "bits": 8, "block_size": _BLOCK}
        return self.add("MatMulNBits", inputs, [f"{name}.y"], _MS, **sizes, accuracy_level=4)


def llama(meta: Mapping[str, Any], weights: Weights, context: int) -> onnx.ModelProto:
    """The model as a graph.

    Inputs: `ids` (1, n) int64; `seqlens` (1,) int32, the total length less one; `total` () int32; `first` (1,) int64,
    the position in `ids` from which logits are wanted; `past.LAYER.k` and `.v`, (1, heads, capacity, size) float32, the
    buffers. Outputs: `logits` (1, n − first, vocabulary) float32; `present.LAYER.k` and `.v`, to be bound to the same
    buffers.
    """
    heads = int(meta["llama.attention.head_count"])
    sizes = int(meta["llama.embedding_length"]) // heads, int(meta.get("llama.attention.head_count_kv", heads))
    layers, eps = int(meta["llama.block_count"]), float(meta["llama.attention.layer_norm_rms_epsilon"])
    g = _Graph()
    _positions(g, context, sizes[0], float(meta.get("llama.rope.freq_base", 10000.0)))
    embedding = weights("token_embd.weight")
    g.add("Gather", [g.constant("embedding", embedding.astype(np.float16)), "ids"], ["x.half"])
    x = g.add("Cast", ["x.half"], ["x"], to=TensorProto.FLOAT)
    norm = g.constant("norm.first", weights("blk.0.attn_norm.weight"))
    normed = g.add("SimplifiedLayerNormalization", [x, norm], ["x.normed"], axis=-1, epsilon=eps)
    for layer in range(layers):
        after = f"blk.{layer + 1}.attn_norm.weight" if layer + 1 < layers else "output_norm.weight"
        x, normed = _layer(g, layer, x, normed, weights, after, heads, sizes[1], eps)
    limits = [g.constant("end", np.array([2**62])), g.constant("axis", np.array([1]))]
    g.add("Slice", [normed, "first", *limits], ["wanted"])
    try:
        head = weights("output.weight")
    except KeyError:  # tied: the embedding is the head, too
        head = embedding
    g.add("Identity", [g.product("wanted", head, "head")], ["logits"])
    return _model(g, layers, sizes, embedding.shape[0])


def _positions(g: _Graph, context: int, size: int, base: float) -> None:
    """The rotary angles: position · base^(−2i/size)."""
    angles = np.arange(context)[:, None] * base ** (-np.arange(0, size, 2) / size)
    g.constant("cos", np.cos(angles).astype(np.float32))
    g.constant("sin", np.sin(angles).astype(np.float32))


def _layer(
    g: _Graph, layer: int, x: str, normed: str, weights: Weights, after: str, heads: int, kv_heads: int, eps: float
) -> tuple[str, str]:
    """A layer's nodes; its output, and that normed by `after`, the norm of what follows."""
    at = f"l{layer}"

    def weight(name: str) -> np.ndarray[Any, Any]:
        return weights(f"blk.{layer}.{name}.weight")

    joined = np.concatenate([weight("attn_q"), weight("attn_k"), weight("attn_v")])
    qkv = g.product(normed, joined, f"{at}.qkv")
    cache = [f"{at}.attention", f"present.{layer}.k", f"present.{layer}.v"]
    inputs = [qkv, "", "", f"past.{layer}.k", f"past.{layer}.v", "seqlens", "total", "cos", "sin"]
    rotary = {"do_rotary": 1, "rotary_interleaved": 1}  # GGUF's order of a head's dimensions: pairs side by side
    attention = g.add("GroupQueryAttention", inputs, cache, _MS, num_heads=heads, kv_num_heads=kv_heads, **rotary)
    x, normed = _added(g, x, g.product(attention, weight("attn_output"), f"{at}.o"), weight("ffn_norm"), f"{at}.a", eps)
    both = g.product(normed, np.concatenate([weight("ffn_gate"), weight("ffn_up")]), f"{at}.gu")
    g.add("Split", [both], [f"{at}.gate", f"{at}.up"], axis=-1, num_outputs=2)
    silu = g.add("QuickGelu", [f"{at}.gate"], [f"{at}.silu"], _MS, alpha=1.0)
    gated = g.add("Mul", [silu, f"{at}.up"], [f"{at}.gated"])
    return _added(g, x, g.product(gated, weight("ffn_down"), f"{at}.d"), weights(after), f"{at}.f", eps)


def _added(g: _Graph, x: str, y: str, norm: np.ndarray[Any, Any], name: str, eps: float) -> tuple[str, str]:
    """x + y, and that normed."""
    outputs = [f"{name}.normed", "", "", f"{name}.sum"]
    g.add("SkipSimplifiedLayerNormalization", [x, y, g.constant(f"{name}.norm", norm)], outputs, _MS, epsilon=eps)
    return outputs[3], outputs[0]


def _model(g: _Graph, layers: int, sizes: tuple[int, int], vocabulary: int) -> onnx.ModelProto:
    size, kv_heads = sizes
    info = helper.make_tensor_value_info
    inputs = [
        info("ids", TensorProto.INT64, [1, "n"]),
        info("seqlens", TensorProto.INT32, [1]),
        info("total", TensorProto.INT32, []),
        info("first", TensorProto.INT64, [1]),
    ]
    outputs = [info("logits", TensorProto.FLOAT, [1, "wanted", vocabulary])]
    for name in (f"{layer}.{part}" for layer in range(layers) for part in "kv"):
        inputs.append(info(f"past.{name}", TensorProto.FLOAT, [1, kv_heads, "past", size]))
        outputs.append(info(f"present.{name}", TensorProto.FLOAT, [1, kv_heads, "present", size]))
    graph = helper.make_graph(g.nodes, "llama", inputs, outputs, g.constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="trimtab")

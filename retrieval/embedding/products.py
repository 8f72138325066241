"""An exported graph with its matrix products in integers of 8 bits, each activation rounded by a scale of its own.

Products of integers take half the time of weights in blocks that are widened first. What they cost in precision comes
from a few channels and tokens whose values are far larger than all others, and is avoided in two ways:

- What comes out of a layer norm is divided, channel by channel, by a power of the greatest value that ordinary texts
  have there, and the weights are multiplied by it (Xiao et al., SmoothQuant, arXiv 2211.10438).
- The wide activations within a feed-forward layer are divided by each token's own greatest value first.

The rest of a text's values share one scale, so that a text's vector would depend on the texts beside it: such a graph
is for one text at a time, which takes it no longer. Nothing is padded then, so attention needs no mask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float32]
EVEN = 0.7  # the share of a channel's spread that goes from the activations to the weights
LEAST = 1e-5  # of a channel's greatest value: what is 0 in all texts is still divided by something


def to_integers(source: Path, target: Path, texts: Iterable[list[int]], heads: int = 0) -> None:
    """Write `source`'s graph anew.

    `texts` are token ids of ordinary texts, by which channels are measured. `heads` is how many each attention has for
    queries as for keys; 0 leaves attention as it is.
    """
    import onnx

    model = onnx.load(source)
    greatest = _greatest(model, texts)
    graph = Graph(model)
    for node in list(model.graph.node):
        if node.op_type == "MatMul" and node.input[1] in graph.weights:
            graph.replace(node, greatest[node.input[0]])
        else:
            graph.nodes.append(node)
    graph.finish()
    if heads:
        _attend_to_all(model.graph, heads)
    onnx.save(model, target)


def _attend_to_all(graph: Any, heads: int) -> None:
    """Let attention nodes split and join heads themselves, and leave out the mask and what made it."""
    from onnx import helper

    made = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)

    def before(name: str) -> str:
        """What was reshaped and transposed into this; "" for anything else."""
        last = made.get(name)
        first = made.get(last.input[0]) if last is not None and last.op_type == "Transpose" else None
        return str(first.input[0]) if first is not None and first.op_type == "Reshape" else ""

    def behind(name: str, kinds: tuple[str, ...]) -> str:
        """What these steps make of it, where nothing else reads it; "" for anything else."""
        for kind in kinds:
            if len(readers[name]) != 1 or readers[name][0].op_type != kind:
                return ""
            name = str(readers[name][0].output[0])
        return name

    for node in [node for node in graph.node if node.op_type == "Attention"]:
        whole = [before(name) for name in node.input[:3]]
        joined = behind(node.output[0], ("Transpose", "Reshape"))
        if not all(whole) or not joined:
            continue
        del node.input[:]
        node.input.extend(whole)
        node.attribute.extend(helper.make_attribute(name, heads) for name in ("q_num_heads", "kv_num_heads"))
        for reader in readers[joined]:
            names = [node.output[0] if name == joined else name for name in reader.input]
            del reader.input[:]
            reader.input.extend(names)
    _drop_unread(graph)


def _drop_unread(graph: Any) -> None:
    """Take out the nodes that no output depends on."""
    needed = {entry.name for entry in graph.output}
    kept = []
    for node in reversed(graph.node):  # a node comes after what it reads
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _products(model: Any) -> list[Any]:
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]


def _greatest(model: Any, texts: Iterable[list[int]]) -> dict[str, Numbers]:
    """By the input of each product: the greatest absolute value of each channel over all texts."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = list(dict.fromkeys(node.input[0] for node in _products(model)))
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: dict[str, Numbers] = {}
    for text in texts:
        ids = np.array([text], np.int64)
        for name, values in zip(names, session.run(names, {"ids": ids, "mask": np.ones_like(ids)}), strict=True):
            channels = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            found[name] = np.maximum(found.get(name, LEAST), channels)
    return found


class Graph:
    """A model's nodes as they are written anew; `weights` are its matrices by name."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self._graph = model.graph
        self.nodes: list[Any] = []
        matrices = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2]
        self.weights = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in matrices}
        self._kinds = {output: node.op_type for node in model.graph.node for output in node.output}
        self._readers: dict[str, list[str]] = defaultdict(list)  # of an input: the matrices that it is multiplied by
        for product in _products(model):
            self._readers[product.input[0]].append(product.input[1])
        self._rounded: dict[str, tuple[Numbers | None, str]] = {}  # of an input: channels' divisors, rows' name
        self._counts: dict[str, int] = defaultdict(int)

    def replace(self, product: Any, greatest: Numbers) -> None:
        """Put integers in a product's place; `greatest` is of each channel of its input."""
        (entry, name), output = product.input, product.output[0]
        weights = self.weights[name]
        if entry not in self._rounded:
            self._rounded[entry] = self._round(entry, greatest, wide=weights.shape[0] > weights.shape[1])
        divisors, rows = self._rounded[entry]
        if divisors is not None:
            weights = weights * divisors[:, None]
        scales = (np.maximum(np.abs(weights).max(axis=0), 1e-9) / 127.0).astype(np.float32)
        rounded = self._constant(f"{name}_rounded", np.rint(weights / scales).astype(np.int8))
        zeros = self._constant(f"{name}_zeros", np.zeros(len(scales), np.int8))
        scaled = output if not rows else f"{output}_by_row"
        self._add("MatMulInteger", [f"{entry}_rounded", rounded, f"{entry}_zero", zeros], f"{output}_integers")
        self._add("Cast", [f"{output}_integers"], f"{output}_sums", to=1)
        self._add("Mul", [f"{entry}_scale", self._constant(f"{name}_scales", scales)], f"{output}_scales")
        self._add("Mul", [f"{output}_sums", f"{output}_scales"], scaled)
        if rows:
            self._add("Mul", [scaled, rows], output)

    def _round(self, entry: str, greatest: Numbers, *, wide: bool) -> tuple[Numbers | None, str]:
        """Round a product's input; the divisors of its channels, and the name of its rows' own, if any."""
        from onnx import helper

        source, divisors, rows = entry, None, ""
        if self._kinds.get(entry) == "LayerNormalization":
            weights = np.max([np.abs(self.weights[name]).max(axis=1) for name in self._readers[entry]], axis=0)
            divisors = (greatest**EVEN / np.maximum(weights, LEAST) ** (1.0 - EVEN)).astype(np.float32)
            factors = self._constant(f"{entry}_factors", 1.0 / divisors)
            source = self._add("Mul", [entry, factors], f"{entry}_even")
        elif wide:
            self._add("Abs", [entry], f"{entry}_absolute")
            last = self._constant(f"{entry}_axis", np.array([-1], np.int64))
            self._add("ReduceMax", [f"{entry}_absolute", last], f"{entry}_greatest", keepdims=1)
            least = self._constant(f"{entry}_least", np.array([LEAST], np.float32))  # of a row whose values are all 0
            rows = self._add("Max", [f"{entry}_greatest", least], f"{entry}_rows")
            source = self._add("Div", [entry, rows], f"{entry}_even")
        made = [f"{entry}_rounded", f"{entry}_scale", f"{entry}_zero"]
        self.nodes.append(helper.make_node("DynamicQuantizeLinear", [source], made))
        return divisors, rows

    def _add(self, kind: str, inputs: list[str], output: str, **options: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **options))
        return output

    def _constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """A tensor by a name of its own: two products may share their weights."""
        from onnx import numpy_helper

        self._counts[name] += 1
        name = f"{name}_{self._counts[name]}"
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def finish(self) -> None:
        """Put the new nodes into the model, and leave out what none of them reads."""
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self.nodes)
        self._graph.initializer.extend(kept)

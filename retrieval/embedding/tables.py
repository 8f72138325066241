"""The large tables of an exported graph in fewer bits: a vocabulary of 250,000 pieces is most of a small model.

Only the rows of a text's own tokens are ever read, so that what is rounded is also widened again at no cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LARGE = 1 << 24  # values from which a table is worth it
BLOCK = 32  # values with one scale


def halve(model: Any) -> None:
    """Keep the values of large tables as float16, in place; what a text's vector loses by it is below 1e-6."""
    for node, values in _lookups(model):
        table = _added(model, f"{node.input[0]}_half", values.astype(np.float16))
        _replace(model, node, [("Gather", [table, node.input[1]], {}), ("Cast", [""], {"to": 1})])


def quarter(model: Any) -> None:
    """Keep the values of large tables in 8 bits, in blocks of 32 with a scale each, in place."""
    for node, values in _lookups(model):
        blocks = values.reshape(len(values), -1, BLOCK)
        scales = np.maximum(np.abs(blocks).max(axis=2, keepdims=True) / 127.0, 1e-12).astype(np.float32)
        rounded = _added(model, f"{node.input[0]}_rounded", np.rint(blocks / scales).astype(np.int8))
        scale = _added(model, f"{node.input[0]}_scales", scales)
        shape = _added(model, f"{node.input[0]}_shape", np.array([0, 0, values.shape[1]], np.int64))
        scaled = f"{node.output[0]}_scales"
        _replace(model, node, [
            ("Gather", [scale, node.input[1]], {"output": scaled}), ("Gather", [rounded, node.input[1]], {}),
            ("Cast", [""], {"to": 1}), ("Mul", ["", scaled], {}), ("Reshape", ["", shape], {}),
        ])  # fmt: skip


def _lookups(model: Any) -> list[tuple[Any, npt.NDArray[np.float32]]]:
    """The nodes that look rows up in a large table, each with the table."""
    from onnx import numpy_helper

    large = {t.name: t for t in model.graph.initializer if len(t.dims) == 2 and np.prod(t.dims) >= LARGE}
    large = {name: t for name, t in large.items() if t.dims[1] % BLOCK == 0}
    nodes = [node for node in model.graph.node if node.op_type == "Gather" and node.input[0] in large]
    used = [name for node in model.graph.node for name in node.input]
    values = ((n, numpy_helper.to_array(large[n.input[0]])) for n in nodes if used.count(n.input[0]) == 1)
    return [(node, table.astype(np.float32)) for node, table in values]


def _added(model: Any, name: str, values: npt.NDArray[Any]) -> str:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def _replace(model: Any, node: Any, steps: list[tuple[str, list[str], dict[str, Any]]]) -> None:
    """Put a chain in a node's place: "" among a step's inputs is the output of the step before it."""
    from onnx import helper

    made, last = [], ""
    for i, (kind, inputs, options) in enumerate(steps):
        output = options.pop("output", node.output[0] if i == len(steps) - 1 else f"{node.output[0]}_{i}")
        made.append(helper.make_node(kind, [name or last for name in inputs], [output], **options))
        last = output
    graph = model.graph
    at = list(graph.node).index(node)
    kept = [*list(graph.node)[:at], *made, *list(graph.node)[at + 1 :]]
    table = next(t for t in graph.initializer if t.name == node.input[0])
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.remove(table)

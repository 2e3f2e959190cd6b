"""A convolutional propensity network as one ONNX graph, written node by node like its neighbours in ``onnx_graphs``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.models.onnx_graphs import EVENT_PARTS, Builder, event_inputs


@dataclass(frozen=True, slots=True, eq=False)
class CNNWeights:
    """Plain arrays of a fitted network.

    Parameters
    ----------
    event, item, gap
        Embedding tables.
    kernel, kernel_bias
        Of the convolution, shapes ``(k, width, filters)`` and ``(filters,)``.
    head, head_bias, deep, deep_bias
        Dense layers over (largest, mean, recency, columns), shapes ``(in, out)`` and ``(out,)``.
    wide
        The linear path over the columns, shape ``(columns, 1)``.
    value_mean, value_scale
        Of the signed log amount.
    """

    event: NDArray[np.float32]
    item: NDArray[np.float32]
    gap: NDArray[np.float32]
    value_mean: float
    value_scale: float
    kernel: NDArray[np.float32]
    kernel_bias: NDArray[np.float32]
    head: NDArray[np.float32]
    head_bias: NDArray[np.float32]
    deep: NDArray[np.float32]
    deep_bias: NDArray[np.float32]
    wide: NDArray[np.float32]


def cnn_graph(weights: CNNWeights) -> bytes:
    """Padded events (n, t), ``lengths`` (n,), ``gap_to_as_of_s`` (n,) and ``columns`` (n, c) to ``probability`` (n,)."""
    b = Builder()
    real, whole = b.onnx.TensorProto.FLOAT, b.onnx.TensorProto.INT64
    last, first = b.constant([-1], np.int64), b.constant([1], np.int64)
    width = b.add("Shape", "event_type", start=1, end=2)
    steps = b.add("Range", b.constant(0, np.int64), b.add("Squeeze", width), b.constant(1, np.int64))
    inside = b.add("Cast", b.add("Less", steps, b.add("Unsqueeze", "lengths", first)), to=real)  # (n, t)
    mask = b.add("Unsqueeze", inside, last)
    x = b.add("Mul", event_inputs(b, weights), mask)
    pad = len(weights.kernel) // 2
    conv = b.add(
        "Conv",
        b.add("Transpose", x, perm=[0, 2, 1]),
        b.constant(weights.kernel.transpose(2, 1, 0)),
        b.constant(weights.kernel_bias),
        pads=[pad, pad],
    )
    hidden = b.add("Mul", b.add("Relu", conv), b.add("Unsqueeze", inside, first))  # (n, filters, t)
    most = b.add("ReduceMax", hidden, axes=[2], keepdims=0)
    count = b.add("Unsqueeze", b.add("Max", b.add("Cast", "lengths", to=real), b.constant(1.0)), last)
    mean = b.add("Div", b.add("ReduceSum", hidden, b.constant([2], np.int64), keepdims=0), count)
    has = b.add("Unsqueeze", b.add("Cast", b.add("Greater", "lengths", b.constant(0, np.int64)), to=real), last)
    log = b.add("Log", b.add("Add", b.add("Max", "gap_to_as_of_s", b.constant(0.0)), b.constant(1.0)))
    recency = b.add("Mul", b.add("Unsqueeze", b.add("Div", log, b.constant(10.0)), last), has)
    joined = b.add("Concat", most, mean, recency, has, "columns", axis=1)
    head = b.add("Relu", b.add("Add", b.add("MatMul", joined, b.constant(weights.head)), b.constant(weights.head_bias)))
    deep = b.add("Add", b.add("MatMul", head, b.constant(weights.deep)), b.constant(weights.deep_bias))
    score = b.add("Add", deep, b.add("MatMul", "columns", b.constant(weights.wide)))
    b.add("Sigmoid", b.add("Squeeze", score, first), out="probability")
    events: list[tuple[str, int, list[Any]]] = [
        (name, kind, ["n", "t"]) for name, kind in zip(EVENT_PARTS, (whole, whole, real, real), strict=True)
    ]
    inputs: list[tuple[str, int, list[Any]]] = [
        *events,
        ("lengths", whole, ["n"]),
        ("gap_to_as_of_s", real, ["n"]),
        ("columns", real, ["n", len(weights.wide)]),
    ]
    return b.finish(inputs=inputs, output=("probability", ["n"]))

"""A convolutional propensity network as one ONNX graph, written node by node like its neighbours in ``onnx_graphs``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.models.onnx_graphs import Builder, EventWeights, event_inputs
from engine.models.onnx_propensity import finish_propensity, inside_mask, recency


@dataclass(frozen=True, slots=True, eq=False)
class CNNWeights(EventWeights):
    """Plain arrays of a fitted network.

    Parameters
    ----------
    kernel, kernel_bias
        Of the convolution, shapes ``(k, width, filters)`` and ``(filters,)``.
    head, head_bias, deep, deep_bias
        Dense layers over (largest, mean, recency, columns), shapes ``(in, out)`` and ``(out,)``.
    wide
        The linear path over the columns, shape ``(columns, 1)``.
    """

    kernel: NDArray[np.float32]
    kernel_bias: NDArray[np.float32]
    head: NDArray[np.float32]
    head_bias: NDArray[np.float32]
    deep: NDArray[np.float32]
    deep_bias: NDArray[np.float32]
    wide: NDArray[np.float32]


def cnn_graph(weights: CNNWeights) -> bytes:
    """Events and columns to ``score`` (n, 1), as ``onnx_propensity`` closes its graphs."""
    b = Builder()
    first, last = b.constant([1], np.int64), b.constant([-1], np.int64)
    inside = inside_mask(b)  # (n, t)
    x = b.add("Mul", event_inputs(b, weights), b.add("Unsqueeze", inside, last))
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
    length = b.add("Cast", "lengths", to=b.onnx.TensorProto.FLOAT)
    count = b.add("Unsqueeze", b.add("Max", length, b.constant(1.0)), last)
    mean = b.add("Div", b.add("ReduceSum", hidden, b.constant([2], np.int64), keepdims=0), count)
    joined = b.add("Concat", most, mean, *recency(b), "columns", axis=1)
    head = b.add("Relu", b.add("Add", b.add("MatMul", joined, b.constant(weights.head)), b.constant(weights.head_bias)))
    deep = b.add("Add", b.add("MatMul", head, b.constant(weights.deep)), b.constant(weights.deep_bias))
    score = b.add("Add", deep, b.add("MatMul", "columns", b.constant(weights.wide)))
    return finish_propensity(b, score, heads=1, n_columns=len(weights.wide), reads=True)

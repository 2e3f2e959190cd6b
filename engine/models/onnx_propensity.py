"""Propensity models as ONNX graphs: logistic regression, a dense network and boosted trees over columns; a GRU and a Transformer over events.

Written node by node like their neighbours in ``onnx_graphs``: no shape is traced, so any number of rows and events may come. All give
``score`` (n, heads) in log odds; ``engine.models.served`` runs them. Weights of torch networks come under torch's own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.models.onnx_graphs import (
    EVENT_PARTS,
    Builder,
    EventWeights,
    GRUWeights,
    converted_trees,
    event_inputs,
    last_state,
)
from policies.records import FloatArray

if TYPE_CHECKING:
    from engine.models.mllib_boosting import Trees


Weights = Mapping[str, NDArray[np.float32]]
_HIDDEN = -1e30


def linear_graph(beta: FloatArray) -> bytes:
    """Coefficients and, last, an intercept."""
    b = Builder()
    score = _dense(b, "columns", np.asarray(beta[:-1, None], np.float32), np.asarray(beta[-1:], np.float32))
    return finish_propensity(b, score, heads=1, n_columns=len(beta) - 1)


def wide_and_deep_graph(
    layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    wide: NDArray[np.float32],
    *,
    n_plain: int,
    mean: NDArray[np.float32],
    scale: NDArray[np.float32],
) -> bytes:
    """ReLU layers and a linear path over columns, of which those after the first ``n_plain`` are taken as signed logs and standardised.

    Parameters
    ----------
    layers
        Weights ``(in, out)`` and biases of each layer, the last without ReLU.
    wide
        Of the linear path, shape ``(columns, 1)``.
    mean, scale
        Of the signed logs of the later columns.
    """
    b = Builder()
    n_columns = n_plain + len(mean)
    whole = [b.constant([v], np.int64) for v in (0, n_plain, n_columns)]
    axis = b.constant([1], np.int64)
    plain = b.add("Slice", "columns", whole[0], whole[1], axis)
    raw = b.add("Slice", "columns", whole[1], whole[2], axis)
    known = b.add("Where", b.add("IsNaN", raw), b.constant(0.0), raw)
    log = b.add("Mul", b.add("Sign", known), _log1p(b, b.add("Abs", known)))
    scaled = b.add("Div", b.add("Sub", log, b.constant(mean)), b.constant(scale))
    design = b.add("Concat", plain, b.add("Clip", scaled, b.constant(-10.0), b.constant(10.0)), axis=1)
    x = design
    for i, (weight, bias) in enumerate(layers):
        x = _dense(b, b.add("Relu", x) if i else x, weight, bias)
    score = b.add("Add", x, b.add("MatMul", design, b.constant(wide)))
    return finish_propensity(b, score, heads=1, n_columns=n_columns)


def forest_graph(boosters: Sequence[Any], start: FloatArray, *, n_columns: int) -> bytes:
    """Mean raw score of LightGBM boosters over all columns, added to a linear start over the first ones.

    Parameters
    ----------
    start
        Coefficients of the first columns and, last, an intercept.
    """
    b = Builder()
    total, opsets = "", []
    for i, booster in enumerate(boosters):
        trees = converted_trees(booster, inputs="columns", width=n_columns, prefix=f"b{i}_")
        b.nodes += list(trees.graph.node)
        b.constants += list(trees.graph.initializer)
        opsets = [o for o in trees.opset_import if o.domain not in ("", "ai.onnx")]
        raw = trees.graph.output[0].name
        total = b.add("Add", total, raw) if total else raw
    mean = b.add("Mul", total, b.constant(1.0 / len(boosters)))
    first = b.add(
        "Slice", "columns", b.constant([0], np.int64), b.constant([len(start) - 1], np.int64), b.constant([1], np.int64)
    )
    offset = _dense(b, first, np.asarray(start[:-1, None], np.float32), np.asarray(start[-1:], np.float32))
    score = b.add("Add", mean, offset)
    return finish_propensity(b, score, heads=1, n_columns=n_columns, opsets=opsets)


def tree_sum_graph(trees: Trees, *, n_columns: int, n_kept: int, factor: float) -> bytes:
    """``factor`` times the weighted sum of the first ``n_kept`` regression trees."""
    b = Builder()
    nodes: dict[str, list[Any]] = {n: [] for n in ("treeids", "nodeids", "featureids", "values", "modes")}
    nodes |= {"truenodeids": [], "falsenodeids": []}
    target: dict[str, list[Any]] = {n: [] for n in ("treeids", "nodeids", "ids", "weights")}
    ends = np.append(trees.root[1:], len(trees.feature))
    for tree in range(n_kept):
        for node in range(int(trees.root[tree]), int(ends[tree])):
            is_leaf = trees.feature[node] < 0
            nodes["treeids"].append(tree)
            nodes["nodeids"].append(node)
            nodes["featureids"].append(max(int(trees.feature[node]), 0))
            nodes["values"].append(_float_below(float(trees.threshold[node])))
            nodes["modes"].append("LEAF" if is_leaf else "BRANCH_LEQ")
            nodes["truenodeids"].append(max(int(trees.left[node]), 0))
            nodes["falsenodeids"].append(max(int(trees.right[node]), 0))
            if is_leaf:
                target["treeids"].append(tree)
                target["nodeids"].append(node)
                target["ids"].append(0)
                target["weights"].append(factor * float(trees.weight[tree] * trees.value[node]))
    attributes: dict[str, Any] = {f"nodes_{n}": values for n, values in nodes.items()}
    attributes |= {f"target_{n}": values for n, values in target.items()}
    score = b.add("TreeEnsembleRegressor", "columns", domain="ai.onnx.ml", n_targets=1, **attributes)
    opset = b.onnx.helper.make_opsetid("ai.onnx.ml", 3)
    return finish_propensity(b, score, heads=1, n_columns=n_columns, opsets=[opset])


def _float_below(threshold: float) -> float:
    """The largest float32 not above a threshold: a float32 column is at most the one exactly where it is at most the other."""
    near = np.float32(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))


def gru_graph(events: GRUWeights, weights: Weights) -> bytes:
    """The state after the last event beside the row's columns."""
    b = Builder()
    state = last_state(b, events)
    joined = b.add("Concat", state, *recency(b), "columns", axis=1)
    return finish_propensity(b, _two_heads(b, joined, weights), heads=2, n_columns=_n_columns(weights), reads=True)


def transformer_graph(events: EventWeights, weights: Weights, *, heads: int, layers: int) -> bytes:
    """Blocks of self-attention over a first token and the events, read by attention that the row's columns ask."""
    b = Builder()
    real = b.onnx.TensorProto.FLOAT
    first, last = b.constant([1], np.int64), b.constant([-1], np.int64)
    inside = inside_mask(b)  # (n, t), 1 where there is an event
    gaps = b.add("Mul", "gap_s", inside)
    so_far = b.add("CumSum", gaps, b.constant(1, np.int64))
    total = b.add("ReduceSum", gaps, first, keepdims=1)
    before = b.add("Add", b.add("Sub", total, so_far), b.add("Unsqueeze", "gap_to_as_of_s", first))
    age = b.add("Div", _log1p(b, b.add("Max", before, b.constant(0.0))), b.constant(10.0))
    newest = b.add("Sub", b.add("Unsqueeze", b.add("Cast", "lengths", to=real), first), b.constant(1.0))
    place = b.add("Max", b.add("Sub", newest, b.add("Cast", steps(b), to=real)), b.constant(0.0))
    place = b.add("Div", _log1p(b, place), b.constant(3.0))
    described = b.add(
        "Concat",
        event_inputs(b, events),
        b.add("Unsqueeze", age, last),
        b.add("Unsqueeze", place, last),
        axis=2,
    )
    x = _linear(b, described, weights, "encoder.project")
    width = len(weights["encoder.start"])
    n = b.add("Shape", "lengths")
    shape = b.add("Concat", n, b.constant([1, width], np.int64), axis=0)
    x = b.add("Concat", b.add("Expand", b.constant(weights["encoder.start"]), shape), x, axis=1)  # (n, 1 + t, width)
    always = b.add("Expand", b.constant([[1.0]]), b.add("Concat", n, b.constant([1], np.int64), axis=0))
    visible = b.add("Concat", always, inside, axis=1)
    hidden = b.add("Mul", b.add("Sub", b.constant(1.0), visible), b.constant(_HIDDEN))  # added to scores, (n, 1 + t)
    for i in range(layers):
        x = _block(b, x, b.add("Unsqueeze", hidden, b.constant([1, 2], np.int64)), weights, i, heads=heads)
    query = b.add("Unsqueeze", _linear(b, "columns", weights, "query"), first)
    turned = b.add("Transpose", x, perm=[0, 2, 1])
    read = _attention(b, query, turned, x, b.add("Unsqueeze", hidden, first), width=width)
    joined = b.add("Concat", b.add("Squeeze", read, first), *recency(b), "columns", axis=1)
    return finish_propensity(b, _two_heads(b, joined, weights), heads=2, n_columns=_n_columns(weights), reads=True)


def finish_propensity(
    b: Builder, score: str, *, heads: int, n_columns: int, reads: bool = False, opsets: Sequence[Any] = ()
) -> bytes:
    """Close a graph of the propensity models' form; ``reads`` says whether it takes events."""
    b.add("Identity", score, out="score")
    whole, real = b.onnx.TensorProto.INT64, b.onnx.TensorProto.FLOAT
    inputs: list[tuple[str, int, list[Any]]] = [("columns", real, ["n", n_columns])]
    if reads:
        kinds = (whole, whole, real, real)
        inputs += [(name, kind, ["n", "t"]) for name, kind in zip(EVENT_PARTS, kinds, strict=True)]
        inputs += [("lengths", whole, ["n"]), ("gap_to_as_of_s", real, ["n"])]
    return b.finish(inputs=inputs, output=("score", ["n", heads]), opsets=opsets)


def steps(b: Builder) -> str:
    """Places of events, (t,)."""
    width = b.add("Squeeze", b.add("Shape", "event_type", start=1, end=2))
    return b.add("Range", b.constant(0, np.int64), width, b.constant(1, np.int64))


def inside_mask(b: Builder) -> str:
    """1 where a row has an event and 0 where it is padded, (n, t)."""
    inside = b.add("Less", steps(b), b.add("Unsqueeze", "lengths", b.constant([1], np.int64)))
    return b.add("Cast", inside, to=b.onnx.TensorProto.FLOAT)


def recency(b: Builder) -> tuple[str, str]:
    """Log time since the last event, and whether there is one, (n, 1) each."""
    last = b.constant([-1], np.int64)
    some = b.add("Greater", "lengths", b.constant(0, np.int64))
    has = b.add("Unsqueeze", b.add("Cast", some, to=b.onnx.TensorProto.FLOAT), last)
    log = b.add("Div", _log1p(b, b.add("Max", "gap_to_as_of_s", b.constant(0.0))), b.constant(10.0))
    return b.add("Mul", b.add("Unsqueeze", log, last), has), has


def _block(b: Builder, x: str, hidden: str, weights: Weights, i: int, *, heads: int) -> str:
    """Self-attention and a small dense layer, each added to what came in."""
    name = f"encoder.blocks.{i}"
    width = len(weights[f"{name}.first.weight"])
    qkv = _linear(b, _normalised(b, x, weights, f"{name}.first"), weights, f"{name}.qkv")
    # (n, t, 3 width) -> (3, n, heads, t, width / heads); a 0 in a shape keeps that axis.
    parts = b.add("Reshape", qkv, b.constant([0, 0, 3, heads, width // heads], np.int64))
    parts = b.add("Transpose", parts, perm=[2, 0, 3, 1, 4])
    q, k, v = (b.add("Gather", parts, b.constant(j, np.int64), axis=0) for j in range(3))
    turned = b.add("Transpose", k, perm=[0, 1, 3, 2])
    mixed = b.add("Transpose", _attention(b, q, turned, v, hidden, width=width // heads), perm=[0, 2, 1, 3])
    mixed = b.add("Reshape", mixed, b.constant([0, 0, width], np.int64))
    x = b.add("Add", x, _linear(b, mixed, weights, f"{name}.out"))
    dense = _linear(b, _normalised(b, x, weights, f"{name}.second"), weights, f"{name}.dense.0")
    # GELU: x times the normal distribution function of x.
    erf = b.add("Erf", b.add("Mul", dense, b.constant(math.sqrt(0.5))))
    share = b.add("Mul", b.add("Add", erf, b.constant(1.0)), b.constant(0.5))
    return b.add("Add", x, _linear(b, b.add("Mul", dense, share), weights, f"{name}.dense.2"))


def _attention(b: Builder, query: str, key_turned: str, value: str, hidden: str, *, width: int) -> str:
    """``query`` reads ``value`` by its likeness to ``key_turned``, whose last two axes are (width, t)."""
    product = b.add("MatMul", query, key_turned)
    scores = b.add("Add", b.add("Mul", product, b.constant(1.0 / math.sqrt(width))), hidden)
    return b.add("MatMul", b.add("Softmax", scores, axis=-1), value)


def _normalised(b: Builder, x: str, weights: Weights, name: str) -> str:
    scale, bias = b.constant(weights[f"{name}.weight"]), b.constant(weights[f"{name}.bias"])
    return b.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-5)


def _two_heads(b: Builder, joined: str, weights: Weights) -> str:
    """Log odds of the label and of being kept given it, from one hidden layer and a linear path."""
    inner = b.add("Relu", _linear(b, joined, weights, "deep.1"))
    label = b.add("Add", _linear(b, "columns", weights, "wide"), _linear(b, inner, weights, "deep.4"))
    return b.add("Concat", label, _linear(b, inner, weights, "kept"), axis=1)


def _n_columns(weights: Weights) -> int:
    return int(weights["wide.weight"].shape[1])


def _linear(b: Builder, x: str, weights: Weights, name: str) -> str:
    return _dense(b, x, weights[f"{name}.weight"].T, weights[f"{name}.bias"])


def _dense(b: Builder, x: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
    return b.add("Add", b.add("MatMul", x, b.constant(weight)), b.constant(bias))


def _log1p(b: Builder, x: str) -> str:
    return b.add("Log", b.add("Add", x, b.constant(1.0)))

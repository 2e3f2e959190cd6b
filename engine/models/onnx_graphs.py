"""ONNX graphs written node by node: reward models over context and offers, and GRU encoders over events.

Reward graphs take ``context`` (n, dc) and ``offers`` (k, do) to ``reward`` (n, k); every pairing happens inside the graph, so a
caller passes each only once. Writing the few nodes takes milliseconds where a tracing exporter takes seconds, and leaves no
traced shape behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.models.calibration import LogisticCalibrator
from policies.errors import MissingExtraError
from policies.records import FloatArray

_OPSET = 17
EVENT_PARTS = ("event_type", "item", "gap_s", "value")


class Builder:
    """Collects nodes and constants; every method returns the name of its result."""

    def __init__(self) -> None:
        try:
            import onnx
        except ImportError as error:
            raise MissingExtraError("onnx", "torch") from error
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Name of a constant."""
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Name of the first result of a node."""
        name = out or f"n{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def calibrated(self, probability: str, calibrator: LogisticCalibrator | None) -> str:
        """Probability through a calibrator; as it is without one."""
        if calibrator is None:
            return probability
        p = self.add("Clip", probability, self.constant(1e-7), self.constant(1 - 1e-7))
        left = self.add("Mul", self.add("Log", p), self.constant(calibrator.a))
        rest = self.add("Log", self.add("Sub", self.constant(1.0), p))
        right = self.add("Mul", rest, self.constant(calibrator.b))
        return self.add("Sigmoid", self.add("Add", self.add("Sub", left, right), self.constant(calibrator.c)))

    def finish(
        self, *, inputs: Sequence[tuple[str, int, list[Any]]], output: tuple[str, list[Any]], opsets: Sequence[Any] = ()
    ) -> bytes:
        """Close the graph over named inputs (name, element type, shape) and one float output that a node is named after."""
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes,
            "nextoffer",
            [helper.make_tensor_value_info(*one) for one in inputs],
            [helper.make_tensor_value_info(output[0], self.onnx.TensorProto.FLOAT, output[1])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET), *opsets], ir_version=8)
        self.onnx.checker.check_model(model)
        content: bytes = model.SerializeToString()
        return content

    def reward_model(self, result: str, *, widths: tuple[int, int], opsets: Sequence[Any] = ()) -> bytes:
        """Close a graph of the reward models' form."""
        kind = self.onnx.TensorProto.FLOAT
        self.add("Identity", result, out="reward")
        inputs = [("context", kind, ["n", widths[0]]), ("offers", kind, ["k", widths[1]])]
        return self.finish(inputs=inputs, output=("reward", ["n", "k"]), opsets=opsets)


def pair_graph(
    by_context: FloatArray,
    by_offer: FloatArray,
    crossed: FloatArray,
    bias: FloatArray,
    *,
    is_binary: bool,
    calibrator: LogisticCalibrator | None,
) -> bytes:
    """``context · wc + offers · wo + contextᵀ M offers + bias``, through the sigmoid where the reward is 0 or 1."""
    b = Builder()
    # One product does both terms that vary with the offer: (context M + wo) offersᵀ.
    left = b.add("Add", b.add("MatMul", "context", b.constant(crossed)), b.constant(by_offer[None, :]))
    pairs = b.add("MatMul", left, b.add("Transpose", "offers", perm=[1, 0]))
    alone = b.add("Add", b.add("MatMul", "context", b.constant(by_context[:, None])), b.constant(bias.reshape(1, 1)))
    raw = b.add("Add", pairs, alone)
    out = b.calibrated(b.add("Sigmoid", raw), calibrator) if is_binary else raw
    return b.reward_model(out, widths=(len(by_context), len(by_offer)))


def dense_graph(
    weights: Sequence[FloatArray],
    biases: Sequence[FloatArray],
    *,
    context_width: int,
    is_binary: bool,
    calibrator: LogisticCalibrator | None,
) -> bytes:
    """ReLU layers over the pair; the first layer is applied to contexts and offers apart and added per pair."""
    b = Builder()
    first = weights[0]
    from_context = b.add("MatMul", "context", b.constant(first[:context_width]))
    from_offer = b.add("Add", b.add("MatMul", "offers", b.constant(first[context_width:])), b.constant(biases[0]))
    x = b.add(
        "Add",
        b.add("Unsqueeze", from_context, b.constant([1], np.int64)),  # (n, 1, h)
        b.add("Unsqueeze", from_offer, b.constant([0], np.int64)),  # (1, k, h)
    )
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        x = b.add("Add", b.add("MatMul", b.add("Relu", x), b.constant(weight)), b.constant(bias))
    raw = b.add("Squeeze", x, b.constant([2], np.int64))
    out = b.calibrated(b.add("Sigmoid", raw), calibrator) if is_binary else raw
    widths = (context_width, len(first) - context_width)
    return b.reward_model(out, widths=widths)


def boosted_graph(
    booster: Any, *, widths: tuple[int, int], is_binary: bool, calibrator: LogisticCalibrator | None
) -> bytes:
    """LightGBM's trees over every pair of a context and an offer, by onnxmltools, between a pairing and a reshaping."""
    features = "pair_features"
    trees = converted_trees(booster, inputs=features, width=sum(widths))
    b = Builder()
    first, second = b.constant([1], np.int64), b.constant([0], np.int64)
    n = b.add("Shape", "context", start=0, end=1)
    k = b.add("Shape", "offers", start=0, end=1)
    one = b.constant([1], np.int64)
    wide = b.add("Expand", b.add("Unsqueeze", "context", first), b.add("Concat", one, k, one, axis=0))
    tall = b.add("Expand", b.add("Unsqueeze", "offers", second), b.add("Concat", n, one, one, axis=0))
    pairs = b.add("Concat", wide, tall, axis=2)  # (n, k, dc + do)
    flat = b.add("Reshape", pairs, b.constant([-1, sum(widths)], np.int64), out=features)
    assert flat == features
    b.nodes += list(trees.graph.node)
    b.constants += list(trees.graph.initializer)
    result = _probability_of(trees, b) if is_binary else trees.graph.output[0].name
    shaped = b.add("Reshape", result, b.add("Concat", n, k, axis=0))
    out = b.calibrated(shaped, calibrator) if is_binary else shaped
    others = [o for o in trees.opset_import if o.domain not in ("", "ai.onnx")]
    return b.reward_model(out, widths=widths, opsets=others)


def converted_trees(booster: Any, *, inputs: str, width: int, prefix: str = "") -> Any:
    """LightGBM's trees as an ONNX model from the named input (rows, width); other names begin with ``prefix``."""
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    trees = onnxmltools.convert_lightgbm(
        booster, initial_types=[(inputs, FloatTensorType([None, width]))], target_opset=15, zipmap=False
    )
    if prefix:
        from onnx.compose import add_prefix_graph

        trees.graph.CopyFrom(add_prefix_graph(trees.graph, prefix, rename_inputs=False))
    return trees


def _probability_of(trees: Any, b: Builder) -> str:
    """Second column of the converted classifier's probabilities, (rows, 1)."""
    probabilities = next(o.name for o in trees.graph.output if "prob" in o.name)
    return b.add("Gather", probabilities, b.constant(1, np.int64), axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class EventWeights:
    """What any network that reads events keeps of them, as plain arrays.

    Parameters
    ----------
    event, item, gap
        Embedding tables.
    value_mean, value_scale
        Of the signed log amount.
    """

    event: NDArray[np.float32]
    item: NDArray[np.float32]
    gap: NDArray[np.float32]
    value_mean: float
    value_scale: float


@dataclass(frozen=True, slots=True, eq=False)
class GRUWeights(EventWeights):
    """A one-layer GRU over embedded events.

    Parameters
    ----------
    input_weight, state_weight, input_bias, state_bias
        As PyTorch keeps them: gates in the order reset, update, new; shapes ``(3 h, width)``, ``(3 h, h)``, ``(3 h,)`` twice.
    """

    input_weight: NDArray[np.float32]
    state_weight: NDArray[np.float32]
    input_bias: NDArray[np.float32]
    state_bias: NDArray[np.float32]


def encoder_graph(weights: GRUWeights) -> bytes:
    """Padded events (n, t) with ``lengths`` (n,) to ``state`` (n, h); zeros for a row without events."""
    b = Builder()
    b.add("Identity", last_state(b, weights), out="state")
    whole, real = b.onnx.TensorProto.INT64, b.onnx.TensorProto.FLOAT
    events = [(name, kind, ["n", "t"]) for name, kind in zip(EVENT_PARTS, (whole, whole, real, real), strict=True)]
    return b.finish(inputs=[*events, ("lengths", whole, ["n"])], output=("state", ["n", weights.state_weight.shape[1]]))


def last_state(b: Builder, weights: GRUWeights) -> str:
    """State after the last of ``lengths`` padded events, (n, h); zeros for a row without events."""
    x = b.add("Transpose", event_inputs(b, weights), perm=[1, 0, 2])  # (t, n, width)
    # At least one step is read and then wiped out where there was none: length 0 is not defined for the operator.
    steps = b.add("Max", "lengths", b.constant(1, np.int64))
    last = _gru(b, weights, x, steps=b.add("Cast", steps, to=b.onnx.TensorProto.INT32))
    some = b.add("Cast", b.add("Greater", "lengths", b.constant(0, np.int64)), to=b.onnx.TensorProto.FLOAT)
    return b.add("Mul", last, b.add("Unsqueeze", some, b.constant([1], np.int64)))


def step_graph(weights: GRUWeights) -> bytes:
    """``state`` (n, h) and one event (n,) to ``next_state`` (n, h)."""
    b = Builder()
    first = b.constant([0], np.int64)
    x = b.add("Unsqueeze", event_inputs(b, weights), first)  # (1, n, width)
    start = b.add("Unsqueeze", "state", first)
    b.add("Identity", _gru(b, weights, x, start=start), out="next_state")
    whole, real = b.onnx.TensorProto.INT64, b.onnx.TensorProto.FLOAT
    events = [(name, kind, ["n"]) for name, kind in zip(EVENT_PARTS, (whole, whole, real, real), strict=True)]
    hidden = weights.state_weight.shape[1]
    return b.finish(inputs=[("state", real, ["n", hidden]), *events], output=("next_state", ["n", hidden]))


def event_inputs(b: Builder, weights: EventWeights) -> str:
    """Events of any shape to numbers along a new last axis, as ``torch_sequence.EventInputs`` makes them."""
    one, last = b.constant(1.0), b.constant([-1], np.int64)
    log_gap = b.add("Log", b.add("Add", b.add("Max", "gap_s", b.constant(0.0)), one))
    top = b.constant(float(len(weights.gap) - 1))
    bucket = b.add("Cast", b.add("Min", b.add("Floor", log_gap), top), to=b.onnx.TensorProto.INT64)
    size = b.add("Log", b.add("Add", b.add("Abs", "value"), one))
    amount = b.add("Mul", b.add("Sign", "value"), size)
    amount = b.add("Div", b.add("Sub", amount, b.constant(weights.value_mean)), b.constant(weights.value_scale))
    return b.add(
        "Concat",
        b.add("Gather", b.constant(weights.event), "event_type"),
        b.add("Gather", b.constant(weights.item), "item"),
        b.add("Gather", b.constant(weights.gap), bucket),
        b.add("Unsqueeze", b.add("Div", log_gap, b.constant(10.0)), last),
        b.add("Unsqueeze", amount, last),
        axis=-1,
    )


def _gru(b: Builder, weights: GRUWeights, x: str, *, steps: str = "", start: str = "") -> str:
    """Last state (n, h) of a GRU over x (t, n, width); ONNX orders the gates update, reset, new."""
    hidden = weights.state_weight.shape[1]

    def gates(block: NDArray[np.float32]) -> NDArray[np.float32]:
        reset, update, new = np.split(block, 3)
        return np.concatenate([update, reset, new])

    bias = np.concatenate([gates(weights.input_bias), gates(weights.state_bias)])
    name = f"n{len(b.nodes)}"
    constants = [b.constant(block[None]) for block in (gates(weights.input_weight), gates(weights.state_weight), bias)]
    node = b.onnx.helper.make_node(
        "GRU", [x, *constants, steps, start], ["", name], hidden_size=hidden, linear_before_reset=1
    )
    b.nodes.append(node)
    return b.add("Squeeze", name, b.constant([0], np.int64))


def run_graph(graph: bytes, context: NDArray[np.float32], offers: NDArray[np.float32]) -> FloatArray:
    """Rewards ``(n, k)`` of a graph, for parity checks at export."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["reward"], {"context": context, "offers": offers})[0], dtype=np.float64)

"""Policies and reward models from ONNX graphs: networks trained anywhere, served without their framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policies.artifact import Artifact
from policies.boltzmann import softmax
from policies.errors import ArtifactError, InvalidInputError, MissingExtraError
from policies.features import FeatureSpace
from policies.greedy import greedy_probabilities
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray

# Single-threaded: two threads gain nothing at this size and spread the latency fivefold on shared cores.
_THREADS = 1
_CHUNK_ROWS = 8192
# Pairs scored at once: bounds memory to a few hundred MB for wide spaces.
_PAIRS_PER_CALL = 400_000


class OnnxSession:
    """A graph, its bytes and its names, checked when loaded."""

    def __init__(self, graph: bytes, *, inputs: tuple[str, ...]) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "serve") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = _THREADS
        self.graph = bytes(graph)
        try:
            self._session: Any = onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes have no common public root
            raise ArtifactError(f"the ONNX graph cannot be loaded ({error}); export it again") from error
        found = tuple(i.name for i in self._session.get_inputs())
        if set(found) != set(inputs):
            raise ArtifactError(f"the ONNX graph has inputs {list(found)}; expected {list(inputs)}: export it again")
        self._output = self._session.get_outputs()[0].name

    def run(self, **inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """First output of the graph."""
        out: NDArray[np.float32] = self._session.run([self._output], inputs)[0]
        return out


class OnnxPolicy:
    """A network from context features and mask to one masked logit per offer (an actor of RLlib's, say).

    The graph has inputs ``features`` ``(n, d)`` and ``mask`` ``(n, k)`` float32 (1 eligible, 0 not) and one output:
    logits ``(n, k)``, very low where the mask is 0. The mask is applied here once more.

    Parameters
    ----------
    offers
        Offer ids of the output's columns. An offer of the table that the network does not know gets no
        probability; a row in which no known offer is eligible is shared equally.
    form
        ``softmax`` of the logits, or ``greedy`` (for action values).
    """

    name = "onnx"
    traits = PolicyTraits()

    def __init__(
        self,
        graph: bytes,
        space: FeatureSpace,
        offers: tuple[str, ...],
        *,
        form: Literal["softmax", "greedy"] = "softmax",
    ) -> None:
        if form not in ("softmax", "greedy"):
            raise InvalidInputError(f"form is {form!r}; expected 'softmax' or 'greedy'")
        self.space, self.offers, self.form = space, tuple(offers), form
        self._session = OnnxSession(graph, inputs=("features", "mask"))
        self._columns: dict[str, NDArray[np.int64]] = {}

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Distribution of each decision, shape ``(n, k)``."""
        column = self._column_of(table)
        known = column >= 0
        out = np.zeros(table.eligible.shape)
        features = self.space.encode_contexts(table)
        mask = np.zeros((len(table), len(self.offers)), dtype=np.float32)
        mask[:, column[known]] = table.eligible[:, known]
        usable = np.asarray(mask.any(axis=1), dtype=np.bool_)
        for start in range(0, len(table), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            ok = usable[rows]
            if not ok.any():
                continue
            logits = self._session.run(features=features[rows][ok], mask=mask[rows][ok]).astype(np.float64)
            if logits.shape != mask[rows][ok].shape:
                raise ArtifactError(
                    f"the ONNX graph answered shape {logits.shape}; expected {mask[rows][ok].shape}, one logit per offer"
                )
            allowed = mask[rows][ok] > 0
            p = softmax(logits, allowed) if self.form == "softmax" else greedy_probabilities(logits, allowed)
            part = np.zeros((len(ok), table.n_offers))
            part[np.ix_(ok, known)] = p[:, column[known]]
            out[rows] = part
        if not usable.all():
            rest = table.eligible[~usable]
            out[~usable] = rest / rest.sum(axis=1, keepdims=True)
        return out

    def _column_of(self, table: DecisionTable) -> NDArray[np.int64]:
        found = self._columns.get(table.offers.revision)
        if found is None:
            place = {offer: i for i, offer in enumerate(self.offers)}
            found = np.asarray([place.get(o, -1) for o in table.offers.ids], dtype=np.int64)
            if len(self._columns) >= 64:
                self._columns.clear()
            self._columns[table.offers.revision] = found
        return found

    def to_artifact(self) -> Artifact:
        """Graph, feature space and offers."""
        return Artifact(
            self.name,
            {
                "space": self.space.to_manifest(),
                "space_hash": self.space.hash,
                "offers": list(self.offers),
                "form": self.form,
            },
            blobs={"graph.onnx": self._session.graph},
        )


class OnnxRewardModel:
    """A network from context and offer features to expected rewards: what ``engine.training.reward`` exports.

    The graph has inputs ``context`` ``(n, d)`` and ``offers`` ``(k, e)``, float32, and one output ``(n, k)``: the
    expected reward of every pair, calibrated, in the unit of the reward. Pairing happens inside the graph.

    Parameters
    ----------
    facts
        Plain JSON values about the fit, kept in the artefact: kind, seed, quality on held-out subjects.
    """

    kind = "onnx"

    def __init__(self, graph: bytes, space: FeatureSpace, *, facts: Mapping[str, Any] | None = None) -> None:
        self.space = space
        self.facts = dict(facts or {})
        self._session = OnnxSession(graph, inputs=("context", "offers"))

    def expected_reward(self, table: DecisionTable) -> FloatArray:
        """Expected reward of every pair, shape ``(n, k)``."""
        return self.score(self.space.encode_contexts(table), self.space.encode_offers(table.offers))

    def score(self, x: NDArray[np.float32], offers: NDArray[np.float32]) -> FloatArray:
        """The same from encoded contexts ``(n, d)`` and offers ``(k, e)``."""
        offers = np.ascontiguousarray(offers)
        out = np.empty((len(x), len(offers)), dtype=np.float64)
        step = max(1, _PAIRS_PER_CALL // len(offers))
        for start in range(0, len(x), step):
            part = np.ascontiguousarray(x[start : start + step])
            out[start : start + step] = self._session.run(context=part, offers=offers)
        return out

    def to_artifact(self) -> Artifact:
        """Graph, feature space and facts."""
        return Artifact(
            self.kind,
            {"space": self.space.to_manifest(), "space_hash": self.space.hash, "facts": self.facts},
            blobs={"graph.onnx": self._session.graph},
        )


def load_policy(artifact: Artifact) -> OnnxPolicy:
    """Entry point of kind ``onnx``."""
    m = artifact.manifest
    return OnnxPolicy(
        artifact.blobs["graph.onnx"], FeatureSpace.from_manifest(m["space"]), tuple(m["offers"]), form=m["form"]
    )


def load_reward_model(artifact: Artifact) -> OnnxRewardModel:
    """Entry point of reward model ``onnx``."""
    m = artifact.manifest
    return OnnxRewardModel(artifact.blobs["graph.onnx"], FeatureSpace.from_manifest(m["space"]), facts=m.get("facts"))

"""Serve a sequence encoder: the last K events of a subject to a state vector, by ONNX Runtime and numpy only.

What ``engine.models.torch_sequence`` exports, the online side (``engine.subjects``) reads here; nothing in this
module imports a training framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from policies.artifact import Artifact
from policies.errors import ArtifactError, MissingExtraError, SchemaError
from policies.records import Event, IntArray

KIND = "sequence_encoder"
# log(1 + gap in seconds) is floored into one bucket a factor e: 18 of them reach past two years.
_N_GAP_BUCKETS = 19


def n_gap_buckets() -> int:
    """Number of buckets that time gaps are embedded by."""
    return _N_GAP_BUCKETS


class SequenceEncoder:
    """An exported encoder, loaded once and safe to call from many threads.

    Attributes
    ----------
    version
        Digest of the artefact: part of the key under which a state may be cached.
    width
        Length of the state vector.
    last_events
        How many last events are read.
    """

    def __init__(self, artifact: Artifact) -> None:
        if artifact.kind != KIND:
            raise ArtifactError(f"the artefact is a {artifact.kind!r}; expected a {KIND!r}")
        manifest = artifact.manifest
        self.version = artifact.digest
        self.width = int(manifest["width"])
        self.last_events = int(manifest["last_events"])
        self._n_event_types = int(manifest["n_event_types"])
        self._n_items = int(manifest["n_items"])
        self._event_ids = _ids(manifest["vocabularies"], "event_type")
        self._item_ids = _ids(manifest["vocabularies"], "item")
        self._encoder = onnx_session(artifact.blobs["encoder.onnx"])
        self._step_graph = artifact.blobs["step.onnx"]

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Load what ``to_artifacts`` of a sequence model wrote."""
        return cls(artifact)

    def encode(
        self,
        event_type: NDArray[np.integer[Any]],
        item: NDArray[np.integer[Any]],
        gap_s: NDArray[Any],
        value: NDArray[Any],
        lengths: IntArray,
    ) -> NDArray[np.float32]:
        """State after the last event of each row.

        Parameters
        ----------
        event_type, item, gap_s, value
            Events padded at the end, oldest first, shape ``(n, t)`` with ``t >= 1``; ids as in the vocabularies.
        lengths
            Number of events of each row, shape ``(n,)``; a row without events has the zero state.

        Returns
        -------
        numpy.ndarray
            Shape ``(n, width)``.
        """
        shape = event_type.shape
        if len(shape) != 2 or any(block.shape != shape for block in (item, gap_s, value)) or lengths.shape != shape[:1]:
            raise SchemaError(
                f"events have shapes {[b.shape for b in (event_type, item, gap_s, value)]} and lengths {lengths.shape}; "
                "expected four blocks (n, t) and lengths (n,)"
            )
        if not len(lengths):
            return np.zeros((0, self.width), np.float32)
        feed = {
            "event_type": known_ids(event_type, self._n_event_types),
            "item": known_ids(item, self._n_items),
            "gap_s": np.ascontiguousarray(gap_s, dtype=np.float32),
            "value": np.ascontiguousarray(value, dtype=np.float32),
            "lengths": np.ascontiguousarray(lengths, dtype=np.int64),
        }
        out: NDArray[np.float32] = self._encoder.run(None, feed)[0]
        return out

    def step(
        self,
        state: NDArray[np.float32],
        event_type: NDArray[np.integer[Any]],
        item: NDArray[np.integer[Any]],
        gap_s: NDArray[Any],
        value: NDArray[Any],
    ) -> NDArray[np.float32]:
        """Advance each state by one event: ``state`` is ``(n, width)``, the event's parts are ``(n,)``.

        Equal to ``encode`` of the whole sequence while it has at most ``last_events`` events; beyond that the
        stepped state remembers events that ``encode`` no longer reads.
        """
        feed = {
            "state": np.ascontiguousarray(state, dtype=np.float32),
            "event_type": known_ids(event_type, self._n_event_types),
            "item": known_ids(item, self._n_items),
            "gap_s": np.ascontiguousarray(gap_s, dtype=np.float32),
            "value": np.ascontiguousarray(value, dtype=np.float32),
        }
        out: NDArray[np.float32] = self._stepper.run(None, feed)[0]
        return out

    @cached_property
    def _stepper(self) -> Any:
        # Servers read a window anew and never step; whoever streams events one by one pays for the second session.
        return onnx_session(self._step_graph)

    def event_ids(self, event: Event) -> tuple[int, int]:
        """Vocabulary ids of an event's type and item; 0 where unknown."""
        return self._event_ids.get(event.kind, 0), self._item_ids.get(event.item, 0)

    def sequences(self, events: Sequence[Event], *, as_of: datetime) -> dict[str, NDArray[Any]]:
        """One subject's raw events as the tensors of one decision point: strictly before ``as_of``, last K, oldest first."""
        kept = sorted((e for e in events if e.at < as_of), key=lambda e: (e.at, e.id))[-self.last_events :]
        ids = [self.event_ids(e) for e in kept]
        seconds = np.asarray([int(e.at.timestamp()) for e in kept], dtype=np.int64)
        return {
            "event_type": np.asarray([i[0] for i in ids], dtype=np.int32),
            "item": np.asarray([i[1] for i in ids], dtype=np.int32),
            "gap_s": np.diff(seconds, prepend=seconds[:1]).astype(np.int32),
            "value": np.asarray([e.value for e in kept], dtype=np.float32),
        }

    def encode_events(self, events: Sequence[Event], *, as_of: datetime) -> NDArray[np.float32]:
        """State of one subject from raw events in any order, shape ``(width,)``."""
        parts = self.sequences(events, as_of=as_of)
        n = len(parts["event_type"])
        if not n:
            return np.zeros(self.width, np.float32)
        rows = {name: values[None, :] for name, values in parts.items()}
        out: NDArray[np.float32] = self.encode(**rows, lengths=np.array([n], dtype=np.int64))[0]
        return out


def known_ids(ids: NDArray[np.integer[Any]], size: int) -> NDArray[np.int64]:
    """Ids outside the vocabulary of the fit become unknown (0)."""
    wide = ids.astype(np.int64)
    return np.ascontiguousarray(np.where((wide < 0) | (wide >= size), 0, wide))


def _ids(vocabularies: Mapping[str, Any], name: str) -> dict[str, int]:
    """Word to id; the first word of a vocabulary has id 1."""
    words = vocabularies.get(name, ())
    if isinstance(words, Mapping):
        return {str(word): int(position) for word, position in words.items()}
    return {str(word): position + 1 for position, word in enumerate(words)}


def onnx_session(graph: bytes) -> Any:
    """A session of ONNX Runtime on one thread.

    Raises
    ------
    MissingExtraError
        If ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "serve") from error
    options = onnxruntime.SessionOptions()
    # One decision is too small to be worth a second thread, and servers scale by process.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

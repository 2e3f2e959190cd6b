"""Serve a propensity model: decision points to probabilities by ONNX Runtime and numpy only.

Every model that can be served leaves one artefact of this kind beside whatever its framework needs, so that batch scoring and servers know
one form and no framework. The graph takes ``columns`` (n, c), and events as ``engine.models.encoder`` has them where the model reads
them in order, and gives ``score`` (n, heads): log odds of the label, and where there is a second head of being kept given it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.models.batches import bucketed_batches
from engine.models.dataset import SequenceDataset
from engine.models.encoder import known_ids, onnx_session
from engine.models.imbalance import corrected
from engine.models.metrics import expit
from engine.models.summaries import SequenceSummary
from engine.models.tabular import TabularEncoder
from policies.artifact import Artifact
from policies.errors import ArtifactError
from policies.records import FloatArray, IntArray

KIND = "served_propensity"
_ROWS = 1_024


def served_artifact(
    graph: bytes,
    *,
    name: str,
    columns: TabularEncoder,
    summary: SequenceSummary | None = None,
    events: Mapping[str, int] | None = None,
    imbalance: str = "none",
    rate: float = 0.5,
    has_kept: bool = False,
) -> Artifact:
    """Put a graph and everything around it into one artefact.

    Parameters
    ----------
    columns, summary
        What the graph's ``columns`` are made of: the encoder's, then the summary's (``nan`` where a row has no events).
    events
        ``last_events``, ``n_event_types`` and ``n_items`` of a graph that reads events; None for one that does not.
    imbalance, rate
        Which correction of the level the score needs, and the share of positives it was fitted on.
    """
    manifest = {
        "model": name,
        "columns": columns.to_manifest(),
        "summary": None if summary is None else summary.to_manifest(),
        "events": None if events is None else dict(events),
        "imbalance": imbalance,
        "rate": rate,
        "has_kept": has_kept,
    }
    return Artifact(KIND, manifest, blobs={"propensity.onnx": graph})


class ServedPropensity:
    """An exported propensity model, loaded once and safe to call from many threads."""

    def __init__(self, artifact: Artifact) -> None:
        if artifact.kind != KIND:
            raise ArtifactError(f"the artefact is a {artifact.kind!r}; expected a {KIND!r}")
        manifest = artifact.manifest
        self.name = str(manifest["model"])
        self._columns = TabularEncoder.from_manifest(manifest["columns"])
        summary = manifest["summary"]
        self._summary = None if summary is None else SequenceSummary.from_manifest(summary)
        self._events = manifest["events"]
        self._imbalance, self._rate = str(manifest["imbalance"]), float(manifest["rate"])
        self._has_kept = bool(manifest["has_kept"])
        self._session = onnx_session(artifact.blobs["propensity.onnx"])

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Load what ``served_artifact`` made."""
        return cls(artifact)

    def predict(self, data: SequenceDataset) -> FloatArray:
        """Probability of the label for each row, not calibrated, shape ``(n,)``."""
        return corrected(expit(self._scores(data)[:, 0]), how=self._imbalance, rate=self._rate)

    def predict_kept(self, data: SequenceDataset) -> FloatArray | None:
        """Probability of being kept for each row, ``(n,)``; None where the model has no such head."""
        if not self._has_kept:
            return None
        scores = expit(self._scores(data))
        return corrected(scores[:, 0], how=self._imbalance, rate=self._rate) * scores[:, 1]

    def _scores(self, data: SequenceDataset) -> FloatArray:
        """Log odds, (n, heads)."""
        columns = self._columns.encode(data)
        if self._summary is not None:
            columns = np.concatenate([columns, self._summary.encode(data)], axis=1)
        # Rows of near-equal length together: padding is work.
        parts = bucketed_batches(data.lengths, rows_per_batch=_ROWS, rng=None)
        out = np.zeros((len(data), 2))
        for rows in parts:
            feed = {"columns": columns[rows], **self._fed_events(data, rows)}
            score = self._session.run(["score"], feed)[0]
            out[rows, : score.shape[1]] = score
        return out

    def _fed_events(self, data: SequenceDataset, rows: IntArray) -> dict[str, NDArray[Any]]:
        if self._events is None:
            return {}
        padded = data.padded(rows, length=int(self._events["last_events"]))
        return {
            "event_type": known_ids(padded["event_type"], int(self._events["n_event_types"])),
            "item": known_ids(padded["item"], int(self._events["n_items"])),
            "gap_s": padded["gap_s"].astype(np.float32),
            "value": padded["value"].astype(np.float32),
            "lengths": padded["lengths"].astype(np.int64),
            "gap_to_as_of_s": data.gap_to_as_of_s[rows].astype(np.float32),
        }

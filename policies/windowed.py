"""Forgetting by a window, for any learner: a few copies that start at different times take turns."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from policies.artifact import Artifact, inner_artifact, nest_artifact
from policies.errors import InvalidInputError
from policies.protocols import OnlineLearner, PolicyTraits
from policies.records import DecisionTable, FloatArray, InteractionBatch
from policies.registry import load_policy


class Windowed:
    """A learner that knows the last ``window`` interactions and little more or less.

    Every copy learns from everything while it lives and starts anew when it has seen ``window`` interactions; their ages are
    spread evenly, and the oldest answers. So the answer always comes from one learner that has seen between
    ``(1 - 1 / n_parts) window`` and ``window`` of the latest interactions, whatever kind it is, at ``n_parts`` times its cost.
    Where a learner can fade old observations itself (``half_life``), that is cheaper.

    Parameters
    ----------
    fresh
        A learner as it is before it has learned anything; it must be saveable, and is not changed.
    window
        Interactions.
    n_parts
        Copies, at least 2.
    """

    name = "windowed"

    def __init__(self, fresh: OnlineLearner, *, window: int, n_parts: int = 4) -> None:
        if window < 1 or not 2 <= n_parts <= window:
            raise InvalidInputError(
                f"window {window}, n_parts {n_parts}; expected at least 1, and between 2 and the window"
            )
        self._start(fresh.to_artifact(), window=window, n_parts=n_parts)
        self._parts = [self._renew() for _ in range(n_parts)]
        # How many interactions each copy has seen; at first all have seen everything, and the later ones restart earlier.
        self._ages = [0] * n_parts
        self._until = [window * (i + 1) // n_parts for i in range(n_parts)]

    def _start(self, fresh: Artifact, *, window: int, n_parts: int) -> None:
        self._fresh, self.window, self.n_parts = fresh, window, n_parts

    def _renew(self) -> OnlineLearner:
        return cast(OnlineLearner, load_policy(self._fresh))

    @property
    def _oldest(self) -> OnlineLearner:
        return self._parts[int(np.argmax(self._ages))]

    @property
    def traits(self) -> PolicyTraits:
        """Those of the learner inside."""
        return self._oldest.traits

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """What the oldest copy says, shape ``(n, k)``."""
        return self._oldest.probabilities(table)

    def learn(self, batch: InteractionBatch) -> None:
        """All copies learn; one whose time is over starts anew at exactly that interaction."""
        done, n = 0, len(batch)
        while done < n:
            step = min(n - done, *(until - age for until, age in zip(self._until, self._ages, strict=True)))
            part = batch.take(slice(done, done + step))
            for i, learner in enumerate(self._parts):
                learner.learn(part)
                self._ages[i] += step
                if self._ages[i] >= self._until[i]:
                    self._parts[i], self._ages[i], self._until[i] = self._renew(), 0, self.window
            done += step

    def to_artifact(self) -> Artifact:
        """Every copy with its age."""
        out = Artifact(
            self.name,
            {"window": self.window, "n_parts": self.n_parts, "ages": list(self._ages), "until": list(self._until)},
        )
        out = nest_artifact(out, "fresh", self._fresh)
        for i, part in enumerate(self._parts):
            out = nest_artifact(out, f"part{i}", part.to_artifact())
        return out


def load(artifact: Artifact) -> Windowed:
    """Entry point of kind ``windowed``."""
    m: dict[str, Any] = dict(artifact.manifest)
    out = object.__new__(Windowed)
    out._start(inner_artifact(artifact, "fresh"), window=m["window"], n_parts=m["n_parts"])
    parts = (load_policy(inner_artifact(artifact, f"part{i}")) for i in range(m["n_parts"]))
    out._parts = [cast(OnlineLearner, part) for part in parts]
    out._ages, out._until = list(m["ages"]), list(m["until"])
    return out

"""Bayesian linear regression of the reward on context, one per offer: the state that LinUCB, LinTS and ridge share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from policies.artifact import Artifact
from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.fixed import fading
from policies.records import DecisionTable, FloatArray, InteractionBatch, OfferSet

# After so many rank-one updates of an inverse it is computed anew from the float64 sums, which are exact.
_REINVERT_EVERY = 512
_MAX_STACKS = 8
_CHUNK_ROWS = 8192


@dataclass(slots=True)
class _Stack:
    """Float32 copies for one set of offers: coefficients ``(k, d)`` and inverses ``(k, d, d)``."""

    place: dict[int, int]  # row of the state -> position in the set; the prior's row 0 never changes
    theta: NDArray[np.float32]
    inverse: NDArray[np.float32]


class DisjointLinear:
    """One ridge regression per offer on the context features and a constant.

    State is float64 and keyed by offer id: an offer seen for the first time has the prior, one that is gone
    keeps what it knew. Scoring is float32.

    Parameters
    ----------
    ridge
        Prior precision of each coefficient, above 0.
    half_life
        Interactions after which an observation weighs half; 0: for ever. The prior never fades.
    """

    def __init__(self, space: FeatureSpace, *, ridge: float = 1.0, half_life: float = 0.0) -> None:
        if not ridge > 0 or half_life < 0:
            raise InvalidInputError(f"ridge {ridge}, half_life {half_life}; expected above 0, and at least 0")
        self.space, self.ridge, self.half_life = space, ridge, half_life
        self.width = space.context_width + 1
        self._row_of: dict[str, int] = {}
        d = self.width
        # Row 0 is the prior, which offers without observations share.
        self._gram = np.zeros((1, d, d))
        self._moment = np.zeros((1, d))
        self._inverse = np.eye(d)[None] / ridge
        self._theta = np.zeros((1, d))
        self._stacks: dict[str, _Stack] = {}
        self._n_rank_one = 0

    def inputs(self, table: DecisionTable) -> NDArray[np.float32]:
        """Context features and a constant, shape ``(n, d)``."""
        out = np.ones((len(table), self.width), dtype=np.float32)
        out[:, :-1] = self.space.encode_contexts(table)
        return out

    def mean(self, table: DecisionTable) -> FloatArray:
        """Posterior mean reward, shape ``(n, k)``."""
        return np.asarray(self.inputs(table) @ self._stack(table.offers).theta.T, dtype=np.float64)

    def mean_and_variance(self, table: DecisionTable) -> tuple[FloatArray, FloatArray]:
        """Posterior mean of the reward, and ``x' A^-1 x`` (the variance in units of the noise), shape ``(n, k)`` each."""
        x, stack = self.inputs(table), self._stack(table.offers)
        mean = x @ stack.theta.T
        k, d = stack.theta.shape
        if len(x) == 1:
            first = x[0]
            variance = ((stack.inverse.reshape(k * d, d) @ first).reshape(k, d) @ first)[None]
        else:
            variance = np.empty((len(x), k), dtype=np.float32)
            for start in range(0, len(x), _CHUNK_ROWS):
                part = x[start : start + _CHUNK_ROWS]
                for offer in range(k):
                    variance[start : start + _CHUNK_ROWS, offer] = np.einsum(
                        "nd,nd->n", part @ stack.inverse[offer], part
                    )
        return np.asarray(mean, dtype=np.float64), np.maximum(np.asarray(variance, dtype=np.float64), 1e-12)

    def learn(self, batch: InteractionBatch) -> None:
        """Add the rows in their order."""
        n = len(batch)
        if n == 0:
            return
        ids = batch.table.offers.ids
        x = self.inputs(batch.table).astype(np.float64)
        if n == 1 and self.half_life == 0 and self._n_rank_one < _REINVERT_EVERY:
            self._learn_one(ids[batch.chosen[0]], x[0], float(batch.reward[0]))
            return
        shown = [ids[position] for position in np.unique(batch.chosen)]
        self._make_room(shown)
        fade = fading(n, self.half_life)
        if fade.whole != 1.0:
            self._gram *= fade.whole
            self._moment *= fade.whole
        touched = []
        for position in np.unique(batch.chosen):
            row = self._row_of[ids[position]]
            mine = batch.chosen == position
            weighted = x[mine] * fade.rows[mine, None]
            self._gram[row] += weighted.T @ x[mine]
            self._moment[row] += weighted.T @ batch.reward[mine]
            touched.append(row)
        # Fading changes every offer's sums, so every inverse has to follow.
        self._solve(np.arange(1, len(self._gram)) if fade.whole != 1.0 else np.asarray(touched))

    def _learn_one(self, offer: str, x: FloatArray, reward: float) -> None:
        if offer not in self._row_of:
            self._make_room([offer])
        row = self._row_of[offer]
        self._gram[row] += x[:, None] * x
        self._moment[row] += x * reward
        self._rank_one(row, x)

    def _rank_one(self, row: int, x: FloatArray) -> None:
        inverse = self._inverse[row]
        ix = inverse @ x
        inverse -= ix[:, None] * (ix / (1.0 + x @ ix))
        self._theta[row] = inverse @ self._moment[row]
        self._n_rank_one += 1
        self._refresh(row)

    def _solve(self, rows: NDArray[np.int64]) -> None:
        for row in rows:
            self._inverse[row] = np.linalg.inv(self._gram[row] + self.ridge * np.eye(self.width))
            self._theta[row] = self._inverse[row] @ self._moment[row]
            self._refresh(int(row))
        self._n_rank_one = 0

    def _refresh(self, row: int) -> None:
        for stack in self._stacks.values():
            position = stack.place.get(row)
            if position is not None:
                stack.theta[position] = self._theta[row]
                stack.inverse[position] = self._inverse[row]

    def _make_room(self, offers: list[Any]) -> None:
        new = [o for o in offers if o not in self._row_of]
        if not new:
            return
        for offer in new:
            self._row_of[offer] = len(self._row_of) + 1
        m, d = len(new), self.width
        self._gram = np.concatenate([self._gram, np.zeros((m, d, d))])
        self._moment = np.concatenate([self._moment, np.zeros((m, d))])
        self._inverse = np.concatenate([self._inverse, np.repeat(np.eye(d)[None] / self.ridge, m, axis=0)])
        self._theta = np.concatenate([self._theta, np.zeros((m, d))])
        self._stacks.clear()

    def _stack(self, offers: OfferSet) -> _Stack:
        found = self._stacks.get(offers.revision)
        if found is not None:
            return found
        rows = np.asarray([self._row_of.get(o, 0) for o in offers.ids], dtype=np.int64)
        place = {int(row): position for position, row in enumerate(rows) if row}
        made = _Stack(place, self._theta[rows].astype(np.float32), self._inverse[rows].astype(np.float32))
        if len(self._stacks) >= _MAX_STACKS:
            self._stacks.clear()
        self._stacks[offers.revision] = made
        return made

    def to_artifact(self, kind: str, parameters: dict[str, Any]) -> Artifact:
        """State under a kind, with the parameters of whoever uses it."""
        return Artifact(
            kind,
            {
                "parameters": parameters,
                "ridge": self.ridge,
                "half_life": self.half_life,
                "n_rank_one": self._n_rank_one,
                "offers": list(self._row_of),
                "space": self.space.to_manifest(),
                "space_hash": self.space.hash,
            },
            {"gram": self._gram, "moment": self._moment, "inverse": self._inverse, "theta": self._theta},
        )

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Read back what ``to_artifact`` wrote."""
        m, arrays = artifact.manifest, artifact.arrays
        out = cls(FeatureSpace.from_manifest(m["space"]), ridge=m["ridge"], half_life=m["half_life"])
        out._row_of = {o: i + 1 for i, o in enumerate(m["offers"])}
        out._gram, out._moment = arrays["gram"].copy(), arrays["moment"].copy()
        out._inverse, out._theta = arrays["inverse"].copy(), arrays["theta"].copy()
        out._n_rank_one = m["n_rank_one"]
        return out

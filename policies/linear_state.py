"""Bayesian linear regression of the reward on context, one per offer: the state that LinUCB, LinTS and ridge share."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dger

from policies.artifact import Artifact
from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.fixed import fading
from policies.records import DecisionTable, FloatArray, InteractionBatch, OfferSet

# After so many rank-one updates an offer's inverse is computed anew from the float64 sums, which are exact.
_REINVERT_EVERY = 128
_MAX_STACKS = 8
_CHUNK_ROWS = 8192
_SMALLEST = np.float64(1e-12)  # no variance is below it, whatever float32 made of it


class _Stack:
    """Float32 copy for one set of offers, in one block so that one product answers for every offer.

    Attributes
    ----------
    flat
        Shape ``(k d + k, d)``: the rows of all inverses, and below them the coefficients.
    inverse, theta
        Views of it, shapes ``(k, d, d)`` and ``(k, d)``.
    place
        Row of the state to position in the set; the prior's row 0 never changes.
    """

    __slots__ = ("flat", "inverse", "place", "theta")

    def __init__(self, place: dict[int, int], inverse: FloatArray, theta: FloatArray) -> None:
        k, d = theta.shape
        self.place = place
        self.flat = np.concatenate([inverse.reshape(k * d, d), theta], dtype=np.float32)
        self.inverse, self.theta = self.flat[: k * d].reshape(k, d, d), self.flat[k * d :]


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
    learns_prior
        Whether an offer without observations starts from what offers like it turned out to be (a ridge regression of
        coefficients on offer features), instead of from zero. What an offer starts from is fixed when it is first learned
        from, so the order in which new offers appear matters; worth it where offers come and go.
    """

    def __init__(
        self, space: FeatureSpace, *, ridge: float = 1.0, half_life: float = 0.0, learns_prior: bool = False
    ) -> None:
        if not ridge > 0 or half_life < 0:
            raise InvalidInputError(f"ridge {ridge}, half_life {half_life}; expected above 0, and at least 0")
        self.space, self.ridge, self.half_life, self.learns_prior = space, ridge, half_life, learns_prior
        self.width = space.context_width + 1
        self._row_of: dict[str, int] = {}
        d = self.width
        self._blank = np.zeros((1, d), dtype=np.float32)
        self._blank[0, -1] = 1.0
        # Row 0 is the prior, which offers without observations share.
        self._gram = np.zeros((1, d, d))
        self._moment = np.zeros((1, d))
        self._prior = np.zeros((1, d))
        self._inverse = np.eye(d)[None] / ridge
        self._theta = np.zeros((1, d))
        self._features = np.zeros((1, space.offer_width))
        self._stacks: dict[str, _Stack] = {}
        # Single interactions that are in the inverse and the coefficients already, and not yet in the sums.
        self._waiting: dict[int, list[tuple[FloatArray, float]]] = {}

    def inputs(self, table: DecisionTable) -> NDArray[np.float32]:
        """Context features and a constant, shape ``(n, d)``."""
        n = len(table.eligible)
        if n == 1:
            out = self._blank.copy()
        else:
            out = np.zeros((n, self.width), dtype=np.float32)
            out[:, -1] = 1.0
        self.space.encode_contexts_into(out, table)
        return out

    def mean(self, table: DecisionTable) -> FloatArray:
        """Posterior mean reward, shape ``(n, k)``."""
        return np.asarray(self.inputs(table) @ self._stack(table.offers).theta.T, dtype=np.float64)

    def mean_and_variance(self, table: DecisionTable) -> tuple[FloatArray, FloatArray]:
        """Posterior mean of the reward, and ``x' A^-1 x`` (the variance in units of the noise), shape ``(n, k)`` each."""
        x, stack = self.inputs(table), self._stack(table.offers)
        k, d = stack.theta.shape
        if len(x) == 1:
            row = x[0]
            both = stack.flat.dot(row)  # a quarter of a microsecond less than @, for one row
            variance = np.maximum(both[: k * d].reshape(k, d).dot(row), _SMALLEST)
            return both[None, k * d :].astype(np.float64), variance[None]
        mean = x @ stack.theta.T
        variance = np.empty((len(x), k), dtype=np.float32)
        for start in range(0, len(x), _CHUNK_ROWS):
            part = x[start : start + _CHUNK_ROWS]
            for offer in range(k):
                spread = np.einsum("nd,nd->n", part @ stack.inverse[offer], part)
                variance[start : start + _CHUNK_ROWS, offer] = spread
        return np.asarray(mean, dtype=np.float64), np.maximum(variance, _SMALLEST)

    def learn(self, batch: InteractionBatch) -> None:
        """Add the rows in their order."""
        n = len(batch.chosen)
        if n == 0:
            return
        ids = batch.table.offers.ids
        x = self.inputs(batch.table).astype(np.float64)
        if n == 1 and self.half_life == 0:
            self._learn_one(batch.table.offers, int(batch.chosen[0]), x[0], float(batch.reward[0]))
            return
        positions = np.unique(batch.chosen)
        self._make_room(batch.table.offers, positions)
        fade = fading(n, self.half_life)
        rows = [self._row_of[ids[position]] for position in positions]
        # Fading changes every offer's sums, so every inverse has to follow.
        touched = rows if fade.whole == 1.0 else list(range(1, len(self._gram)))
        for row in touched:
            self._settle(row)
        if fade.whole != 1.0:
            self._gram *= fade.whole
            self._moment *= fade.whole
        for position, row in zip(positions, rows, strict=True):
            mine = batch.chosen == position
            weighted = x[mine] * fade.rows[mine, None]
            self._gram[row] += weighted.T @ x[mine]
            self._moment[row] += weighted.T @ batch.reward[mine]
        for row in touched:
            self._solve(row)

    def _learn_one(self, offers: OfferSet, position: int, x: FloatArray, reward: float) -> None:
        """Sherman and Morrison's update of one inverse; the sums follow later, many rows at once."""
        row = self._row_of.get(offers.ids[position])
        if row is None:
            self._make_room(offers, np.asarray([position]))
            row = self._row_of[offers.ids[position]]
        inverse, theta = self._inverse[row], self._theta[row]
        ix = inverse.dot(x)
        gain = ix / (1.0 + float(x.dot(ix)))
        # inverse -= ix ⊗ gain in place, without the product in between; BLAS counts in columns, hence the transpose.
        dger(-1.0, gain, ix, a=inverse.T, overwrite_a=1)
        theta += gain * (reward - float(x.dot(theta)))
        waiting = self._waiting.setdefault(row, [])
        waiting.append((x, reward))
        if len(waiting) >= _REINVERT_EVERY:
            self._settle(row)
            self._solve(row)
        else:
            self._refresh(row)

    def _settle(self, row: int) -> None:
        """Move what waits into the sums."""
        waiting = self._waiting.pop(row, None)
        if waiting:
            x = np.asarray([w[0] for w in waiting])
            self._gram[row] += x.T @ x
            self._moment[row] += np.asarray([w[1] for w in waiting]) @ x

    def _solve(self, row: int) -> None:
        self._inverse[row] = np.linalg.inv(self._gram[row] + self.ridge * np.eye(self.width))
        self._theta[row] = self._inverse[row] @ (self._moment[row] + self.ridge * self._prior[row])
        self._refresh(row)

    def _refresh(self, row: int) -> None:
        for stack in self._stacks.values():
            position = stack.place.get(row)
            if position is not None:
                stack.inverse[position] = self._inverse[row]
                stack.theta[position] = self._theta[row]

    def _make_room(self, offers: OfferSet, positions: NDArray[np.int64]) -> None:
        new = [int(p) for p in positions if offers.ids[p] not in self._row_of]
        if not new:
            return
        features = np.asarray(self.space.encode_offers(offers), dtype=np.float64)[new]
        prior = self._prior_of(features)
        for position in new:
            self._row_of[offers.ids[position]] = len(self._row_of) + 1
        m, d = len(new), self.width
        self._gram = np.concatenate([self._gram, np.zeros((m, d, d))])
        self._moment = np.concatenate([self._moment, np.zeros((m, d))])
        self._prior = np.concatenate([self._prior, prior])
        self._inverse = np.concatenate([self._inverse, np.repeat(np.eye(d)[None] / self.ridge, m, axis=0)])
        self._theta = np.concatenate([self._theta, prior])
        self._features = np.concatenate([self._features, features])
        self._stacks.clear()

    def _prior_of(self, features: FloatArray) -> FloatArray:
        """Coefficients that offers with these features are expected to have, shape ``(m, d)``."""
        if not self.learns_prior or len(self._theta) == 1:
            return np.zeros((len(features), self.width))
        # An offer speaks as loudly as its data outweigh its own prior.
        known = self._gram[1:, -1, -1] + [len(self._waiting.get(row, ())) for row in range(1, len(self._gram))]
        weight = known / (known + self.ridge)
        z, new = (np.hstack([f, np.ones((len(f), 1))]) for f in (self._features[1:], features))
        spread = z.T @ (weight[:, None] * z) + np.eye(z.shape[1])
        return np.asarray(new @ np.linalg.solve(spread, z.T @ (weight[:, None] * self._theta[1:])))

    def _stack(self, offers: OfferSet) -> _Stack:
        found = self._stacks.get(offers.revision)
        if found is not None:
            return found
        rows = np.asarray([self._row_of.get(o, 0) for o in offers.ids], dtype=np.int64)
        place = {int(row): position for position, row in enumerate(rows) if row}
        theta = self._theta[rows]
        if self.learns_prior and (rows == 0).any():
            features = np.asarray(self.space.encode_offers(offers), dtype=np.float64)[rows == 0]
            theta[rows == 0] = self._prior_of(features)
        made = _Stack(place, self._inverse[rows], theta)
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
                "learns_prior": self.learns_prior,
                "offers": list(self._row_of),
                "space": self.space.to_manifest(),
                "space_hash": self.space.hash,
            },
            {
                "gram": self._gram,
                "moment": self._moment,
                "prior": self._prior,
                "inverse": self._inverse,
                "theta": self._theta,
                "features": self._features,
                # What waits is kept as it is: a learner that was saved goes on to the bit like one that was not.
                "waiting_row": np.asarray([row for row, rows in self._waiting.items() for _ in rows], dtype=np.int64),
                "waiting_x": np.asarray([x for rows in self._waiting.values() for x, _ in rows]).reshape(
                    -1, self.width
                ),
                "waiting_reward": np.asarray([r for rows in self._waiting.values() for _, r in rows], dtype=np.float64),
            },
        )

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Read back what ``to_artifact`` wrote."""
        m, arrays = artifact.manifest, artifact.arrays
        out = cls(
            FeatureSpace.from_manifest(m["space"]),
            ridge=m["ridge"],
            half_life=m["half_life"],
            learns_prior=m["learns_prior"],
        )
        out._row_of = {o: i + 1 for i, o in enumerate(m["offers"])}
        out._gram, out._moment, out._prior = (arrays[name].copy() for name in ("gram", "moment", "prior"))
        # In the form that is changed in place.
        out._inverse = np.array(arrays["inverse"], dtype=np.float64, order="C")
        out._theta, out._features = arrays["theta"].copy(), arrays["features"].copy()
        waiting = (arrays[f"waiting_{name}"] for name in ("row", "x", "reward"))
        for row, x, reward in zip(*waiting, strict=True):
            out._waiting.setdefault(int(row), []).append((x.copy(), float(reward)))
        return out

"""What the regret and learning benchmarks share: classification sets as bandits, and peers behind one small door."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.errors import InvalidInputError, NextofferError
from policies.features import FeatureSpace
from policies.protocols import OnlineLearner
from policies.records import DecisionTable, FloatArray, IntArray, InteractionBatch, Offer, OfferId, OfferSet
from policies.sampling import draw
from policies.warm_start import teach

FILES = {
    "letter": ("LetterRecognition.parquet", "lettr"),
    "satimage": ("Satellite.parquet", "classes"),
    "shuttle": ("Shuttle.parquet", "Class"),
    "DNA": ("DNA.parquet", "Class"),
    "pendigits": ("pendigits.csv.gz", 16),
    "adult": ("adult-train.csv.gz", 14),
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A classification set: showing the right class earns 1, any other 0."""

    name: str
    x: NDArray[np.float32]
    label: IntArray
    n_classes: int

    def shuffled(self, seed: int, *, n_rows: int) -> Labelled:
        """The first rows of a shuffle."""
        order = np.random.default_rng(seed).permutation(len(self.x))[:n_rows]
        return Labelled(self.name, self.x[order], self.label[order], self.n_classes)


def data_folder() -> Path:
    """The folder of real data.

    Raises
    ------
    InvalidInputError
        If ``NEXTOFFER_DATA_DIR`` is not set.
    """
    folder = os.environ.get("NEXTOFFER_DATA_DIR")
    if not folder:
        raise InvalidInputError(
            "NEXTOFFER_DATA_DIR is not set; set it to the folder that holds classification/, upworthy/ and hillstrom/"
        )
    return Path(folder)


def load(name: str) -> Labelled:
    """One of the six sets, encoded by a feature space (numbers standardised, text as indicators)."""
    import pandas as pd

    file, target = FILES[name]
    path = data_folder() / "classification" / file
    frame = (
        pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, header=None, skipinitialspace=True)
    )
    names, label = np.unique(frame[target].astype(str).to_numpy(dtype=str), return_inverse=True)
    rest = frame.drop(columns=[target])
    columns: dict[str, NDArray[Any]] = {}
    for column in rest.columns:
        values = rest[column]
        if name == "DNA" or pd.api.types.is_numeric_dtype(values):
            columns[str(column)] = values.astype(float).to_numpy(dtype=np.float64)
        else:
            columns[str(column)] = values.astype(str).to_numpy(dtype=str)
    return encoded(name, columns, label.astype(np.int64), len(names))


def encoded(name: str, columns: dict[str, NDArray[Any]], label: IntArray, n_classes: int) -> Labelled:
    """A set from named columns: numbers standardised, text as indicators."""
    table = DecisionTable(_classes(n_classes), np.ones((len(label), n_classes), dtype=np.bool_), columns)
    return Labelled(name, FeatureSpace.fit(table).encode_contexts(table), label, n_classes)


def _classes(n: int) -> OfferSet:
    return OfferSet([Offer(OfferId(f"class {i}")) for i in range(n)])


class Learner(Protocol):
    """A contextual bandit that is asked and told row by row."""

    def choose(self, x: NDArray[np.float32], u: float) -> tuple[int, float]:
        """Offer and its probability."""
        ...

    def tell(self, x: NDArray[np.float32], chosen: int, probability: float, reward: float) -> None:
        """What came of it."""
        ...


class Ours:
    """One of our learners, one decision and one interaction at a time; no explore share, as the peers have none."""

    def __init__(self, make: Callable[[FeatureSpace], OnlineLearner], data: Labelled) -> None:
        self.offers = _classes(data.n_classes)
        self._all = np.ones((1, data.n_classes), dtype=np.bool_)
        # Standardised already: the space passes the block through.
        block = np.stack([np.ones(data.x.shape[1]), -np.ones(data.x.shape[1])]).astype(np.float32)
        probe = DecisionTable(self.offers, np.repeat(self._all, 2, axis=0), {}, {"x": block})
        self.policy = make(FeatureSpace.fit(probe))

    def _table(self, x: NDArray[np.float32]) -> DecisionTable:
        return DecisionTable(self.offers, np.repeat(self._all, len(x), axis=0), {}, {"x": x})

    def choose(self, x: NDArray[np.float32], u: float) -> tuple[int, float]:
        """Draw from the policy's probabilities."""
        p = self.policy.probabilities(DecisionTable(self.offers, self._all, {}, {"x": x[None]}))
        chosen = int(draw(p, np.asarray([u]))[0])
        return chosen, float(p[0, chosen])

    def tell(self, x: NDArray[np.float32], chosen: int, probability: float, reward: float) -> None:
        """Learn from one interaction."""
        self.policy.learn(
            InteractionBatch(
                DecisionTable(self.offers, self._all, {}, {"x": x[None]}),
                np.asarray([chosen]), np.asarray([probability]), np.asarray([reward]),
            )
        )  # fmt: skip

    def warm_start(self, x: NDArray[np.float32], label: IntArray) -> None:
        """Learn from labelled rows: what every offer would have earned."""
        teach(self.policy, self._table(x), np.eye(len(self.offers))[label])


class MABWiser:
    """MABWiser's learners with its own defaults."""

    def __init__(self, kind: str, data: Labelled) -> None:
        mab = import_module("mabwiser.mab")
        self._arms = list(range(data.n_classes))
        self._mab: Any = mab.MAB(self._arms, getattr(mab.LearningPolicy, kind)())
        self._begun = False

    def choose(self, x: NDArray[np.float32], u: float) -> tuple[int, float]:
        """Its choice; it states no probability."""
        if not self._begun:
            return int(u * len(self._arms)), 1.0
        return int(self._mab.predict(x[None].astype(np.float64))), 1.0

    def tell(self, x: NDArray[np.float32], chosen: int, probability: float, reward: float) -> None:
        """Learn from one row."""
        learn = self._mab.partial_fit if self._begun else self._mab.fit
        learn([chosen], [reward], x[None].astype(np.float64))
        self._begun = True


class Coba:
    """coba's learners with its own defaults, offers as one-hot actions."""

    def __init__(self, kind: str, data: Labelled) -> None:
        k = data.n_classes
        self._learner: Any = getattr(import_module("coba.learners"), kind)()
        self._actions = [tuple(float(i == j) for j in range(k)) for i in range(k)]

    def choose(self, x: NDArray[np.float32], u: float) -> tuple[int, float]:
        """Its own draw with the probability it states."""
        action, probability = self._learner.predict(tuple(x.tolist()), self._actions)[:2]
        return self._actions.index(tuple(action)), float(probability)

    def tell(self, x: NDArray[np.float32], chosen: int, probability: float, reward: float) -> None:
        """Learn from one row."""
        self._learner.learn(tuple(x.tolist()), self._actions[chosen], reward, probability)


def has(module: str) -> bool:
    """Whether an optional peer is installed."""
    return importlib.util.find_spec(module) is not None


def progressive_regret(learner: Learner, data: Labelled, *, seed: int) -> FloatArray:
    """Regret of each round, shape ``(n,)``: one minus the reward of the offer shown before its row was learned from."""
    uniforms = np.random.default_rng(seed).random(len(data.x))
    out = np.empty(len(data.x))
    for i, (x, label, u) in enumerate(zip(data.x, data.label, uniforms, strict=True)):
        chosen, probability = learner.choose(x, float(u))
        reward = float(chosen == label)
        learner.tell(x, chosen, probability, reward)
        out[i] = 1.0 - reward
    return out


def run(main: Callable[[], int]) -> int:
    """Run a benchmark's main; a failure raised on purpose is one line and exit code 2."""
    try:
        return main()
    except NextofferError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2

"""Who visits: observable traits, and the latent affinity and pace behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from policies.errors import SchemaError
from policies.records import FloatArray
from simulator.streams import Purpose, normals, uniforms


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """People to draw visitors from, with replacement.

    Parameters
    ----------
    columns
        Observable traits, each of shape ``(m,)``, float64 or text: what the site knows and policies may see.
    vectors
        Observable vectors, each ``(m, d)`` float32 (for example the state of a sequence model).
    deal_affinity
        Latent, shape ``(m,)``, mean 0 and spread 1: how much discounts move this person.
    pace
        Factor on the return rate, shape ``(m,)``, positive.
    label
        Where the people come from, for reports.
    """

    columns: Mapping[str, NDArray[Any]]
    deal_affinity: FloatArray
    pace: FloatArray
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    label: str = "synthetic"

    def __post_init__(self) -> None:
        m = len(self.deal_affinity)
        for name, column in {**self.columns, **self.vectors, "pace": self.pace}.items():
            if len(column) != m:
                raise SchemaError(f"{name!r} of a population has {len(column)} rows; expected {m}, one per person")
        if not np.isfinite(self.deal_affinity).all() or not (self.pace > 0).all():
            raise SchemaError("deal_affinity must be finite and pace positive for every person of a population")

    def __len__(self) -> int:
        return len(self.deal_affinity)

    def digest(self) -> str:
        """Hash of everything about these people, 64 hexadecimal digits."""
        out = hashlib.sha256()
        for name in sorted(self.columns):
            out.update(name.encode() + np.ascontiguousarray(self.columns[name]).tobytes())
        for name in sorted(self.vectors):
            out.update(name.encode() + np.ascontiguousarray(self.vectors[name]).tobytes())
        out.update(self.deal_affinity.tobytes() + self.pace.tobytes())
        return out.hexdigest()

    @classmethod
    def synthetic(cls, *, size: int = 4096, seed: int = 0) -> Self:
        """People made up from two traits, for tests and where no data is at hand."""
        ids = np.arange(size, dtype=np.int64)
        affinity = normals(seed, ids, Purpose.TRAITS, 0)
        shown = 0.7 * affinity + np.sqrt(1 - 0.49) * normals(seed, ids, Purpose.TRAITS, 1)
        age = np.where(uniforms(seed, ids, Purpose.TRAITS, 4) < 0.5, "19-44", "45+")
        return cls(
            columns={"deal_share": 0.3 + 0.1 * shown, "age": age.astype(np.str_)},
            deal_affinity=affinity,
            pace=np.exp(0.3 * normals(seed, ids, Purpose.TRAITS, 6)),
        )

"""Weights of offer attributes instead of offers, for catalogues with many offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from offline_eval.estimators.base import Column, Rows, Total, Value, mean_of, ratio_of
from policies.errors import InvalidInputError
from policies.records import FloatArray, OfferSet


def attribute_groups(offers: OfferSet, attributes: Sequence[str]) -> tuple[int, ...]:
    """Number of the combination of attributes each offer has: offers with all of them alike share a number.

    Raises
    ------
    InvalidInputError
        If no offer has one of the attributes.
    """
    for name in attributes:
        if not any(name in o.features for o in offers):
            raise InvalidInputError(f"no offer has the attribute {name!r}; expected one of their features")
    seen: dict[tuple[object, ...], int] = {}
    return tuple(seen.setdefault(tuple(o.features.get(a) for a in attributes), len(seen)) for o in offers)


@dataclass(frozen=True, slots=True)
class MarginalizedIPS:
    """IPS with the weight of the shown offer's attributes (MIPS).

    Parameters
    ----------
    groups
        Number of each offer's combination of attributes, from ``attribute_groups``. The *joint* combination counts:
        multiplying weights of single attributes is wrong unless they are independent given the context.
    is_normalised
        Divide by the mean weight.
    label
        What the attributes are called, where a panel holds several of these.

    Notes
    -----
    Unbiased if an offer acts on the reward through these attributes only; otherwise it has a bias that no interval here
    knows. Needs whole logged distributions.

    References
    ----------
    Saito and Joachims (2022), "Off-policy evaluation for large action spaces via embeddings".
    """

    groups: tuple[int, ...]
    is_normalised: bool = False
    label: str = ""
    needs_model: bool = False

    @property
    def name(self) -> str:
        """MIPS or SN-MIPS, with the label."""
        name = "SN-MIPS" if self.is_normalised else "MIPS"
        return f"{name} ({self.label})" if self.label else name

    @property
    def _key(self) -> str:
        return f"mips{self.groups}"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Weight of the attributes, and times the reward."""
        weight = Column(self._key, self._weight)
        return (weight, Column(f"{self._key}*r", lambda rows: rows.column(weight) * rows.reward))

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``mean(w(x, e) r)``, or that over ``mean(w(x, e))``."""
        if self.is_normalised:
            return ratio_of(f"{self._key}*r", self._key, totals)
        return mean_of(f"{self._key}*r", totals)

    def _weight(self, rows: Rows) -> FloatArray:
        if rows.target is None and rows.logged is None:
            return np.ones_like(rows.reward)  # the logging policy against itself
        if rows.logged is None or rows.target is None:
            raise InvalidInputError("MIPS needs the whole logged distribution; log probabilities of all offers")
        if len(self.groups) != rows.target.shape[1]:
            raise InvalidInputError(
                f"groups has {len(self.groups)} numbers; expected {rows.target.shape[1]}, one per offer"
            )
        group = np.asarray(self.groups)
        same = group[None, :] == group[rows.chosen][:, None]
        return np.asarray((rows.target * same).sum(axis=1) / (rows.logged * same).sum(axis=1))

"""A policy of one's own: with some probability what the visitor saw last, else the first eligible offer of a list."""

from __future__ import annotations

import numpy as np

from policies.artifact import Artifact
from policies.errors import InvalidInputError
from policies.fixed import FixedOrder
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray


class Sticky:
    """Stay with the offer named in a context column, where it may be shown.

    Parameters
    ----------
    order
        Offer ids, best first, for everyone else.
    stay
        Probability of staying, in [0, 1].
    column
        Context column with the id of the offer that was shown last; missing or unknown: nothing to stay with.
    """

    name = "sticky"  # the kind under which the entry point loads it again
    traits = PolicyTraits()  # probabilities in closed form, and the order of offers does not matter

    def __init__(self, order: tuple[str, ...], *, stay: float = 0.8, column: str = "last_offer") -> None:
        if not order or not 0.0 <= stay <= 1.0:
            raise InvalidInputError(f"order {order}, stay {stay}; expected at least one offer, and a probability")
        self.order, self.stay, self.column = order, stay, column
        self._rest = FixedOrder(order)

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Distribution of each decision, shape ``(n, k)``. Nothing is drawn here: ``policies.sampling.decide`` draws."""
        out = self._rest.probabilities(table)
        last = table.columns.get(self.column)
        if last is None:
            return out
        is_last = np.asarray([[offer == name for offer in table.offers.ids] for name in last]) & table.eligible
        stays = is_last.any(axis=1)
        out[stays] = (1.0 - self.stay) * out[stays] + self.stay * is_last[stays]
        return out

    def to_artifact(self) -> Artifact:
        """Everything needed to act the same elsewhere, as plain values."""
        return Artifact(self.name, {"order": list(self.order), "stay": self.stay, "column": self.column})


def load(artifact: Artifact) -> Sticky:
    """Entry point of kind ``sticky``."""
    m = artifact.manifest
    return Sticky(tuple(m["order"]), stay=m["stay"], column=m["column"])

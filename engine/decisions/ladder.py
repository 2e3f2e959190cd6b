"""The fallback ladder: policy, last good snapshot, baseline order; each rung gives a valid distribution to draw from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from engine.registry.versions import LoadedPolicy, Registry
from engine.rewards.attribution import BOT
from policies.errors import NoEligibleOfferError
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, PolicyRef
from policies.sampling import decide_one

BASELINE = "baseline"
APPRENTICE = "apprentice"

_log = logging.getLogger("nextoffer.decisions")


class BaselineOrder:
    """Shows the first eligible offer of a fixed order; offers not named follow in catalogue order.

    Parameters
    ----------
    order
        Offer ids, best first.
    """

    name = BASELINE
    traits = PolicyTraits(probabilities="exact", is_order_sensitive=True)

    def __init__(self, order: Sequence[str]) -> None:
        self._order = tuple(order)

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """All mass on the first eligible offer of each row."""
        position = {offer: i for i, offer in enumerate(self._order)}
        rank = np.asarray([position.get(offer, len(self._order) + i) for i, offer in enumerate(table.offers.ids)])
        first = np.where(table.eligible, rank, np.iinfo(np.int64).max).argmin(axis=1)
        out = np.zeros(table.eligible.shape)
        out[np.arange(len(table)), first] = 1.0
        return out


@lru_cache(maxsize=1024)
def baseline(order: tuple[str, ...]) -> LoadedPolicy:
    """Last rung of a placement; its version is the hash of the order."""
    version = hashlib.sha256("\x00".join(order).encode()).hexdigest()[:16]
    return LoadedPolicy(BaselineOrder(order), PolicyRef(BASELINE, version), version, "")


@lru_cache(maxsize=1024)
def bot_order(order: tuple[str, ...]) -> LoadedPolicy:
    """What machines are answered with: the baseline order under a name of its own, so that readers can leave it out."""
    version = baseline(order).ref.version
    return LoadedPolicy(BaselineOrder(order), PolicyRef(BOT, version), version, "")


@dataclass(frozen=True, slots=True, eq=False)
class Rung:
    """What a decision was drawn from (shape ``(k,)``), which offer, which policy answered, and why those above did not."""

    probabilities: list[float]
    chosen: int
    loaded: LoadedPolicy
    name: str
    faults: tuple[str, ...]


class Ladder:
    """Tries each rung in turn; remembers the last snapshot of each policy that answered well."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._last_good: dict[str, LoadedPolicy] = {}
        self.n_faults = 0

    def draw(
        self, ref: str | None, table: DecisionTable, *, uniform: float, explore_share: float, order: tuple[str, ...]
    ) -> Rung:
        """Draw one offer for a table of one row.

        Raises
        ------
        NoEligibleOfferError
            If nothing may be shown.
        """
        faults: list[str] = []
        if ref is not None and ref != BASELINE:
            for name, loaded in self._snapshots(ref, faults):
                try:
                    drawn = decide_one(loaded.policy, table, uniform=uniform, explore_share=explore_share)
                except NoEligibleOfferError:
                    raise
                except Exception as error:  # a plug-in may raise anything, and the page must not break
                    self._fault(faults, f"{loaded.ref} failed ({type(error).__name__}: {error})")
                    continue
                if name == "policy":
                    self._last_good[ref] = loaded
                return Rung(*drawn, loaded, name, tuple(faults))
        last = baseline(order)
        drawn = decide_one(last.policy, table, uniform=uniform, explore_share=explore_share)
        return Rung(*drawn, last, "baseline", tuple(faults))

    def draw_baseline(self, ref: str | None, table: DecisionTable, *, uniform: float, order: tuple[str, ...]) -> Rung:
        """Answer with the baseline order for certain: to a machine (``ref`` is ``bot``), or in the place of a policy that learns from it.

        An apprentice's decision carries its policy's name, and the version of the order as its snapshot.
        """
        if ref == BOT:
            loaded = bot_order(order)
        elif ref is None or ref == BASELINE:
            loaded = baseline(order)
        else:
            apprentice = self._registry.find(ref)
            order_version = baseline(order).ref.version
            loaded = LoadedPolicy(baseline(order).policy, apprentice.ref, order_version, "")
        drawn = decide_one(loaded.policy, table, uniform=uniform, explore_share=0.0)
        name = BOT if ref == BOT else "baseline" if loaded.ref.name == BASELINE else APPRENTICE
        return Rung(*drawn, loaded, name, ())

    def _snapshots(self, ref: str, faults: list[str]) -> Iterator[tuple[str, LoadedPolicy]]:
        current: LoadedPolicy | None = None
        try:
            current = self._registry.load(ref)
        except Exception as error:  # a damaged artefact is one more way for a policy to be absent
            self._fault(faults, f"{ref} could not be loaded ({type(error).__name__}: {error})")
        if current is not None:
            yield "policy", current
        last_good = self._last_good.get(ref)
        if last_good is not None and last_good is not current:
            yield "last_good", last_good

    def _fault(self, faults: list[str], text: str) -> None:
        self.n_faults += 1
        faults.append(text)
        if self.n_faults.bit_count() == 1:  # 1, 2, 4, 8, …: a broken policy must not fill the disk that the log needs
            _log.warning("policy fault %d: %s", self.n_faults, text)

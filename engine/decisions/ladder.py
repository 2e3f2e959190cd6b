"""The fallback ladder: policy, last good snapshot, fallback policy, baseline order; each gives a valid distribution."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from engine.experiments.records import BASELINE
from engine.registry.versions import LoadedPolicy, Registry
from engine.rewards.seen import BOT
from policies.errors import NoEligibleOfferError
from policies.protocols import Policy, PolicyTraits
from policies.records import DecisionTable, FloatArray, PolicyRef
from policies.sampling import decide_one

APPRENTICE = "apprentice"
DEADLINE_S = 0.05
MOST_BAD = 3
COOL_DOWN_S = 10.0
_MAX_FAULTY = 100

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
        self._position = {offer: i for i, offer in enumerate(self._order)}

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """All mass on the first eligible offer of each row."""
        rank = np.asarray([self._position.get(offer, len(self._order) + i) for i, offer in enumerate(table.offers.ids)])
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


class Rung(NamedTuple):
    """What a decision was drawn from (shape ``(k,)``), which offer, which policy answered, and why those above did not."""

    probabilities: list[float]
    chosen: int
    loaded: LoadedPolicy
    name: str
    faults: tuple[str, ...]


@dataclass(slots=True)
class _Breaker:
    """Faults in a row of one snapshot, and until when it is left alone."""

    n_bad: int = 0
    open_until: float = 0.0


class Ladder:
    """Tries each rung in turn: the policy, its last good snapshot, the placement's fallback policy, the baseline order.

    A call of a policy cannot be interrupted, so it is timed. A snapshot that fails or is slower than the deadline
    ``MOST_BAD`` times in a row is left alone for ``COOL_DOWN_S``; then one decision tries it again. A decision that has waited
    longer than the deadline before it could begin goes straight to the last rung.

    Parameters
    ----------
    deadline_s
        How long a policy may take.
    """

    def __init__(
        self, registry: Registry, *, deadline_s: float = DEADLINE_S, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._deadline_s = deadline_s
        self._monotonic = monotonic
        self._last_good: dict[str, LoadedPolicy] = {}
        self._last_table: dict[str, DecisionTable] = {}
        self._faulty: dict[LoadedPolicy, _Breaker] = {}
        self.n_faults = 0

    def draw(
        self,
        ref: str | None,
        table: DecisionTable,
        *,
        uniform: float,
        explore_share: float,
        order: tuple[str, ...],
        fallback: str | None = None,
        waited_s: float = 0.0,
    ) -> Rung:
        """Draw one offer for a table of one row.

        Raises
        ------
        NoEligibleOfferError
            If nothing may be shown.
        """
        faults: list[str] = []
        if waited_s > self._deadline_s:
            self._fault(
                faults, f"the request waited {waited_s * 1e3:.0f} ms; a policy has {self._deadline_s * 1e3:.0f}"
            )
        elif ref is not None and ref != BASELINE:
            for name, loaded in self._rungs(ref, fallback, faults):
                drawn = self._try(loaded, table, uniform, explore_share, faults)
                if drawn is not None:
                    if name == "policy":
                        self._last_good[ref] = loaded
                        self._last_table[ref] = table
                    return Rung(*drawn, loaded, name, tuple(faults))
        last = baseline(order)
        drawn = decide_one(last.policy, table, uniform=uniform, explore_share=explore_share)
        return Rung(*drawn, last, "baseline", tuple(faults))

    def warm(self, ref: str, policy: Policy) -> None:
        """Let a new snapshot answer once before it serves: what it caches is then made, off the path of visitors."""
        table = self._last_table.get(ref)
        if table is not None:
            decide_one(policy, table, uniform=0.5, explore_share=0.0)

    def _try(
        self, loaded: LoadedPolicy, table: DecisionTable, uniform: float, explore_share: float, faults: list[str]
    ) -> tuple[list[float], int] | None:
        started = self._monotonic()
        if self._faulty and (breaker := self._faulty.get(loaded)) is not None and started < breaker.open_until:
            faults.append(f"{loaded.ref} is left alone after {breaker.n_bad} faults in a row")
            return None
        try:
            drawn = decide_one(loaded.policy, table, uniform=uniform, explore_share=explore_share)
        except NoEligibleOfferError:
            raise
        except Exception as error:  # a plug-in may raise anything, and the page must not break
            self._count(loaded)
            self._fault(faults, f"{loaded.ref} failed ({type(error).__name__}: {error})")
            return None
        took_s = self._monotonic() - started
        if took_s > self._deadline_s:  # too late to change this answer, in time for the next ones
            self._count(loaded)
            self._fault(faults, f"{loaded.ref} took {took_s * 1e3:.0f} ms of {self._deadline_s * 1e3:.0f}")
        elif self._faulty:
            self._faulty.pop(loaded, None)
        return drawn

    def _count(self, loaded: LoadedPolicy) -> None:
        breaker = self._faulty.setdefault(loaded, _Breaker())
        breaker.n_bad += 1
        if breaker.n_bad >= MOST_BAD:
            breaker.open_until = self._monotonic() + COOL_DOWN_S
        while len(self._faulty) > _MAX_FAULTY:
            del self._faulty[next(iter(self._faulty))]

    def draw_baseline(self, ref: str | None, table: DecisionTable, *, uniform: float, order: tuple[str, ...]) -> Rung:
        """Answer with the baseline order for certain: to a machine (``ref`` is ``bot``), or in the place of a policy that learns from it.

        An apprentice's decision carries its policy's name, and the version of the order as its snapshot.
        """
        faults: list[str] = []
        if ref == BOT:
            loaded = bot_order(order)
        elif ref is None or ref == BASELINE:
            loaded = baseline(order)
        else:
            apprentice, loaded = self._load(ref, faults), baseline(order)
            if apprentice is not None:
                loaded = LoadedPolicy(loaded.policy, apprentice.ref, loaded.ref.version, "")
        drawn = decide_one(loaded.policy, table, uniform=uniform, explore_share=0.0)
        name = BOT if ref == BOT else "baseline" if loaded.ref.name == BASELINE else APPRENTICE
        return Rung(*drawn, loaded, name, tuple(faults))

    def _rungs(self, ref: str, fallback: str | None, faults: list[str]) -> Iterator[tuple[str, LoadedPolicy]]:
        current = self._load(ref, faults)
        if current is not None:
            yield "policy", current
        last_good = self._last_good.get(ref)
        if last_good is not None and last_good is not current:
            yield "last_good", last_good
        if fallback is not None and (found := self._load(fallback, faults)) is not None:
            yield "fallback", found

    def _load(self, ref: str, faults: list[str]) -> LoadedPolicy | None:
        try:
            return self._registry.load(ref)
        except Exception as error:  # a damaged artefact is one more way for a policy to be absent
            self._fault(faults, f"{ref} could not be loaded ({type(error).__name__}: {error})")
            return None

    def tell(self, rung: Rung, decision: str) -> None:
        """Log the faults of a decision: the first ever, the second, the fourth, the eighth, …; a broken policy must not fill the disk."""
        n = self.n_faults
        if n.bit_length() > (n - len(rung.faults)).bit_length():
            _log.warning("policy fault %d: %s", n, rung.faults[-1], extra={"decision": decision})

    def _fault(self, faults: list[str], text: str) -> None:
        self.n_faults += 1
        faults.append(text)

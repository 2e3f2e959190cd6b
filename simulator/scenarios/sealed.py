"""Worlds drawn for a proof and sealed: their hash is published before anything is trained, their numbers only after.

Of every three worlds two have effects worth finding and one is a trap: nothing to find (null), a training log chosen by someone who knows
the visitors better than the site (confounded), or a world where all visitors want the same, so that personalising can only harm. All
are of the second family of laws, which no calibrator here has the form of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

import numpy as np

from policies.errors import InvalidInputError
from simulator.habit import HabitParameters, HabitScenario
from simulator.population import Population

Kind = Literal["effect", "null", "confounded", "harmful"]
TRAPS: tuple[Kind, ...] = ("null", "confounded", "harmful")
# Factors and sums by which a drawn world differs from the family's own values.
_FACTORS = {
    "class_match": 0.6, "class_mismatch": 0.6, "gain_per_100_eur": 0.5, "loss_per_100_eur": 0.5, "affinity_for_deals": 0.8,
    "suspicion_of_deals": 0.8, "perk": 0.8, "match_keeps": 0.6, "perk_keeps": 0.6, "discount_end_shock": 0.8, "care_keeps": 0.6,
    "word_of_mouth": 0.8, "drop_out": 0.3, "pause_share": 0.3, "habit_per_week": 0.5,
}  # fmt: skip
_SUMS = {"click_base": 0.25, "sign_base": 0.2, "leave_base": 0.15, "search_honesty": 0.12, "discount_end_day": 5.0}
# Without these, what one visitor wants every visitor wants.
_PERSONAL = ("class_match", "class_mismatch", "affinity_for_deals", "match_keeps")
_HAND = (1.0, 2.0)


@dataclass(frozen=True, slots=True)
class SealedWorld:
    """One world of a proof.

    Parameters
    ----------
    confounding
        Strength of the hidden hand (``simulator.confounded``) that chose the training log; 0: propensities are true.
    """

    number: int
    kind: Kind
    world: HabitScenario
    confounding: float = 0.0


def sealed_worlds(n: int, *, seed: int, population: Population | None = None) -> list[SealedWorld]:
    """Draw worlds; every third is a trap, the kinds of traps in turn, in an order that the seed decides.

    Raises
    ------
    InvalidInputError
        If fewer than three are asked for: then not every kind can be there.
    """
    if n < 3:
        raise InvalidInputError(f"got {n} sealed worlds; expected at least 3: two with effects and a trap")
    rng = np.random.default_rng(seed)
    kinds: list[Kind] = [TRAPS[i // 3 % len(TRAPS)] if i % 3 == 2 else "effect" for i in range(n)]
    order = rng.permutation(n)
    return [_draw(number, kinds[int(i)], rng, population) for number, i in enumerate(order)]


def _draw(number: int, kind: Kind, rng: np.random.Generator, population: Population | None) -> SealedWorld:
    own = HabitParameters()
    plain = own.values()
    values = {n: plain[n] * (1.0 + r * rng.uniform(-1.0, 1.0)) for n, r in _FACTORS.items()}
    values |= {n: plain[n] + r * rng.uniform(-1.0, 1.0) for n, r in _SUMS.items()}
    values["discount_end_day"] = float(round(values["discount_end_day"]))
    strength = float(rng.uniform(*_HAND))
    if kind == "harmful":
        values |= dict.fromkeys(_PERSONAL, 0.0)
    laws = own.with_values(**values)
    world = HabitScenario(f"sealed-{number}", parameters=laws, population=population or Population.synthetic())
    if kind == "null":
        world = replace(world.null(), name=world.name)
    return SealedWorld(number, kind, world, strength if kind == "confounded" else 0.0)


def commitment(worlds: Sequence[SealedWorld]) -> str:
    """Hash of everything that the worlds are made of, 64 hexadecimal digits: to be published before training.

    Nothing can be read from it, and no number of any world can be changed without changing it.
    """
    told = []
    for w in worlds:
        told.append(
            {
                "number": w.number, "kind": w.kind, "confounding": w.confounding, "margin_contrast": w.world.margin_contrast,
                "parameters": {f.name: asdict(getattr(w.world.parameters, f.name)) for f in fields(w.world.parameters)},
                "offers": w.world.offers.revision, "people": w.world.population.digest(),
            }
        )  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

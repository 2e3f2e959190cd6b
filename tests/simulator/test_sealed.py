"""Sealed worlds: drawn, mixed, committed to before anyone looks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from policies.errors import InvalidInputError, UnknownNameError
from policies.fixed import Uniform
from simulator.confounded import confounded_log
from simulator.habit import HabitParameters
from simulator.rollouts import rollout
from simulator.scenarios.sealed import commitment, sealed_worlds
from simulator.truth import true_value
from tests.simulator.test_site import Always


def test_a_third_are_traps_of_three_kinds() -> None:
    """Of 200 worlds 66 are traps, 22 of each kind, and their order tells nothing: another seed gives another one."""
    worlds = sealed_worlds(200, seed=1)
    assert Counter(w.kind for w in worlds) == {"effect": 134, "null": 22, "confounded": 22, "harmful": 22}
    assert [w.kind for w in worlds] != [w.kind for w in sealed_worlds(200, seed=2)]
    assert all((w.confounding > 0) == (w.kind == "confounded") for w in worlds)
    with pytest.raises(InvalidInputError, match="at least 3"):
        sealed_worlds(2, seed=1)


def test_no_number_can_be_changed_after_the_commitment() -> None:
    """One seed gives one hash; one parameter, one kind or one person more gives another."""
    worlds = sealed_worlds(9, seed=5)
    told = commitment(worlds)
    assert told == commitment(sealed_worlds(9, seed=5))
    assert told != commitment(sealed_worlds(9, seed=6))
    moved = replace(worlds[0].world, parameters=worlds[0].world.parameters.with_values(perk=0.5))
    assert told != commitment([replace(worlds[0], world=moved), *worlds[1:]])
    assert told != commitment([replace(worlds[0], confounding=0.5), *worlds[1:]])
    people = worlds[0].world.population
    other = replace(people, pace=people.pace * 1.01)
    assert told != commitment([replace(worlds[0], world=replace(worlds[0].world, population=other)), *worlds[1:]])


def test_every_kind_is_what_it_says() -> None:
    """In null worlds two offers earn the same to the cent; in harmful ones no visitor's taste differs; all of them sell."""
    worlds = sealed_worlds(9, seed=3)
    for w in worlds:
        assert rollout(w.world, Uniform(), n_subjects=600, seed=1).rewards["subscribed"].sum() > 0
        personal = {n: w.world.parameters.values()[n] for n in ("class_match", "affinity_for_deals")}
        assert (set(personal.values()) == {0.0}) == (w.kind in ("null", "harmful"))
        if w.kind == "null":
            a, b = (true_value(w.world, Always(o), n_subjects=1_000, seed=2) for o in ("suv_deal", "city_flex"))
            assert a.difference(b, "margin_eur") == (0.0, 0.0)


def test_the_hidden_hand_knows_the_people_of_this_family_too() -> None:
    """Its log favours discounts for those who love them, beyond what the believed propensities say."""
    (first, *_) = [w for w in sealed_worlds(9, seed=3) if w.kind == "confounded"]
    believed, honest = confounded_log(first.world, n_subjects=2_000, seed=4, strength=first.confounding)
    np.testing.assert_array_equal(believed.chosen, honest.chosen)
    deal = first.world.offers.index_of("compact_deal")
    visitor = honest.table.columns["stage"] == "visitor"
    ids = np.asarray([int(str(s).lstrip("v")) for s in np.asarray(honest.table.subjects)[visitor]])
    affinity = first.world.population.deal_affinity[first.world.person_of(ids, seed=4)]
    assert honest.probabilities is not None
    assert np.corrcoef(affinity, honest.probabilities[visitor, deal])[0, 1] > 0.5


def test_misspelt_parameters_are_named() -> None:
    """A parameter the family does not have is refused with the nearest one."""
    with pytest.raises(UnknownNameError, match="drop_out"):
        HabitParameters().with_values(dropout=0.1)

"""The laws of the simulated site, and that a subject's fate is its own."""

from __future__ import annotations

import numpy as np
import pytest

from policies.errors import InvalidInputError, UnknownNameError
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray
from simulator import world
from simulator.parameters import WorldParameters
from simulator.rollouts import credit, rollout
from simulator.scenarios.car_subscription import NO_OFFER, Scenario, reference
from simulator.site import LiveSite
from simulator.streams import Purpose, normals, uniforms
from simulator.truth import true_value


class Uniform:
    """Every eligible offer alike."""

    name = "uniform"
    traits = PolicyTraits()

    def probabilities(self, table: DecisionTable) -> FloatArray:
        return np.asarray(table.eligible / table.eligible.sum(axis=1, keepdims=True), dtype=np.float64)


class Always:
    """One offer, or nothing where it may not be shown."""

    traits = PolicyTraits()

    def __init__(self, offer: str) -> None:
        self.name, self._offer = f"always {offer}", offer

    def probabilities(self, table: DecisionTable) -> FloatArray:
        out = np.zeros(table.eligible.shape)
        wanted = np.where(table.eligible[:, table.offers.index_of(self._offer)], table.offers.index_of(self._offer), 0)
        out[np.arange(len(table)), wanted] = 1.0
        return out


def test_streams_do_not_depend_on_the_batch() -> None:
    """A subject's numbers are the same alone, in a batch and in another order."""
    ids = np.asarray([5, 17, 3, 900_001])
    together = uniforms(7, ids, Purpose.CLICK, np.asarray([0, 4, 2, 9]))
    alone = [uniforms(7, ids[i : i + 1], Purpose.CLICK, c)[0] for i, c in enumerate((0, 4, 2, 9))]
    assert together.tolist() == alone
    assert uniforms(7, ids, Purpose.CLICK, 0).tolist() != uniforms(7, ids, Purpose.CONVERT, 0).tolist()


def test_streams_are_uniform_and_normal() -> None:
    """The hashed numbers have the moments of the distributions they stand for, within four standard errors."""
    ids = np.arange(200_000)
    u, z = uniforms(1, ids, Purpose.DRAW, 3), normals(1, ids, Purpose.TASTE, 0)
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(u))
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / np.sqrt(len(u))
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / len(z))


def test_batching_changes_no_fate() -> None:
    """Two halves of a cohort live the same lives as the whole."""
    whole = rollout(reference(), Uniform(), n_subjects=300, seed=4)
    parts = [rollout(reference(), Uniform(), n_subjects=150, seed=4, first_subject=f) for f in (0, 150)]
    for name in ("subscribed", "kept_30d", "margin_eur", "n_visits"):
        joined = np.concatenate([getattr(p.subjects, name) for p in parts])
        np.testing.assert_array_equal(getattr(whole.subjects, name), joined)


def test_same_seed_same_log() -> None:
    """A rollout is a function of its seed."""
    a, b, c = (rollout(reference(), Uniform(), n_subjects=200, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.chosen, b.chosen)
    np.testing.assert_array_equal(a.rewards["margin_eur"], b.rewards["margin_eur"])
    assert a.chosen.tolist() != c.chosen.tolist()


def test_null_world_makes_no_difference() -> None:
    """Where offers make no difference, every visitor meets the same fate under any policy."""
    null = reference().null()
    a = true_value(null, Always("compact_deal"), n_subjects=3_000, seed=2)
    b = true_value(null, Always("suv_care"), n_subjects=3_000, seed=2)
    assert a.value("subscribed")[0] > 0
    for outcome in ("subscribed", "kept_30d", "margin_eur"):
        assert a.difference(b, outcome) == (0.0, 0.0)


def test_offers_matter_in_the_reference_world() -> None:
    """A good deal sells more than showing nothing, beyond ten standard errors of the paired difference."""
    deal = true_value(reference(), Always("compact_deal"), n_subjects=4_000, seed=2)
    nothing = true_value(reference(), Always(NO_OFFER), n_subjects=4_000, seed=2)
    mean, error = deal.difference(nothing, "subscribed")
    assert mean > 10 * error


def test_a_higher_price_never_raises_acceptance() -> None:
    """Click and contract probabilities fall with the price, whoever asks."""
    scenario = reference()
    subjects = world.Subjects.draw(scenario, np.arange(50), seed=1)
    cheap = world.OfferNumbers.of(scenario)
    rows, chosen, rested = np.arange(50), np.full(50, 3), np.zeros(50)
    p = scenario.parameters.values()
    before = world.appeal(p, subjects, rows, cheap, chosen, rested)
    dearer = world.OfferNumbers(
        **{n: getattr(cheap, n) for n in world.OfferNumbers.__slots__} | {"price": cheap.price + 50}
    )
    after = world.appeal(p, subjects, rows, dearer, chosen, rested)
    assert (world.click_probability(p, after) < world.click_probability(p, before)).all()
    assert (world.contract_probability(p, after) < world.contract_probability(p, before)).all()


def test_signing_delay_is_zero_inflated_and_cut() -> None:
    """The share signed at once is the parameter, and nobody signs after the cut."""
    p = WorldParameters().values()
    u = (np.arange(100_000) + 0.5) / 100_000
    days = world.signing_delay_days(p, u)
    assert abs((days == 0).mean() - p["delay_zero_share"]) < 1e-4
    assert days.max() == world.MAX_DELAY_DAYS
    uncut = days[(days > 0) & (days < world.MAX_DELAY_DAYS)]
    assert abs((uncut == 1).mean() - (1 / p["delay_mean_days"]) / (1 - (1 - 1 / p["delay_mean_days"]) ** 13)) < 1e-3


def test_subscribers_and_visitors_see_their_own_offers() -> None:
    """Loyalty offers go to subscribers only, contracts to everyone else, and nothing to see is always allowed."""
    run = rollout(reference(), Uniform(), n_subjects=2_000, seed=3)
    offers, stage = run.table.offers, run.table.columns["stage"]
    is_subscriber = stage == "subscriber"
    assert is_subscriber.any()
    loyal = run.table.eligible[:, offers.index_of("loyal_care")]
    np.testing.assert_array_equal(loyal, is_subscriber)
    assert run.table.eligible[:, 0].all()
    assert not run.table.eligible[is_subscriber][:, offers.index_of("suv_deal")].any()


def test_credit_goes_to_the_last_decision_before_signing() -> None:
    """Worked by hand: two subjects, one signs on day 4 after visits on days 0, 3 and 6."""
    row = np.asarray([0, 1, 0, 1, 0])
    day = np.asarray([0, 1, 3, 4, 6])
    assert credit(row, day, np.asarray([4, -1])).tolist() == [False, False, True, False, False]


def test_every_outcome_is_credited_once() -> None:
    """Rewards of decisions add up to the outcomes of subjects."""
    run = rollout(reference(), Uniform(), n_subjects=2_000, seed=5)
    assert run.rewards["subscribed"].sum() == run.subjects.subscribed.sum()
    assert run.rewards["kept_30d"].sum() == run.subjects.kept_30d.sum()
    assert run.subjects.is_matured.all()
    assert (run.subjects.kept_30d <= run.subjects.subscribed).all()


def test_a_cut_rollout_marks_open_windows() -> None:
    """Visitors whose windows reach beyond the end are not matured."""
    run = rollout(reference(), Uniform(), n_subjects=500, seed=5, visit_days=20, follow_days=50)
    assert 0 < run.subjects.is_matured.sum() < 500


def test_days_move_forward() -> None:
    """Nobody visits twice a day, and a subject who has cancelled does not come back."""
    site = LiveSite(reference(), n_subjects=400, visit_days=3, seed=9)
    seen: set[tuple[int, int]] = set()
    gone: set[int] = set()
    for day in range(40):
        visits = site.visits(day)
        for row in visits.rows.tolist():
            assert (row, day) not in seen
            assert row not in gone
            seen.add((row, day))
        site.respond(visits, np.zeros(len(visits), dtype=np.int64))
        gone.update(site.end_of_day(day).cancelled.tolist())


def test_unknown_parameter_names_the_nearest() -> None:
    """A misspelt parameter is refused with what was probably meant."""
    with pytest.raises(UnknownNameError, match="did you mean 'click_base'"):
        WorldParameters().with_assumed(clik_base=0.1)


@pytest.mark.parametrize(
    ("name", "value"), [("delay_zero_share", 1.0), ("price_sensitivity", -0.1), ("fatigue_decay_per_day", 1.2),
                        ("delay_mean_days", 0.5), ("cancel_per_day", -0.01), ("lapsed_share", 1.5)],
)  # fmt: skip
def test_parameters_outside_their_range_are_refused(name: str, value: float) -> None:
    """A share above one or a price that attracts is refused by name, before it becomes a nan in somebody's log."""
    with pytest.raises(InvalidInputError, match=rf"{name} is {value}; expected a number in \["):
        WorldParameters().with_assumed(**{name: value})


def test_every_parameter_says_where_it_came_from() -> None:
    """Provenance and reason are there for each, and a fitted value carries its source."""
    fitted = WorldParameters().with_fitted({"return_rate_per_day": (0.2, 0.01, "a panel")})
    rows = {r["name"]: r for r in fitted.table()}
    assert rows["return_rate_per_day"]["provenance"] == "fitted"
    assert rows["return_rate_per_day"]["standard_error"] == 0.01
    assert all(r["reason"] for r in rows.values())
    assert isinstance(Scenario("s", parameters=fitted), Scenario)

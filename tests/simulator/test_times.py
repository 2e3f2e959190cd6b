"""When visitors come back and sign: by hand, against known truths, and where a log says little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad

from policies.errors import InvalidInputError
from policies.fixed import Uniform
from simulator.evidence import seen_from_the_start
from simulator.rollouts import Rollout, rollout
from simulator.scenarios.car_subscription import reference
from simulator.times import (
    TIMES,
    TimesSeen,
    delay_counts,
    delays_of,
    fit_times,
    returns_loss,
    returns_of,
    settled,
    times_seen,
)


def _seen(n_returns: list[int], n_days: list[int], delay: list[int]) -> TimesSeen:
    return TimesSeen(*(np.asarray(x, dtype=np.int64) for x in (n_returns, n_days, delay)))


def test_delays_by_hand() -> None:
    """Four of ten at once; the others sign on 5 of 1 + 2 + 2 + 3 + 4 + 13 days at risk, and the likelihood finds those shares."""
    delays = [0, 0, 0, 0, 1, 2, 2, 3, 4, 14]
    assert delay_counts(np.asarray(delays)) == (4, 6, 5, 25)
    # A hundred times as many: the priors say little beside them.
    found = fit_times(_seen([1, 2] * 500, [13] * 1000, delays * 100)).natural()
    assert abs(found["delay_zero_share"] - 0.4) < 0.002
    assert abs(found["delay_mean_days"] - 25 / 5) < 0.05


@pytest.mark.slow
def test_errors_are_those_of_repeated_logs() -> None:
    """Over a hundred logs of three hundred visitors the squared errors are one squared standard error on average, within a third."""
    rng = np.random.default_rng(11)
    truth = {"return_rate_per_day": 0.15, "return_rate_spread": 0.5, "delay_zero_share": 0.55, "delay_mean_days": 3.5}
    squares: dict[str, list[float]] = {name: [] for name in truth}
    for _ in range(100):
        days = rng.integers(3, 14, size=300)
        rate = np.minimum(0.15 * np.exp(0.5 * rng.normal(size=300)), 0.95)
        later = np.minimum(rng.geometric(1 / 3.5, size=300), 14)
        delay = np.where(rng.random(300) < 0.55, 0, later)
        fit = fit_times(TimesSeen(rng.binomial(days, rate), days, delay))
        errors = fit.standard_errors()
        for name, value in fit.natural().items():
            squares[name].append(((value - truth[name]) / errors[name]) ** 2)
    for name, each in squares.items():
        assert 0.5 < np.mean(each) < 1.35, (name, np.mean(each))


def test_what_a_log_cannot_tell_keeps_its_prior_and_is_named() -> None:
    """Nobody came back and everybody signed at once: no spread of rates and no mean delay, and neither is called identified."""
    fit = fit_times(_seen([0] * 50, [13] * 50, [0] * 50))
    assert not {"return_rate_spread", "delay_mean_days"} & set(fit.identified())
    assert "delay_zero_share" in fit.identified()
    wide = np.sqrt(np.diag(fit.covariance))[[1, 3]]
    np.testing.assert_allclose(wide, [TIMES[1].prior_sd, TIMES[3].prior_sd], rtol=0.25)
    assert np.isfinite(fit.covariance).all()
    without = fit_times(_seen([1, 0, 2, 5] * 50, [13] * 200, [-1] * 200))
    assert set(without.identified()) == {"return_rate_per_day", "return_rate_spread"}


def test_people_watched_for_a_year_are_integrated_over_finely_enough() -> None:
    """Rates of a hundred returns each are nearly seen: the loss is that of adaptive quadrature, person by person."""
    rng = np.random.default_rng(2)
    days = rng.integers(250, 360, size=40)
    returns = rng.binomial(days, np.minimum(0.2 * np.exp(0.9 * rng.normal(size=40)), 0.9))
    theta = np.asarray([np.log(0.2), np.log(0.9)])

    def exactly(r: int, n: int) -> float:
        def density(z: float) -> float:
            rate = min(0.2 * np.exp(0.9 * z), 0.95)
            return float(np.exp(r * np.log(rate) + (n - r) * np.log1p(-rate) - top - 0.5 * z * z) / np.sqrt(2 * np.pi))

        share = max(r, 0.5) / n
        top = r * np.log(share) + (n - r) * np.log1p(-share)
        peak = (np.log(share) - np.log(0.2)) / 0.9
        return float(top + np.log(quad(density, -8, 8, points=[peak - 0.3, peak, peak + 0.3], limit=400)[0]))

    expected = -sum(exactly(int(r), int(n)) for r, n in zip(returns, days, strict=True))
    np.testing.assert_allclose(returns_loss(returns, days)(theta), expected, rtol=1e-4)


def test_flat_ground_is_no_estimate() -> None:
    """A search that ends where the loss does not curve is refused instead of giving an error that is no number."""
    with pytest.raises(InvalidInputError, match="did not settle"):
        settled(lambda x: float(x[0] ** 2), np.asarray([1.0, 1.0]))


def test_returns_and_delays_of_a_log_cut_short() -> None:
    """Nobody is watched longer than the log lasts, and contracts too young for every delay are left out."""
    run = rollout(reference(), Uniform(), n_subjects=600, visit_days=20, follow_days=0, seed=3)
    n_returns, n_days = returns_of(run)
    assert (n_returns <= n_days).all()
    first = np.full(600, 99)
    np.minimum.at(first, run.row, run.day)
    assert (n_days <= np.maximum(19 - first[np.unique(run.row)], 0)).all()
    delays = delays_of(run)
    signed_early = (run.subjects.signed_day >= 0) & (run.subjects.signed_day < 6)
    assert 0 < len(delays) <= (run.subjects.signed_day >= 0).sum()
    assert len(delays) >= signed_early.sum()
    assert np.array_equal(np.sort(times_seen(run).delay[times_seen(run).delay >= 0]), np.sort(delays))


def test_several_visits_of_a_day_are_one_return() -> None:
    """A page loaded five times an hour is one day in the market: returns stay below days at risk."""
    run = rollout(reference(), Uniform(), n_subjects=300, seed=3)
    again = np.repeat(np.arange(len(run.row)), 5)
    crowded = replace(
        run,
        row=run.row[again],
        day=run.day[again],
        rewards={n: v[again] * (np.arange(len(again)) % 5 == 4) for n, v in run.rewards.items()},
    )
    for one, five in zip(returns_of(run), returns_of(crowded), strict=True):
        np.testing.assert_array_equal(one, five)


def _without_first_days(run: Rollout, day: int) -> Rollout:
    keep = np.flatnonzero(run.day >= day)
    return replace(
        run, table=run.table.take(keep), chosen=run.chosen[keep], probabilities=run.probabilities[keep], row=run.row[keep],
        day=run.day[keep], rewards={n: v[keep] for n, v in run.rewards.items()},
    )  # fmt: skip


def test_visitors_whose_first_visit_the_log_missed_are_left_out() -> None:
    """A log that begins on day five gives the return rate of a whole one, because who came before is not taken for a newcomer."""
    run = rollout(reference(), Uniform(), n_subjects=4_000, seed=3)
    late = _without_first_days(run, 5)
    known = seen_from_the_start(late)
    assert set(np.unique(known.row)) == set(np.unique(run.row[(run.day >= 5) & (run.table.columns["n_visits"] == 0)]))
    whole, cut = fit_times(times_seen(run)), fit_times(times_seen(known))
    assert abs(cut.mode[0] - whole.mode[0]) < 3 * np.sqrt(cut.covariance[0, 0])
    assert seen_from_the_start(run) is run
    with pytest.raises(InvalidInputError, match="no visitor whose first visit"):
        seen_from_the_start(
            replace(
                late,
                table=replace(
                    late.table, columns={**late.table.columns, "n_visits": late.table.columns["n_visits"] + 1}
                ),
            )
        )

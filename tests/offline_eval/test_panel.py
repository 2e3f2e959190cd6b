"""The panel: what it says of good logs, of bad logs, and of input that is no log."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from offline_eval import LOGGED, evaluate
from offline_eval.diagnostics import calibration_table, effective_sample_size, tail_index, value_over_time
from offline_eval.estimators import ClippedIPS, DirectMethod, Estimator, Replay, SelfNormalisedIPS, default_estimators
from offline_eval.log_records import LogRecord
from offline_eval.moments import Accumulator, Grouping, Moments, hash_numbers, hash_text, resampled
from offline_eval.one_pass import Pass, read_once
from offline_eval.reward_models import cross_fit, fit_logistic, fit_ridge, subject_folds
from offline_eval.summaries import RepeatedIds
from policies.contract import check_reward_model
from policies.errors import InvalidInputError, ProbabilityError, SupportError, UnknownNameError
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, InteractionBatch
from tests.offline_eval.worlds import Better, Guess, offer_set, tiny_log, world


def test_recommends_what_is_better_and_refuses_what_is_worse() -> None:
    """On a log with support the better policy is recommended and, seen from it, the worse one is not to be used."""
    w = world(n=6000, n_subjects=2500)
    panel = evaluate(w.log, {"better": w.better, "uniform": w.uniform}, seed=1)
    assert panel.verdicts["better"].word == "recommend"
    for name, target in (("better", w.better), ("uniform", w.uniform)):
        for estimator in ("IPS", "SNIPS", "DR", "SNDR"):
            e = panel.estimate(name, estimator)
            assert e.value is not None
            assert e.standard_error is not None
            assert abs(e.value - w.truth(target)) < 4 * e.standard_error
    turned = evaluate(w.log, {"better": w.better, "uniform": w.uniform}, incumbent="better")
    assert turned.verdicts["uniform"].word == "do not use"
    assert turned.difference("better", "uniform").value == pytest.approx(-turned.differences["uniform"]["SNDR"].value)  # type: ignore[operator]


def test_differences_are_narrower_than_unpaired_ones() -> None:
    """Judging on the same rows makes a difference more certain than two separate estimates would."""
    w = world(n=5000)
    near = 0.9 * w.uniform + 0.1 * w.better
    panel = evaluate(w.log, {"near": near, "uniform": w.uniform}, incumbent="uniform")
    told = panel.differences["near"]["DR"].standard_error
    apart = [panel.estimate(c, "DR").standard_error for c in ("near", "uniform")]
    assert told is not None
    assert apart[0] is not None
    assert told < 0.5 * apart[0]


def test_bootstrap_agrees_with_influence_functions() -> None:
    """Percentiles of resampled subjects are about as wide as the influence-function interval on a large sample."""
    w = world(n=6000, n_subjects=1500)
    panel = evaluate(w.log, {"better": w.better}, n_resamples=400)
    for by_name in (panel.estimates["better"], panel.differences["better"]):
        for name, e in by_name.items():
            assert e.bounds is not None
            assert e.bootstrap is not None
            assert e.bootstrap.half_width == pytest.approx(e.bounds.half_width, rel=0.2), name


def test_a_log_without_support_cannot_answer() -> None:
    """Offers that were never logged, heavy weights and few rows end in 'this log cannot answer', with what would settle it."""
    w = world(n=3000, k=4)
    only_two = np.isin(w.log.chosen, [0, 1])
    log = w.log.take(np.flatnonzero(only_two))
    share = np.asarray(log.probabilities)[:, :2].sum(axis=1)
    log = InteractionBatch(log.table, log.chosen, log.propensity / share, log.reward)
    target = np.tile([0.05, 0.05, 0.45, 0.45], (len(log), 1))
    verdict = evaluate(log, {"c": target}).verdicts["c"]
    assert verdict.word == "this log cannot answer"
    assert any("support" in reason for reason in verdict.reasons)
    assert any("offer 2" in advice and "exploration" in advice for advice in verdict.would_settle)


def test_a_log_that_lies_about_its_propensities_is_caught() -> None:
    """Propensities that are not what was drawn from fail the integrity check, and nothing is recommended on them."""
    w = world(n=8000, k=3)
    assert w.log.probabilities is not None
    lied = np.full_like(w.log.probabilities, 1 / 3)
    log = InteractionBatch(w.log.table, w.log.chosen, lied[:, 0].copy(), w.log.reward, probabilities=lied)
    always_first = np.tile([1.0, 0.0, 0.0], (len(log), 1))
    skewed = log.take(np.flatnonzero((log.chosen != 2) | (np.arange(len(log)) % 4 == 0)))
    panel = evaluate(skewed, {"first": always_first[: len(skewed)]})
    assert panel.verdicts["first"].word == "this log cannot answer"
    assert "Mend the log first" in panel.verdicts["first"].would_settle[0]


def test_deterministic_candidate_on_a_uniform_log_is_judged_on_absolute_rows() -> None:
    """A share of 1/k matching rows is arithmetic, not a fault: with enough rows a deterministic candidate is recommended."""
    rng = np.random.default_rng(0)
    n, k = 20_000, 20
    chosen = rng.integers(0, k, size=n)
    reward = (rng.random(n) < np.where(chosen == 7, 0.4, 0.1)).astype(np.float64)
    table = DecisionTable(offer_set(k), np.ones((n, k), dtype=np.bool_))
    log = InteractionBatch(table, chosen, np.full(n, 1 / k), reward)
    target = np.zeros((n, k))
    target[:, 7] = 1.0
    panel = evaluate(log, {"always 7": target})
    assert panel.effective_rows["always 7"] / n == pytest.approx(1 / k, rel=0.1)
    assert panel.verdicts["always 7"].word == "recommend"


def test_equal_candidates_are_never_recommended() -> None:
    """A candidate equal to the incumbent has a difference of exactly zero and no recommendation."""
    w = world(n=2000)
    panel = evaluate(w.log, {"same": np.asarray(w.log.probabilities)})
    assert panel.differences["same"]["SNDR"].value == pytest.approx(0.0, abs=1e-12)
    assert panel.verdicts["same"].word == "caution"


def test_json_has_no_nan_and_the_table_names_everyone() -> None:
    """A panel of a candidate that matches no row is still valid JSON, with null and a reason in place of numbers."""
    log, _, q = tiny_log(6, 3)
    target = np.zeros((6, 3))
    target[np.arange(6), (log.chosen + 1) % 3] = 1.0
    panel = evaluate(log, {"never": target}, reward_model=q)
    text = json.dumps(panel.to_json(), allow_nan=False)
    assert json.loads(text)["candidates"]["never"]["estimates"]["SNIPS"]["value"] is None
    assert panel.estimate("never", "SNIPS").note != ""
    assert panel.verdicts["never"].word == "this log cannot answer"
    assert "never" in panel.to_table()
    assert LOGGED in panel.to_table()


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_rewards_that_never_vary_give_a_right_answer(reward: float) -> None:
    """All rewards alike: every estimator with a model gives that value, and nothing is NaN."""
    w = world(n=300)
    panel = evaluate(w.log.with_reward(np.full(300, reward)), {"u": w.uniform})
    for name in ("DM", "SNIPS", "DR", "SNDR"):
        assert panel.estimate("u", name).value == pytest.approx(reward, abs=1e-6)
    json.dumps(panel.to_json(), allow_nan=False)
    assert panel.verdicts["u"].word == "this log cannot answer"


def test_two_rows_are_judged_and_one_is_refused() -> None:
    """Two rows give numbers without NaN (and no model), one row an error with what to do."""
    log, target, _ = tiny_log(2, 3)
    panel = evaluate(log, {"c": target})
    json.dumps(panel.to_json(), allow_nan=False)
    assert panel.verdicts["c"].word == "this log cannot answer"
    assert any("No reward model" in note for note in panel.notes)
    with pytest.raises(InvalidInputError, match=re.escape("expected at least two")):
        evaluate(log.take(slice(0, 1)), {"c": target[:1]})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda p: p * 2, ProbabilityError, "sum to 1"),
        (lambda p: np.where(np.arange(3) == 0, np.nan, p), ProbabilityError, "non-finite"),
        (lambda p: p - 0.5, ProbabilityError, "negative"),
        (lambda p: p[:, :2], InvalidInputError, "expected (300, 3)"),
    ],
)
def test_a_candidate_that_is_no_distribution_is_refused(change: object, error: type[Exception], words: str) -> None:
    """Sums, signs, shape and not-a-number of a candidate's probabilities are checked, by name of the candidate."""
    w = world(n=300)
    with pytest.raises(error, match=re.escape(words)):
        evaluate(w.log, {"c": change(w.uniform)})  # type: ignore[operator]


def test_bad_logs_are_refused_by_name_of_the_column() -> None:
    """Propensity 5, 0 and NaN, a NaN reward and an unknown offer are errors that name the rule and the rows."""
    log, _, _ = tiny_log(5, 3)
    for value in (5.0, 0.0, np.nan):
        with pytest.raises(SupportError, match="propensity is outside"):
            replace(log, propensity=np.full(5, value), probabilities=None)
    with pytest.raises(InvalidInputError, match="reward is not finite in 5 rows"):
        log.with_reward(np.full(5, np.nan))
    with pytest.raises(InvalidInputError, match="chosen is outside"):
        replace(log, chosen=np.full(5, 9), probabilities=None)


def test_probability_on_an_ineligible_offer_is_refused() -> None:
    """A candidate that would show what may not be shown is not judged."""
    log, target, _ = tiny_log(5, 3)
    eligible = np.ones((5, 3), dtype=np.bool_)
    eligible[2, 1] = False
    log = InteractionBatch(
        DecisionTable(log.table.offers, eligible), np.zeros(5, dtype=np.int64), np.full(5, 0.5), log.reward
    )
    with pytest.raises(ProbabilityError, match="not eligible"):
        evaluate(log, {"c": target}, fit_reward=None)


def test_unknown_names_answer_with_the_nearest() -> None:
    """A misspelt candidate, estimator or incumbent is answered with the nearest known one."""
    log, target, q = tiny_log(12, 3)
    panel = evaluate(log, {"better": target}, reward_model=q)
    with pytest.raises(UnknownNameError, match="did you mean 'better'"):
        panel.estimate("beter")
    with pytest.raises(UnknownNameError, match="SNIPS"):
        panel.estimate("better", "SNIP")
    with pytest.raises(UnknownNameError, match="incumbent"):
        evaluate(log, {"better": target}, incumbent="btter")


def test_explore_share_is_part_of_what_is_judged() -> None:
    """A policy is judged as it would be served, with its share of uniform exploration."""

    class First:
        name = "first"
        traits = PolicyTraits()

        def probabilities(self, table: DecisionTable) -> FloatArray:
            return np.tile([1.0, 0.0, 0.0], (len(table), 1))

    w = world(n=3000)
    panel = evaluate(w.log, {"served": First()}, explore_share=0.3, fit_reward=None)
    mixed = np.tile([0.8, 0.1, 0.1], (3000, 1))
    by_hand = evaluate(w.log, {"served": mixed}, fit_reward=None)
    assert panel.estimate("served", "IPS").value == pytest.approx(by_hand.estimate("served", "IPS").value)


def test_a_constant_model_passes_the_a_a_check() -> None:
    """A model of one value is off by rounding errors only, which is no reason to distrust a log."""
    w = world(n=3000)
    panel = evaluate(w.log, {"better": w.better}, reward_model=np.full(w.better.shape, 0.7125))
    assert {c.name: c.status for c in panel.log_checks}["A/A"] == "pass"


def test_a_lie_in_one_segment_is_found() -> None:
    """Propensities that are wrong for one channel only pass in the whole log and are found where they are wrong."""
    w = world(n=12_000)
    assert w.log.probabilities is not None
    channel = np.where(np.arange(len(w.log)) % 10 == 0, "mail", "web")
    table = replace(w.log.table, columns={**w.log.table.columns, "channel": channel})
    true = evaluate(replace(w.log, table=table), {"better": w.better}, fit_reward=None)
    assert {c.name: c.status for c in true.log_checks}["shown offers against logged distributions"] == "pass"
    told = np.where((channel == "mail")[:, None], np.asarray([0.6, 0.2, 0.2]), w.log.probabilities)
    lied = replace(w.log, table=table, probabilities=told, propensity=told[np.arange(len(told)), w.log.chosen])
    panel = evaluate(lied, {"better": w.better}, fit_reward=None)
    (check,) = [c for c in panel.log_checks if c.name == "shown offers against logged distributions"]
    assert check.status == "fail"
    assert "where channel is 'mail'" in check.sentence


def test_readings_of_parts_merge_into_the_reading_of_the_whole() -> None:
    """Summaries of two parts of a log, merged, are those of the whole, in every figure that a check reads."""
    w = world(n=5000, k=4, n_subjects=700)
    at = np.datetime64("2026-01-01", "us") + np.arange(5000) * np.timedelta64(7, "m")
    ids = np.asarray([f"d{i}" for i in range(5000)])
    log = replace(w.log, table=replace(w.log.table, at=at), decision_ids=ids)

    class Chunks:
        offers = log.table.offers

        def __init__(self, rows: slice) -> None:
            self.rows = rows

        def chunks(self, n_rows: int) -> Iterator[InteractionBatch]:
            """One chunk."""
            yield log.take(self.rows)

    edges = np.asarray([-1.0, 0.0, 1.0])
    better = Better()

    def read(rows: slice) -> Pass:
        return read_once(
            Chunks(rows), {"c": better, LOGGED: None}, default_estimators(), model=Guess(), explore_share=0.1,
            calibration_edges=edges,
        )  # fmt: skip

    whole, both = read(slice(0, 5000)), read(slice(0, 1700)).merge(read(slice(1700, 5000)))
    np.testing.assert_allclose(both.moments.totals, whole.moments.totals, rtol=1e-12)
    np.testing.assert_allclose(both.moments.scatter, whole.moments.scatter, rtol=1e-9, atol=1e-9)
    a, b = whole.candidates["c"], both.candidates["c"]
    assert (b.effective_rows, b.largest) == pytest.approx((a.effective_rows, a.largest))
    assert b.positives(0.0) == pytest.approx(a.positives(0.0))
    np.testing.assert_allclose(b.at_lowest, a.at_lowest)
    np.testing.assert_allclose(b.top(), a.top())
    assert b.n_counting == a.n_counting
    for of_both, of_whole in zip(value_over_time(b), value_over_time(a), strict=True):
        assert of_both.pop("from") == of_whole.pop("from")
        assert of_both == pytest.approx(of_whole)
    np.testing.assert_allclose(log_figures(both.log), log_figures(whole.log), rtol=1e-9)
    assert whole.log.n_duplicates == both.log.n_duplicates == 0
    assert both.log.counts_by_group.keys() == whole.log.counts_by_group.keys()


def log_figures(log: LogRecord) -> FloatArray:
    """Figures of a log's summaries in one row."""
    assert log.counts is not None
    assert log.calibration is not None
    counts = [log.counts.shown, log.counts.could, log.counts.inverse, log.counts.inverse2, log.counts.said]
    parts = np.asarray([[p["mean"], p["standard_error"], p["rows"]] for p in value_over_time(log)])
    loose = [log.n_rows, log.mean_reward, log.lowest, log.highest, log.n_positive, *log.spread, *(log.logged_gap or ())]
    return np.concatenate([*counts, log.calibration.sums.ravel(), parts.ravel(), np.asarray(loose)])


@pytest.mark.parametrize("rows_are_units", [True, False])
@pytest.mark.parametrize("n", [900, 20_000, 140_000])
def test_totals_merge_and_do_not_depend_on_chunks(n: int, rows_are_units: bool) -> None:
    """Parts in any order merge into the moments of the whole, while each unit has a group, while none has, and in between.

    20,000 rows are too many for a group each, 140,000 subjects too; parts of them are not.
    """
    rng = np.random.default_rng(5)
    block = rng.normal(3.0, 1.0, size=(4, n))
    block[0] = 1.0
    units = hash_numbers(
        np.arange(n) if rows_are_units else np.concatenate([np.arange(n - n // 50), np.arange(n // 50)])
    )

    def moments(*parts: slice) -> Moments:
        made = Accumulator(["one", "a", "b", "c"], Grouping(rows_are_units))
        for rows in parts:
            made.add_units(block[:, rows], units[rows])
        return made.moments()

    whole = moments(slice(0, n))
    parts = moments(slice(n // 3, n // 2), slice(n // 2, n), slice(0, n // 3))
    few, many = moments(slice(0, 333)), moments(slice(333, n))
    before = few.groups.copy()
    for other in (parts, few.merge(many), many.merge(few)):
        np.testing.assert_allclose(other.totals, whole.totals, rtol=1e-12)
        np.testing.assert_allclose(other.scatter, whole.scatter, rtol=1e-9, atol=1e-7)
        np.testing.assert_allclose(other.folded(), whole.folded(), rtol=1e-9, atol=1e-9)
        assert other.n_units == whole.n_units == (n if rows_are_units else None if n == 140_000 else n - n // 50)
    np.testing.assert_array_equal(few.groups, before)
    if rows_are_units:
        np.testing.assert_allclose(whole.scatter, np.cov(block) * (n - 1), rtol=1e-9, atol=1e-7)


def test_a_verdict_knows_what_its_estimator_does_not() -> None:
    """The model alone never recommends, and a shrunk form recommends only where its largest bias leaves a gain."""
    w = world(n=6000)
    judged: list[tuple[Estimator, str]] = [
        (DirectMethod(), "caution"),
        (Replay(), "caution"),
        (SelfNormalisedIPS(), "recommend"),
    ]
    for estimator, word in judged:
        panel = evaluate(w.log, {"c": w.better}, estimators=[estimator], reward_model=w.mean_reward, n_resamples=0)
        assert panel.differences["c"][estimator.name].bounds.low > 0  # type: ignore[union-attr]  # there is an interval
        assert panel.verdicts["c"].word == word
    for cap, word in ((1000.0, "recommend"), (1.5, "this log cannot answer")):
        panel = evaluate(w.log, {"c": w.better}, estimators=[ClippedIPS(cap)], fit_reward=None, n_resamples=0)
        told = panel.differences["c"][panel.headline]
        assert told.bounds is not None
        assert told.bias_aware is not None
        assert told.bias_aware == panel.difference("c", LOGGED).bias_aware
        of_candidate, of_log = panel.estimate("c"), panel.estimate(LOGGED)
        assert of_candidate.bias_aware is not None
        assert of_candidate.bounds is not None
        assert of_log.bias_aware == of_log.bounds  # weights of one stay as they are
        moved = of_candidate.bounds.low - of_candidate.bias_aware.low
        assert told.bounds.low - told.bias_aware.low == pytest.approx(moved)
        assert panel.verdicts["c"].word == word, (cap, told)


def test_repeated_ids_are_counted_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """All repetitions are found while every id fits; beyond that they are estimated from ids chosen by their hashes, merged or not."""
    rng = np.random.default_rng(0)
    ids = hash_numbers(rng.permutation(np.concatenate([np.arange(50_000), np.arange(9000), np.arange(1000)])))

    def counted(*parts: slice) -> RepeatedIds:
        made = RepeatedIds()
        for part in parts:
            made.add(ids[part])
        return made

    halves = (slice(0, 31_000), slice(31_000, 60_000))
    assert counted(*halves).count() == counted(halves[0]).merge(counted(halves[1])).count() == 10_000
    assert RepeatedIds().count() == counted(slice(0, 1)).count() == 0
    monkeypatch.setattr("offline_eval.summaries.MAX_IDS", 1 << 13)
    few = counted(*halves)
    assert few.held <= 1 << 13
    assert few.count() == pytest.approx(10_000, rel=0.1)
    merged = counted(halves[0]).merge(counted(halves[1]))
    assert (merged.held, merged.count()) == (few.held, few.count())


def test_many_resamples_are_drawn_as_few_are() -> None:
    """More resamples than fit at once are the same draws, counted in parts."""
    folded = np.random.default_rng(1).normal(size=(50, 3))
    made = resampled(folded, n_resamples=600, rng=np.random.default_rng(2))
    rng = np.random.default_rng(2)
    by_hand = [folded[rng.integers(0, 50, size=50)].sum(axis=0) for _ in range(600)]
    np.testing.assert_allclose(made, by_hand, atol=1e-12)


def test_text_hash_does_not_depend_on_width() -> None:
    """The same subject falls into the same group whatever the longest name in its chunk is."""
    a, b = np.array(["anna", "bo"]), np.array(["anna", "bo", "someone with a long name"])
    assert (hash_text(a) == hash_text(b)[:2]).all()
    many = np.array([f"subject {i}" for i in range(20_000)])
    assert len(np.unique(hash_text(many))) == 20_000


def test_effective_sample_size_and_tail_index() -> None:
    """Equal weights count in full, one weight alone counts once, and a Pareto tail gives its index."""
    assert effective_sample_size(np.full(50, 3.0)) == pytest.approx(50)
    assert effective_sample_size(np.array([0.0, 5.0, 0.0])) == pytest.approx(1)
    heavy = 1 + np.random.default_rng(0).pareto(1.5, size=100_000)
    index = tail_index(np.sort(heavy)[-1001:])
    assert index == pytest.approx(1.5, rel=0.15)


@pytest.mark.parametrize("fit", [fit_ridge, fit_logistic])
def test_reward_models_satisfy_the_contract_and_learn(fit: object) -> None:
    """Both reward models keep the contract and come closer to the truth than the mean does."""
    w = world(n=4000)
    model = fit(w.log)  # type: ignore[operator]
    check_reward_model(model, w.log.table.take(slice(0, 25)))
    off = ((model.expected_reward(w.log.table) - w.mean_reward) ** 2).mean()
    assert off < 0.2 * ((w.log.reward.mean() - w.mean_reward) ** 2).mean()


def test_folds_keep_subjects_together_and_spread_positives() -> None:
    """No subject is in two folds, and each fold has its share of the few subjects with a reward."""
    w = world(n=3000, n_subjects=400, rate=-4.0)
    folds = subject_folds(w.log, n_folds=3, seed=0)
    subjects = w.log.table.subjects
    assert subjects is not None
    for s in np.unique(subjects):
        assert len(np.unique(folds[subjects == s])) == 1
    positive = set(subjects[w.log.reward > 0])
    per_fold = [len(set(subjects[folds == f]) & positive) for f in range(3)]
    assert max(per_fold) - min(per_fold) <= 1
    # One refund does not make everybody else a subject with a reward.
    refunded = w.log.with_reward(np.where(np.arange(3000) == 7, -1.0, w.log.reward))
    folds = subject_folds(refunded, n_folds=3, seed=0)
    positive |= {subjects[7]}
    per_fold = [len(set(subjects[folds == f]) & positive) for f in range(3)]
    assert max(per_fold) - min(per_fold) <= 1


def test_cross_fitting_judges_rows_by_models_that_did_not_see_them() -> None:
    """The model for a row does not change when that row's reward does."""
    w = world(n=600, n_subjects=200)
    fitted = cross_fit(w.log, fit_ridge)
    values = fitted.expected_reward(w.log.table, fitted.folds)
    for fold in range(3):
        rows = fitted.folds == fold
        changed = w.log.with_reward(np.where(rows, 1.0 - w.log.reward, w.log.reward))
        again = fit_ridge(changed.take(np.flatnonzero(~rows)))
        np.testing.assert_allclose(again.expected_reward(w.log.table)[rows], values[rows])


def test_a_page_and_its_twin_are_written(tmp_path: object) -> None:
    """The report page carries the verdict in words and its JSON twin the same figures."""
    w = world(n=800)
    panel = evaluate(w.log, {"better": w.better})
    page = panel.page(in_simulation=True)
    assert panel.verdicts["better"].word in page.to_html()
    json.dumps(page.to_json(), allow_nan=False)


def test_import_is_light() -> None:
    """``import offline_eval`` loads neither pandas nor a training framework, and takes less than a second of its own."""
    code = (
        "import sys, time; t = time.process_time(); import offline_eval; t = time.process_time() - t;"
        "heavy = {'pandas', 'torch', 'tensorflow', 'sklearn', 'ray', 'altair', 'pyspark'} & set(sys.modules);"
        "assert not heavy, heavy; assert t < 1.0, t"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_right_model_of_rare_rewards_is_not_called_wrong() -> None:
    """Groups in which nothing was earned, where hardly anything was to be expected, are no proof against the model."""
    rng = np.random.default_rng(5)
    values = np.geomspace(1e-5, 2e-2, 20_000)
    reward = (rng.random(len(values)) < values).astype(np.float64)
    record = LogRecord(k=2, n_rows=len(values))
    record.lowest, record.highest = 0.0, 1.0
    record.add_model(values, reward, None)
    table = calibration_table(record)
    assert min(row["observed"] for row in table) == 0.0
    assert max(abs(row["z"]) for row in table) < 3.5


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("has_subjects", [True, False])
def test_candidates_that_show_the_same_differ_by_nothing_for_certain(unit: float, has_subjects: bool) -> None:
    """Difference and standard error are 0 to the last bit, so that whoever chooses among candidates knows a copy."""
    w = world(n=3000, n_subjects=500 if has_subjects else None)
    log = replace(w.log, reward=w.log.reward * unit + 0.1 * unit)
    target = np.asarray(Better().probabilities(log.table))
    panel = evaluate(
        log, {"one": target, "copy": target.copy(), "other": np.full_like(target, 1 / target.shape[1])}, incumbent="one"
    )
    for name, found in panel.differences["copy"].items():
        assert (found.value, found.standard_error) == (0.0, 0.0), name
        assert panel.differences["other"][name].standard_error > 0.0, name  # type: ignore[operator]

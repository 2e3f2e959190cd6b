"""What lies under a panel: by brute force, and the same on the page, in its twin and in the panel's JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from typing import Any

import numpy as np
import pytest

from offline_eval import LOGGED, Panel, evaluate
from offline_eval.distribution import CURVE_SHARES
from policies.fixed import FixedOrder
from policies.records import FloatArray, InteractionBatch
from tests.offline_eval.worlds import World, world

N, N_PARTS = 900, 10


def timed(seed: int = 0) -> World:
    """A small world whose rows are a minute apart."""
    w = world(n=N, seed=seed, n_subjects=300)
    at = np.datetime64("2026-03-01", "us") + np.arange(N) * np.timedelta64(60, "s")
    return replace(w, log=replace(w.log, table=replace(w.log.table, at=at)))


def weights_of(log: InteractionBatch, target: FloatArray) -> FloatArray:
    """Importance weights."""
    return np.asarray(target[np.arange(len(log)), log.chosen] / log.propensity)


def blocks_of(told: Any) -> Iterator[dict[str, Any]]:
    """All blocks of a page's twin, folded ones too."""
    if isinstance(told, dict):
        if "kind" in told or "type" in told or "title" in told:
            yield told
        for value in told.values():
            yield from blocks_of(value)
    elif isinstance(told, list):
        for value in told:
            yield from blocks_of(value)


def test_value_over_time_by_brute_force() -> None:
    """Each tenth of the log's time: the self-normalised value of a candidate, with the standard error of a ratio."""
    w = timed()
    found = evaluate(w.log, {"c": w.better}, n_resamples=0).to_json()["over_time"]
    weight = weights_of(w.log, w.better)
    assert len(found["c"]) == len(found["log"]) == N_PARTS
    for j, (part, logged) in enumerate(zip(found["c"], found["log"], strict=True)):
        rows = slice(j * N // N_PARTS, (j + 1) * N // N_PARTS)
        v, r = weight[rows], w.log.reward[rows]
        mean, n = (v @ r) / v.sum(), len(v)
        error = np.sqrt(((v * (r - mean)) ** 2).sum() * n / (n - 1)) / v.sum()
        assert (part["mean"], part["standard_error"], part["rows"]) == pytest.approx((mean, error, n))
        assert part["effective_rows"] == pytest.approx(v.sum() ** 2 / (v**2).sum())
        assert (logged["mean"], logged["standard_error"]) == pytest.approx((r.mean(), r.std(ddof=1) / np.sqrt(n)))
    assert found[LOGGED] == found["log"]


def test_stretches_that_tell_nothing_are_left_out() -> None:
    """Where hardly a row counts for the candidate, no point is drawn."""
    w = timed()
    target = w.uniform.copy()
    target[: N // 2] = np.eye(3)[(w.log.chosen[: N // 2] + 1) % 3]  # never what was shown
    found = evaluate(w.log, {"c": target}, n_resamples=0).to_json()["over_time"]["c"]
    assert len(found) == N_PARTS // 2
    assert found[0]["from"] >= str(w.log.table.at[N // 2 - 1])  # type: ignore[index]  # it has times


def panels() -> dict[str, Panel]:
    """A panel with everything, and one without times, distributions or a model."""
    w = timed()
    amounts = w.log.with_reward(w.log.reward * np.random.default_rng(1).lognormal(size=N))
    bare = replace(w.log, probabilities=None, table=replace(w.log.table, at=None, subjects=None))
    return {
        "full": evaluate(amounts, {"c": w.better, "first": FixedOrder(("offer 0",))}, n_resamples=20),
        "bare": evaluate(bare, {"c": w.uniform}, fit_reward=None, n_resamples=0),
    }


@pytest.mark.parametrize("kind", ["full", "bare"])
def test_the_page_and_the_json_show_the_same_figures(kind: str) -> None:
    """Weights, offers, calibration, time and distributions of the page are in the JSON of the panel, number by number."""
    panel = panels()[kind]
    told = json.loads(json.dumps(panel.to_json(), allow_nan=False))
    twin = {b["title"]: b for b in blocks_of(panel.page(title="t").to_json()["sections"]) if "title" in b}
    for name, weights in told["weights"].items():
        if name == LOGGED:
            continue
        drawn = twin[f"Weights of {name}"]["data"]
        assert [d["rows"] for d in drawn] == weights["bin_rows"]
        assert [d["from"] for d in drawn] == weights["bin_edges"][:-1]
        assert sum(weights["bin_rows"]) + weights["rows_of_weight_0"] == weights["rows"] == N
        shares = {d["name"]: d["value"] for d in twin[f"What {name} would show"]["data"]}
        assert shares == pytest.approx({o["offer"]: 100 * o["shares"][name] for o in told["offers"]})
    assert sum(o["rows"] for o in told["offers"]) == N
    if kind == "bare":
        assert told["over_time"] == {"log": [], "c": [], LOGGED: []}
        assert told["reward_model"] == []
        assert "Value over the log's time" not in twin
        return
    lines = twin["Value over the log's time"]["data"]
    for name in ("c", "first", LOGGED):
        assert [d["y"] for d in lines if d["line"] == name] == [p["mean"] for p in told["over_time"][name]]
    assert [d["observed"] for d in twin["Model's values against rewards"]["data"]] == [
        row["observed"] for row in told["reward_model"]
    ]
    curve = twin["Reward of a decision, from the worst to the best"]["data"]
    for name in ("c", "first", LOGGED):
        assert [[d["x"], d["y"]] for d in curve if d["line"] == name] == told["distributions"][name]["curve"]


def test_the_curve_is_the_weighted_quantile_function() -> None:
    """At each share, the smallest reward that at least so much of the weight does not exceed."""
    w = timed()
    log = w.log.with_reward(np.random.default_rng(2).normal(size=N))
    found = evaluate(log, {"c": w.better}, n_resamples=10).distributions["c"].curve
    weight = weights_of(log, w.better)
    assert [share for share, _ in found] == list(CURVE_SHARES)
    for share, value in found[::7]:
        below = weight[log.reward <= value].sum() / weight.sum()
        under = weight[log.reward < value].sum() / weight.sum()
        assert under < share <= below + 1e-12


def test_a_refused_candidate_gets_no_figure_that_invites_belief() -> None:
    """Where the log cannot answer, the estimates say so above themselves and none of them is set off."""
    w = timed()
    log = w.log.take(np.arange(40))
    panel = evaluate(log, {"c": w.uniform[:40]}, n_resamples=0)
    assert panel.verdicts["c"].word == "this log cannot answer"
    html = panel.page(title="t").to_html()
    assert "The log cannot answer: none of these figures is one to act on." in html
    assert '<tr class="highlight">' not in html
    good = evaluate(w.log, {"c": w.better}, n_resamples=0)
    assert good.verdicts["c"].word != "this log cannot answer"
    assert '<tr class="highlight">' in good.page(title="t").to_html()


def test_names_that_differ_in_punctuation_have_sections_of_their_own() -> None:
    """Candidates called 'v1.0' and 'v1 0' are two sections of one page."""
    w = timed()
    page = evaluate(w.log, {"v1.0": w.better, "v1 0": w.uniform, "v1-0": w.uniform}, n_resamples=0).page(title="t")
    titles = [s.title for s in page.sections[:3]]
    assert titles == ["Estimates of v1.0", "Estimates of v1 0 (2)", "Estimates of v1-0 (3)"]


def test_a_notebook_shows_the_whole_page() -> None:
    """The page in its frame is the page that is written, character by character."""
    w = timed()
    page = evaluate(w.log, {"<c>": w.better}, n_resamples=0).page(title="t & u")
    framed = re.fullmatch(r'<iframe srcdoc="([^"]*)" style="[^"]*"></iframe>', page._repr_html_())
    assert framed is not None
    drawn = [
        re.sub(r"\bc[0-9]+-", "", text) for text in (unescape(framed[1]), page.to_html())
    ]  # drawings are numbered anew
    assert drawn[0] == drawn[1]
    assert "&lt;c&gt;" in drawn[0]


def test_quantiles_of_large_logs_are_those_of_an_even_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what can be sorted every so-many-th row is, and said so; a candidate with nothing to weigh costs no other its own."""
    w = timed()
    log = w.log.with_reward(np.random.default_rng(3).normal(size=N))
    never = np.eye(3)[(w.log.chosen + 1) % 3]
    monkeypatch.setattr("offline_eval.panel.MAX_SORTED_ROWS", 400)
    panel = evaluate(log, {"c": w.better, "never": never}, n_resamples=5)
    assert panel.notes[-1] == "Quantiles are of one row in 3, 300 in all."
    assert set(panel.distributions) == {"c", LOGGED}
    monkeypatch.undo()
    some = evaluate(log.take(slice(None, None, 3)), {"c": w.better[::3]}, n_resamples=5)
    assert panel.distributions["c"] == some.distributions["c"]


def test_quantiles_say_that_they_are_of_decisions() -> None:
    """Where visitors come back a quantile of decisions is none of visitors: page and JSON say so, and where the others are."""
    back = world(n=300)
    back = replace(
        back, log=replace(back.log, table=replace(back.log.table, subjects=(np.arange(300) % 60).astype(np.str_)))
    )
    once = replace(back.log, table=replace(back.log.table, subjects=np.arange(300).astype(np.str_)))
    money = np.random.default_rng(4).normal(size=300)
    told = "Quantiles are of decisions, not of visitors: 60 subjects have 300 decisions."
    for log, is_told in ((back.log, True), (once, False)):
        panel = evaluate(log.with_reward(money), {"c": back.better}, n_resamples=5)
        assert panel.to_json()["distributions_note"].startswith(told) is is_told
        sections = panel.page(title="t").to_json()["sections"]
        (note,) = [n for b in blocks_of(sections) if (n := b.get("note", "")).startswith("Weighted by the candidate")]
        assert (told in note) is is_told
        assert ("offline_eval.sequential.evaluate_sequences" in note) is is_told
    yes_or_no = evaluate(back.log, {"c": back.better}, n_resamples=5)
    assert yes_or_no.to_json()["distributions_note"] == ""

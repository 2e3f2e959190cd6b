"""Fixed rows from a file through the command, against other libraries and published formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tea_tasting as tt
from pyarrow import parquet
from scipy.stats import t as student
from statsmodels.stats.proportion import confint_proportions_2indep
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from api.cli.main import run
from offline_eval.abtest.files import read_plan, read_subjects
from policies.errors import InvalidInputError, SchemaError, UnknownNameError

PLAN: dict[str, Any] = {
    "control": "A", "variants": ["A", "B"], "planned_subjects": 4000, "effect": 0.03, "n_looks": 1,
    "metrics": [
        {"name": "converted", "kind": "proportion", "role": "primary", "noun": "subscriptions"},
        {"name": "revenue", "kind": "mean", "role": "guardrail", "currency": "€"},
        {"name": "adjusted", "kind": "mean", "numerator": "revenue", "covariate": "past"},
        {"name": "capped", "kind": "mean", "numerator": "revenue", "cap": 30.0},
        {"name": "per_visit", "kind": "ratio", "numerator": "revenue", "denominator": "visits"},
    ],
}  # fmt: skip


def _rows(n: int = 4_000) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(20)
    is_b = rng.random(n) < 0.5
    past = rng.gamma(2.0, 5.0, n)
    converted = rng.random(n) < 0.12 + 0.03 * is_b
    return {
        "variant": np.where(is_b, "B", "A"),
        "converted": converted.astype(np.float64),
        "revenue": converted * (past + rng.gamma(2.0, 5.0, n)),
        "past": past,
        "visits": 1.0 + rng.poisson(2.0, n),
    }


def _written(folder: Path, rows: dict[str, Any], plan: dict[str, Any], *, suffix: str = ".csv") -> list[str]:
    file, planned = folder / f"rows{suffix}", folder / "plan.json"
    if suffix == ".parquet":
        parquet.write_table(pa.table(rows), file)
    else:
        lines = [",".join(rows), *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    planned.write_text(json.dumps(plan), encoding="utf-8")
    return ["experiment", "analyse", str(file), "--plan", str(planned)]


def _read(command: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(command) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_fixed_rows_read_as_other_libraries_read_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """Proportion, mean, CUPED, cap and ratio: statsmodels' and tea-tasting's figures on the same file."""
    rows = _rows()
    told = _read(_written(tmp_path, rows, PLAN, suffix=suffix), capsys)
    found = {m["metric"]: m for m in told["metrics"]}
    b = rows["variant"] == "B"
    x, n = [rows["converted"][m].sum() for m in (b, ~b)], [int(m.sum()) for m in (b, ~b)]
    low, high = confint_proportions_2indep(x[0], n[0], x[1], n[1], method="newcomb", compare="diff")
    assert found["converted"]["interval_single_look"]["low"] == pytest.approx(low, abs=1e-9)
    assert found["converted"]["interval_single_look"]["high"] == pytest.approx(high, abs=1e-9)
    for name, values in (("revenue", rows["revenue"]), ("capped", np.minimum(rows["revenue"], 30.0))):
        both = CompareMeans(DescrStatsW(values[b]), DescrStatsW(values[~b]))
        low, high = both.tconfint_diff(usevar="unequal")
        _, p, df = both.ttest_ind(usevar="unequal")
        assert found[name]["interval_single_look"]["low"] == pytest.approx(low)
        assert found[name]["interval_single_look"]["high"] == pytest.approx(high)
        assert (found[name]["p_value_single_look"], found[name]["df"]) == pytest.approx((p, df))
    table = pa.table({**{k: v for k, v in rows.items() if k != "variant"}, "variant": b.astype(int)})
    other = tt.Experiment(
        adjusted=tt.Mean("revenue", covariate="past"), per_visit=tt.RatioOfMeans("revenue", "visits")
    ).analyze(table)
    for name, tolerance in (("adjusted", 1e-3), ("per_visit", 1e-6)):
        assert found[name]["estimate"] == pytest.approx(other[name].effect_size, rel=tolerance)
        # tea-tasting fits the slope over all rows; ours is pooled within variants.
        assert found[name]["p_value_single_look"] == pytest.approx(other[name].pvalue, rel=5e-2)
    assert found["adjusted"]["standard_error"] < found["revenue"]["standard_error"]
    assert found["adjusted"]["covariate_imbalance"]["low"] < 0 < found["adjusted"]["covariate_imbalance"]["high"]


def test_published_formulas_give_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The variance of a relative lift (delta method) and the always-valid half-width, as GrowthBook's documentation states them."""
    rows = _rows()
    told = _read(_written(tmp_path, rows, PLAN), capsys)
    found = next(m for m in told["metrics"] if m["metric"] == "revenue")
    b = rows["variant"] == "B"
    (m_t, v_t, n_t), (m_c, v_c, n_c) = (
        (v.mean(), v.var(ddof=1), len(v)) for v in (rows["revenue"][b], rows["revenue"][~b])
    )
    lift_variance = v_c * m_t**2 / (n_c * m_c**4) + v_t / (n_t * m_c**2)
    lift = found["lift"]
    assert lift["estimate"] == pytest.approx(m_t / m_c - 1)
    # Ours is symmetric on the scale of logarithms, where the same variance is divided by the squared ratio.
    rel_t, rel_c = v_t / n_t / m_t**2, v_c / n_c / m_c**2
    df = (rel_t + rel_c) ** 2 / (rel_t**2 / (n_t - 1) + rel_c**2 / (n_c - 1))
    half = student.ppf(0.975, df) * math.sqrt(lift_variance) / (m_t / m_c)
    assert math.log1p(lift["high"]) - math.log1p(lift["estimate"]) == pytest.approx(half)
    n, planned, alpha = n_t + n_c, PLAN["planned_subjects"], 2 * 0.05 * 0.1
    rho = math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned)
    spread = found["standard_error"] * math.sqrt(n)
    always = spread * math.sqrt(2 * (n * rho**2 + 1) / (n**2 * rho**2) * math.log(math.sqrt(n * rho**2 + 1) / alpha))
    shown = found["interval_always_valid"]
    assert (shown["high"] - shown["low"]) / 2 == pytest.approx(always)


def test_days_phases_and_decisions_may_be_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With days each planned look is taken as it was due; rows of one subject are one; phases are strata."""
    rows = _rows(6_000)
    order = np.arange(6_000)
    wide = {
        "subject": np.array([f"s{i // 2}" for i in order]), "exposed_day": order // 2 / 100.0,
        "phase": np.where(order < 3_000, "1", "2"), **rows,
    }  # fmt: skip
    wide["variant"] = np.repeat(rows["variant"][::2], 2)
    phases = [{"key": k, "weights_bp": {"A": 5000, "B": 5000}} for k in ("1", "2")]
    metrics = [{"name": "revenue", "kind": "ratio", "role": "primary", "denominator": "decisions"}]
    plan = {**PLAN, "planned_subjects": 3000, "n_looks": 3, "phases": phases, "metrics": metrics}
    told = _read([*_written(tmp_path, wide, plan), "--as-of-day", "21"], capsys)
    assert [round(look["day"]) for look in told["readings_at_looks"]] == [10, 20]
    assert sum(told["split"]["observed"].values()) == 2101
    assert told["metrics"][0]["interval_single_look"]["method"] == "Welch, stratified by phase"


def test_files_that_will_not_do_are_named(tmp_path: Path) -> None:
    """A missing variant, text among numbers, an unknown field and half a plan are each a sentence."""
    file = tmp_path / "rows.csv"
    file.write_text("group,x\nA,1\n", encoding="utf-8")
    with pytest.raises(SchemaError, match="expected one called variant"):
        read_subjects(file)
    file.write_text("variant,x\nA,many\n", encoding="utf-8")
    with pytest.raises(SchemaError, match="expected numbers"):
        read_subjects(file)
    file.write_text("variant,x\nA,1\n", encoding="utf-8")
    with pytest.raises(SchemaError, match="no column exposed_day"):
        read_subjects(file, as_of_day=3.0)
    plan = tmp_path / "plan.json"
    for document, error, text in (
        ("[]", InvalidInputError, "holds a list"),
        ('{"metrics": 1}', InvalidInputError, "expected a list of objects"),
        (json.dumps({**PLAN, "n_look": 3}), UnknownNameError, "did you mean 'n_looks'"),
        ('{"metrics": [{"name": "x"}]}', InvalidInputError, "not whole"),
    ):
        plan.write_text(document, encoding="utf-8")
        with pytest.raises(error, match=text):
            read_plan(plan)

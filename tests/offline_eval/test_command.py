"""``nextoffer evaluate``: what it reads, what it judges, what it writes, how it exits."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from api.cli.main import run
from engine.decisions.requests import DecisionRequest, RewardRequest
from engine.experiments.records import Experiment
from engine.store.changes import Change
from offline_eval.interop.arrow import to_arrow, write_parquet
from policies.allocation import Variant
from policies.artifact import save_artifact
from policies.fixed import FixedOrder
from tests.engine.service_world import Clock, open_shop
from tests.engine.store.test_upkeep import LATER, busy
from tests.offline_eval.worlds import world


def test_command_writes_report_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the panel, writes report and figures, and exits 0 or 1 by the verdict, 2 on a wrong path."""
    w = world(n=4000, n_subjects=1500)
    log = tmp_path / "log.parquet"
    write_parquet(w.log, log)
    out, figures = tmp_path / "report.html", tmp_path / "figures.json"
    code = run(["evaluate", "--log", str(log), "--policy", "uniform", "--out", str(out), "--json", str(figures)])
    told = json.loads(figures.read_text())
    verdict = told["candidates"]["uniform"]["verdict"]["verdict"]
    assert code == (0 if verdict == "recommend" else 1)
    assert verdict == "recommend"
    assert "RECOMMEND" in capsys.readouterr().out
    assert "uniform" in out.read_text()
    assert run(["evaluate", "--log", str(tmp_path / "none.parquet"), "--policy", "uniform"]) == 2


def test_candidates_and_incumbents_by_every_kind_of_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder, 'uniform' and 'always:OFFER' are candidates and incumbents; an unknown name says what was expected."""
    w = world(n=3000)
    write_parquet(w.log, tmp_path / "log.parquet")
    save_artifact(FixedOrder(("offer 1",)).to_artifact(), tmp_path / "second")
    base = ["evaluate", "--log", str(tmp_path / "log.parquet"), "--resamples", "0", "--explore-share", "0.2"]
    run(
        [
            *base,
            "--policy",
            str(tmp_path / "second"),
            "--policy",
            "always:offer 1",
            "--against",
            "uniform",
            "--json=-",
        ]
    )
    told = json.loads(capsys.readouterr().out)
    assert told["incumbent"] == "uniform"
    a, b = (told["candidates"][c]["estimates"]["DR"]["value"] for c in ("second", "always:offer 1"))
    assert a == b
    assert run([*base, "--policy", "nobody"]) == 2
    assert "expected that of a saved policy, 'uniform', 'always:OFFER'" in capsys.readouterr().err
    assert run([*base, "--policy", "always:offer 9"]) == 2
    assert "its offers are offer 0" in capsys.readouterr().err


def test_columns_can_be_called_otherwise_on_the_command_line(tmp_path: Path) -> None:
    """``--column`` takes the names a log has, in Parquet or CSV; a key that is no column is refused."""
    w = world(n=3000)
    table = to_arrow(w.log)
    renamed = table.rename_columns(["item" if c == "offer" else c for c in table.column_names])
    pq.write_table(renamed, tmp_path / "log.parquet")
    base = ["evaluate", "--log", str(tmp_path / "log.parquet"), "--policy", "uniform", "--resamples", "0"]
    assert run(base) == 2
    assert run([*base, "--column", "offer=item"]) == 0
    plain = renamed.drop_columns(["probabilities"])
    csv.write_csv(plain, tmp_path / "log.csv")
    base[2] = str(tmp_path / "log.csv")
    assert run([*base, "--column", "offer=item"]) == 0
    assert run([*base, "--column", "arm=item"]) == 2


def test_a_log_without_propensities_is_estimated_and_never_recommended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without propensities the command says what is missing; asked to, it estimates them, says so, and does not recommend."""
    w = world(n=6000)
    table = to_arrow(w.log).drop_columns(["propensity", "probabilities"])
    pq.write_table(table, tmp_path / "log.parquet")
    base = ["evaluate", "--log", str(tmp_path / "log.parquet"), "--policy", "uniform", "--resamples", "0"]
    assert run(base) == 2
    assert "no column 'propensity'" in capsys.readouterr().err
    assert run([*base, "--estimate-propensities"]) == 1
    out = capsys.readouterr().out
    assert "Propensities were not logged but estimated" in out
    assert "RECOMMEND" not in out


def test_open_windows_are_closed_by_leaving_out_or_weighing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rewards that may still come are not zero: leaving rows out and weighing both find the closed mean, counting does not."""
    w = world(n=8000, rate=0.0)
    rng = np.random.default_rng(2)
    start, end = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 31, tzinfo=UTC)
    at = np.datetime64("2026-03-01", "us") + (rng.random(8000) * 30 * 86_400e6).astype("timedelta64[us]")
    delay = (rng.random(8000) * 14 * 86_400e6).astype("timedelta64[us]")
    came = (w.log.reward > 0) & (at + delay < np.datetime64("2026-03-31", "us"))
    table = to_arrow(replace(w.log, table=replace(w.log.table, at=at), reward=came.astype(np.float64)))
    table = table.append_column("rewarded_at", pa.array(np.where(came, at + delay, np.datetime64("NaT", "us"))))
    pq.write_table(table, tmp_path / "log.parquet")
    assert end - start == timedelta(days=30)
    base = [
        "evaluate",
        "--log",
        str(tmp_path / "log.parquet"),
        "--policy",
        "uniform",
        "--resamples",
        "0",
        "--json=-",
    ]

    def told(*extra: str) -> tuple[float, int]:
        run([*base, *extra])
        panel = json.loads(capsys.readouterr().out)
        return panel["mean_reward"], panel["rows"]

    truth = w.log.reward.mean()
    window = ("--window-days", "14", "--as-of", "2026-03-31")
    counted, left_out, weighed = told(), told(*window), told(*window, "--weigh-open")
    assert counted[0] < 0.85 * truth
    assert left_out[1] < 0.6 * 8000
    assert left_out[0] == pytest.approx(truth, abs=3 * 0.5 / np.sqrt(left_out[1]))
    assert weighed[1] == 8000
    assert weighed[0] == pytest.approx(truth, abs=4 * 0.5 / np.sqrt(8000))


def test_the_service_is_judged_on_its_own_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A placement's matured decisions are the log, and a registered version is a candidate, by name or name@version."""
    with busy(tmp_path, Clock()) as service:
        ref = service.policies.register(FixedOrder(("b",)).to_artifact(), name="always-b", at=LATER)
    base = ["evaluate", "--placement", "shop", "--home", str(tmp_path), "--resamples", "0", "--json=-"]
    assert run([*base, "--policy", "always-b", "--as-of", LATER.isoformat()]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 24
    assert set(told["candidates"]) == {"always-b", "logging policy"}
    assert run([*base, "--policy", str(ref), "--against", "uniform", "--as-of", LATER.isoformat()]) == 1
    assert json.loads(capsys.readouterr().out)["incumbent"] == "uniform"
    assert run([*base, "--policy", "always-c", "--as-of", LATER.isoformat()]) == 2
    assert run(["evaluate", "--policy", "uniform"]) == 2
    assert "pass either --log or --placement" in capsys.readouterr().err


def test_an_experiment_is_judged_by_the_mixture_of_its_variants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``--experiment`` every row is weighed by all variants' policies: weights of their halfway mixture are about 1."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        ref = service.policies.register(FixedOrder(("c",)).to_artifact(), name="c", at=clock.now)
        variants = (Variant("control", 5_000, "baseline"), Variant("new", 5_000, str(ref)))
        service.experiments.create(Experiment("e1", "shop", variants), change=Change(clock.now))
        service.experiments.start("e1", revision=1, change=Change(clock.now))
        service.refresh()
        for i in range(120):
            clock.forward(minutes=5)
            service.decide(DecisionRequest("shop", f"s{i}", {"x": float(i)}, id=f"d{i}"))
            service.reward(RewardRequest(f"d{i}", "subscribed", float(i % 2)))
    base = ["evaluate", "--placement", "shop", "--home", str(tmp_path), "--policy", "c", "--resamples", "0", "--json=-"]
    settings = ["--as-of", LATER.isoformat()]
    run([*base, *settings])
    alone = json.loads(capsys.readouterr().out)["candidates"]["c"]
    run([*base, *settings, "--experiment", "e1"])
    mixed = json.loads(capsys.readouterr().out)["candidates"]["c"]
    assert mixed["largest_weight"] < 2.5
    assert alone["largest_weight"] > 10
    assert mixed["effective_sample_size"] > 1.5 * alone["effective_sample_size"]

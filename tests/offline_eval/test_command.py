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
    capsys.readouterr()
    run([*base, "--policy", "always-b", "--as-of", LATER.replace(tzinfo=None).isoformat()])
    assert json.loads(capsys.readouterr().out)["rows"] == 24
    assert run([*base, "--policy", "uniform", "--experiment", "e9"]) == 2
    assert "experiment 'e9'" in capsys.readouterr().err
    write_parquet(world(n=100).log, tmp_path / "other.parquet")
    other = ["evaluate", "--log", str(tmp_path / "other.parquet"), "--home", str(tmp_path), "--resamples", "0"]
    assert run([*other, "--policy", "always-b"]) == 2
    assert "shows b, and the log has none of these" in capsys.readouterr().err
    assert run(["evaluate", "--policy", "uniform"]) == 2
    assert "pass either --log or --placement" in capsys.readouterr().err


def test_policies_are_valued_with_the_explore_share_they_would_be_served_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A placement's own explore share unless another is asked for; the report says whose share it was."""
    with busy(tmp_path, Clock()) as service:
        before, revision = service.placement("shop")
        service.put_placement(replace(before, explore_share=0.3), expected_revision=revision)
    base = ["evaluate", "--placement", "shop", "--home", str(tmp_path), "--resamples", "0", "--json=-"]
    for extra, share, whose in (
        ([], 0.3, "an explore share of 30 %, that of placement 'shop'"),
        (["--explore-share", "0"], 0.0, "an explore share of 0 %, as asked"),
    ):
        run([*base, "--policy", "always:b", "--as-of", LATER.isoformat(), *extra])
        told = json.loads(capsys.readouterr().out)
        assert told["settings"]["explore share"] == share
        assert any(whose in note for note in told["notes"])
    write_parquet(world(n=100).log, tmp_path / "log.parquet")
    run(["evaluate", "--log", str(tmp_path / "log.parquet"), "--policy", "uniform", "--resamples", "0", "--json=-"])
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["explore share"] == 0.05
    assert any("an explore share of 5 %, the default" in note for note in told["notes"])


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


def test_what_is_wrong_with_a_log_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A propensity of 5 is one sentence and exit code 2, never the honest no of a verdict; so is what is no saved policy."""
    table = to_arrow(world(n=200).log).drop_columns(["probabilities"])
    pq.write_table(table.set_column(2, "propensity", pa.array([5.0, *[0.5] * 199])), tmp_path / "log.parquet")
    base = ["evaluate", "--log", str(tmp_path / "log.parquet"), "--resamples", "0"]
    assert run([*base, "--policy", "uniform"]) == 2
    assert "column 'propensity' is outside (0, 1] in 1 rows, the first at 0 (5)" in capsys.readouterr().err
    pq.write_table(table, tmp_path / "log.parquet")
    (tmp_path / "no policy").mkdir()
    assert run([*base, "--policy", str(tmp_path / "no policy")]) == 2
    assert "is not an artefact" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weigh-open"], "--weigh-open needs --window-days"),
        (["--as-of", "2026-03-31"], "--as-of needs --window-days"),
        (["--experiment", "e1"], "--experiment belongs to --placement"),
        (["--against", "uniform"], "'uniform' is both --policy and --against"),
        (["--explore-share", "7"], "explore_share is 7"),
        (["--effect=-1"], "minimal_effect is -1"),
        (["--out", "a.html", "--json", "a.json"], "give --json another name"),
        (["--logger", "a"], "--logger a is not understood; expected VARIANT=POLICY"),
        (["--logger", "a=uniform"], "the log has no variants"),
        (["--phase", "p1"], "the log has no phases"),
        (["--column", "ignore=x", "--policy", "always:offer 9"], "pass all with --offer"),
    ],
)
def test_an_option_is_used_or_refused(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that was asked for is passed over in silence."""
    write_parquet(world(n=200).log, tmp_path / "log.parquet")
    base = ["evaluate", "--log", str(tmp_path / "log.parquet"), "--policy", "uniform", "--resamples", "0"]
    assert run([*base, *options]) == 2
    assert words in capsys.readouterr().err


def test_options_of_tables_are_refused_for_lines_of_dsjson(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of dsjson has no columns to rename."""
    (tmp_path / "log.dsjson").write_text("")
    base = ["evaluate", "--log", str(tmp_path / "log.dsjson"), "--policy", "uniform"]
    assert run([*base, "--column", "offer=a"]) == 2
    assert "--column does not apply to dsjson" in capsys.readouterr().err
    assert run(base) == 2
    assert "no line holds a decision" in capsys.readouterr().err


def test_rewards_that_may_still_come_are_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log that knows when rewards came, judged without a window, says that open rewards count as they stand."""
    table = to_arrow(world(n=400).log)
    table = table.append_column("rewarded_at", pa.array([None] * 400, pa.timestamp("us")))
    pq.write_table(table, tmp_path / "log.parquet")
    run(["evaluate", "--log", str(tmp_path / "log.parquet"), "--policy", "uniform", "--resamples", "0"])
    assert "Column 'rewarded_at' was not used" in capsys.readouterr().out


def test_offers_never_shown_and_lists_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With ``--offer`` a log gets the offers it does not name, in the order its lists of probabilities have."""
    w = world(n=3000)
    assert w.log.probabilities is not None
    table = to_arrow(w.log).replace_schema_metadata(None).drop_columns(["probabilities"])
    table = table.append_column("probabilities", pa.array([[*row[::-1], 0.0] for row in w.log.probabilities]))
    pq.write_table(table, tmp_path / "log.parquet")
    base = ["evaluate", "--log", str(tmp_path / "log.parquet"), "--policy", "uniform", "--resamples", "0"]
    assert run(base) == 2
    assert "lists of another length than 3 in 3000 rows" in capsys.readouterr().err
    named = [x for o in ("offer 2", "offer 1", "offer 0", "new") for x in ("--offer", o)]
    assert run([*base, *named]) == 1
    assert "Never shown: new" in capsys.readouterr().out


def test_several_loggers_of_a_file_are_weighed_by_their_mixture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``--logger`` for every variant, within ``--phase``, rows are weighed by all policies; a wrong logger is refused."""
    rng = np.random.default_rng(8)
    n = 4000
    is_new = rng.random(n) < 0.5
    share = np.where(is_new, 0.9, 0.1)  # of offer "b"; each policy explores a fifth
    chosen = np.where(rng.random(n) < share, "b", "a")
    propensity = np.where(chosen == "b", share, 1 - share)
    reward = (rng.random(n) < np.where(chosen == "b", 0.3, 0.2)).astype(float)
    columns = {
        "offer": chosen,
        "propensity": propensity,
        "reward": reward,
        "variant": np.where(is_new, "new", "old"),
        "phase": ["p1"] * (n // 2) + ["p2"] * (n // 2),
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    base = ["evaluate", "--log", str(tmp_path / "log.parquet"), "--policy", "always:b", "--resamples", "0"]
    base += ["--explore-share", "0.2", "--json=-"]
    loggers = ["--logger", "old=always:a", "--logger", "new=always:b"]
    run(base)
    told = json.loads(capsys.readouterr().out)
    alone = told["candidates"]["always:b"]
    assert told["notes"][0].startswith(
        "Variants new, old logged, and each row is weighed by its own propensity: with --logger"
    )
    assert run([*base, *loggers]) == 2
    assert "the log holds 2 phases" in capsys.readouterr().err
    run([*base, *loggers, "--phase", "p2"])
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == n // 2
    assert told["notes"] == ["Policies are valued with an explore share of 20 %, as asked."]
    assert told["candidates"]["always:b"]["largest_weight"] < 2
    assert alone["largest_weight"] > 8
    assert run([*base, "--phase", "p2", "--logger", "old=always:b", "--logger", "new=always:b"]) == 2
    assert "logger 'old' gives other probabilities than were logged" in capsys.readouterr().err
    assert run([*base, *loggers, "--phase", "p3"]) == 2


def test_large_logs_are_closed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is read in parts leaves rows with open windows out as one in memory does, and keeps nothing whole."""
    w = world(n=3000, n_subjects=900)
    at = np.datetime64("2026-03-01", "us") + np.sort(np.random.default_rng(1).random(3000) * 30 * 86_400e6).astype(
        "m8[us]"
    )
    came = w.log.reward > 0
    table = to_arrow(replace(w.log, table=replace(w.log.table, at=at)))
    late = np.where(came, at + np.timedelta64(5, "D"), np.datetime64("NaT", "us"))
    pq.write_table(table.append_column("rewarded_at", pa.array(late)), tmp_path / "log.parquet")
    base = ["evaluate", "--log", str(tmp_path / "log.parquet"), "--policy", "uniform", "--resamples", "0"]
    base += ["--window-days", "14", "--as-of", "2026-03-31"]
    run([*base, "--json", str(tmp_path / "whole.json")])
    monkeypatch.setattr("api.cli.evaluate.STREAM_ABOVE_ROWS", 0)
    run([*base, "--json", str(tmp_path / "parts.json")])
    whole, parts = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "parts"))
    assert whole["rows"] == parts["rows"] < 2000
    assert whole["candidates"]["uniform"]["estimates"]["SNIPS"]["value"] == pytest.approx(
        parts["candidates"]["uniform"]["estimates"]["SNIPS"]["value"], rel=1e-9
    )


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A command whose optional packages are not installed says what to install; a fault of our own is not taken for it."""

    def lacks(module: str) -> int:
        def command(*_arguments: object, **_settings: object) -> None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)

        monkeypatch.setattr("api.cli.main.build_app", lambda: command)
        return run(["policies"])

    assert lacks("orjson") == lacks("argon2.low_level") == 2
    assert "pip install 'nextoffer[serve]'" in capsys.readouterr().err
    assert lacks("sklearn") == 2
    assert "pip install 'nextoffer[boosting]'" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        lacks("engine.nowhere")

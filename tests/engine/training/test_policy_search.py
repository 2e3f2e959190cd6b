"""Searching policies on a log: what is judged, that it goes on where it was cut off, and that Ray changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from api.cli.main import run
from engine.training import policy_search
from engine.training.policy_search import candidates, search
from offline_eval.interop.arrow import write_parquet
from policies.artifact import load_artifact
from policies.errors import InvalidInputError, StateError, UnknownNameError
from policies.fixed import Uniform
from policies.registry import load_policy
from tests.policies.worlds import batch, success_rate, table

SMALL = ("uniform", "linucb alpha=0.3", "softmax_linear ips")


def test_the_best_of_a_search_is_better_than_uniform(tmp_path: Path) -> None:
    """On a log where tastes differ a learner wins over uniform, what is set aside agrees with the truth within four errors."""
    report = search(batch(3_000, seed=4), tmp_path, names=SMALL, use_ray=False)
    assert report["best"] != "uniform"
    policy = load_policy(load_artifact(tmp_path / "policy"))
    t = table(4_000, seed=9)
    rate = success_rate(t)
    served = 0.95 * policy.probabilities(t) + 0.05 * Uniform().probabilities(t)
    truth = float((served * rate).sum(axis=1).mean())
    aside = report["set_aside"]
    assert abs(aside["value"] - truth) < 4 * aside["standard_error"]
    values = {c["name"]: c for c in report["candidates"]}
    assert values["uniform"]["value"] == pytest.approx(report["logged"], abs=4 * values["uniform"]["standard_error"])


def test_a_search_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds that were judged are not judged again, and the result is that of an uninterrupted search."""
    b = batch(1_500, seed=4)
    whole = search(b, tmp_path / "whole", names=SMALL, use_ray=False)
    calls: list[tuple[str, int]] = []
    judge = policy_search._judge_fold

    def stops(*arguments: object) -> object:
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append((arguments[-2].name, arguments[-1]))  # type: ignore[attr-defined,arg-type]
        return judge(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(policy_search, "_judge_fold", stops)
    with pytest.raises(KeyboardInterrupt):
        search(b, tmp_path / "parts", names=SMALL, use_ray=False)
    first = list(calls)
    calls.clear()

    def counts(*arguments: object) -> object:
        calls.append((arguments[-2].name, arguments[-1]))  # type: ignore[attr-defined,arg-type]
        return judge(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(policy_search, "_judge_fold", counts)
    parts = search(b, tmp_path / "parts", names=SMALL, use_ray=False)
    assert len(first) == 5
    assert len(calls) == 7
    assert not set(first) & set(calls)
    assert parts == whole


def test_a_folder_of_another_log_is_refused(tmp_path: Path) -> None:
    """Folds of one log say nothing of another; a folder with a result is not searched again."""
    search(batch(800), tmp_path, names=("uniform",), use_ray=False)
    with pytest.raises(StateError, match="found already"):
        search(batch(800), tmp_path, names=("uniform",), use_ray=False)
    (tmp_path / "policy" / "manifest.json").unlink()
    (tmp_path / "policy").rename(tmp_path / "gone")
    with pytest.raises(InvalidInputError, match="another log"):
        search(batch(801), tmp_path, names=("uniform",), use_ray=False)


def test_candidates_are_named_nearby() -> None:
    """A name that begins nothing is answered with those there are, and money leaves out what needs yes or no."""
    with pytest.raises(UnknownNameError, match="lints"):
        candidates(is_binary=True, scale=1.0, names=("lintss",))
    money = {c.name for c in candidates(is_binary=False, scale=10.0)}
    assert "beta_thompson" not in money
    assert "linucb alpha=0.3" in money


def test_the_command_says_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a Parquet log to a saved policy and a report; exit 0 where the part set aside sees a gain."""
    write_parquet(batch(3_000, seed=4), tmp_path / "log.parquet")
    code = run(["policies", "search", "--log", str(tmp_path / "log.parquet"), "--out", str(tmp_path / "out"), "--only",
                "uniform,linucb", "--local", "--json"])  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert report["best"].startswith("linucb")
    assert report == json.loads((tmp_path / "out" / "search.json").read_text())
    code = run(["policies", "learn", "--log", str(tmp_path / "log.parquet"), "--out", str(tmp_path / "learned")])
    assert code == 0
    policy = load_policy(load_artifact(tmp_path / "learned"))
    assert np.isfinite(policy.probabilities(table())).all()


@pytest.mark.rllib
@pytest.mark.slow
def test_ray_finds_the_same(tmp_path: Path) -> None:
    """Folds judged by Ray's workers give the report of one process."""
    pytest.importorskip("ray", reason="missing tool: ray")
    b = batch(800, seed=4)
    here = search(b, tmp_path / "here", names=("uniform", "linucb alpha=0.3"), use_ray=False)
    there = search(b, tmp_path / "there", names=("uniform", "linucb alpha=0.3"))
    assert there["best"] == here["best"]
    assert [c["value"] for c in there["candidates"]] == pytest.approx(
        [c["value"] for c in here["candidates"]], abs=1e-9
    )

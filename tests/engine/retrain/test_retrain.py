"""Retraining from the real store: incremental, resumed after a kill, the same twice, and all three words of the gate."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, OutcomeRequest
from engine.decisions.service import DecisionService
from engine.gate.forecasts import forecasts_of
from engine.gate.verdicts import verdicts
from engine.offers.placement import CatalogueOffer, Placement
from engine.registry.states import States
from engine.retrain.pipeline import plain_name, retrain
from engine.retrain.records import RetrainConfig, config_from_json
from engine.retrain.runs import Run, last_run
from engine.retrain.split import same_decisions
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.store.ownership import ownership_of
from policies.errors import ConflictError, InvalidInputError, StateError, UnknownNameError
from policies.fixed import FixedOrder
from tests.engine.service_world import SECRET, exported, offer, open_shop

START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(days=40)
CONFIG = RetrainConfig("shop", candidates=("greedy_logistic",), has_simulator=False)


def _shop(service: DecisionService, *, n: int, effect: float, explore_share: float = 0.5) -> None:
    """Visitors of two kinds, of whom each likes another offer by so much; the incumbent shows everybody the same."""
    old = str(service.policies.register(FixedOrder(("a", "b", "c")).to_artifact(), name="old", at=START))
    service.put_placement(
        Placement(
            "shop", tuple(CatalogueOffer(offer(i, p)) for i, p in (("a", 1.0), ("b", 2.0), ("c", 3.0))), policy=old,
            explore_share=explore_share, reward=RewardDefinition((RewardTerm("subscribed"),), window_s=5 * DAY_S),
        )
    )  # fmt: skip
    rng = np.random.default_rng(5)
    kinds = rng.integers(0, 2, n)
    requests = [
        DecisionRequest("shop", f"u{i}", {"likes_b": float(k)}, id=f"d{i}", at=START + timedelta(minutes=8 * i))
        for i, k in enumerate(kinds.tolist())
    ]
    told = []
    for request, answer, kind in zip(requests, service.decide_many(requests), kinds.tolist(), strict=True):
        wanted = "b" if kind else "a"
        p = 0.15 + effect * (answer.decision.offer == wanted)
        assert request.at is not None
        if rng.random() < p:
            at = request.at + timedelta(days=1)
            told.append(OutcomeRequest(request.subject, "subscribed", id=f"s{request.subject}", at=at))
            told.append(OutcomeRequest(request.subject, "margin_eur", 20.0, id=f"m{request.subject}", at=at))
    service.outcome_many(told)


@pytest.fixture(scope="module")
def shop_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with a clear effect, lived through once."""
    home = tmp_path_factory.mktemp("shop")
    with open_service(home, secret=SECRET, clock=lambda: END) as service:
        _shop(service, n=3_000, effect=0.3)
    return home


@pytest.fixture
def shop(shop_home: Path, tmp_path: Path) -> Iterator[DecisionService]:
    """A copy of it to work on."""
    shutil.copytree(shop_home, tmp_path / "home")
    with open_service(tmp_path / "home", secret=SECRET, clock=lambda: END) as service:
        yield service


@pytest.mark.slow
def test_the_same_inputs_twice_change_nothing_and_late_truth_does(shop: DecisionService) -> None:
    """A second run does no step and foretells nothing; outcomes that come late make the third learn anew, and are shown."""
    first = retrain(shop, CONFIG, at=END)
    assert first.is_new
    assert first.verdict.outcome == "log cannot answer"
    words = {p.name: p.word for p in first.verdict.parts}
    assert words["off-policy evaluation"] == words["contract"] == words["latency"] == words["calibration"] == "pass"
    assert words["simulator"] == "open"
    assert States(shop.database).get("shop", first.verdict.policy).state == "candidate"
    (foretold,) = forecasts_of(shop.database)
    assert foretold.low < foretold.value < foretold.high
    audit_rows = shop.database.rows("SELECT COUNT(*) FROM audit")
    second = retrain(shop, CONFIG, at=END + timedelta(hours=1))
    assert (second.is_new, second.done, second.id) == (False, (), first.id)
    assert second.skipped == ("candidates", "judged", "simulated")
    assert shop.database.rows("SELECT COUNT(*) FROM audit") == audit_rows
    assert len(forecasts_of(shop.database)) == len(verdicts(shop.database)) == 1
    _comes_late(shop, first)


def _comes_late(shop: DecisionService, first: Run) -> None:
    late = [
        OutcomeRequest(f"u{i}", "subscribed", id=f"late{i}", at=START + timedelta(minutes=8 * i + 60))
        for i in range(0, 900, 3)
    ]
    shop.outcome_many(late)
    second = retrain(shop, CONFIG, at=END + timedelta(hours=2))
    assert second.is_new
    assert second.done == ("candidates", "judged", "simulated")
    assert second.verdict.id != first.verdict.id
    told = second.late["primary"]
    assert told["n_changed"] == 300
    assert told["mean_now"] > told["mean_before"]
    assert "have another reward now" in told["sentence"]
    kept = last_run(shop.database, "shop")
    assert kept is not None
    assert kept["late_truth"]["primary"]["n_changed"] == 300


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(shop_home: Path, tmp_path: Path) -> None:
    """SIGKILL while it judges: the next run takes the candidates as they are and comes to the word of a run without a kill."""
    home = tmp_path / "home"
    shutil.copytree(shop_home, home)
    command = [
        sys.executable,
        "-m",
        "api.cli",
        "retrain",
        "shop",
        "--home",
        str(home),
        "--no-simulator",
        "--as-of-log",
        "--json",
    ]
    command += ["--candidates", "greedy_logistic"]
    killed = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert killed.stderr is not None
    for line in killed.stderr:
        if line.strip() == "judged":
            killed.send_signal(signal.SIGKILL)
            break
    killed.wait()
    killed.stderr.close()
    assert killed.returncode == -signal.SIGKILL
    assert not (home / "retrain" / "shop" / "judged").exists()
    made = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    told = json.loads(made.stdout)
    assert (told["skipped"], told["done"]) == (["candidates"], ["judged", "simulated"])
    with open_service(home, secret=SECRET, clock=lambda: END) as service:
        assert [v.policy for v in verdicts(service.database)] == [told["verdict"]["policy"]]


@pytest.mark.slow
def test_no_gain_is_refused_and_too_little_is_said(tmp_path: Path) -> None:
    """Where all offers earn the same, what would be worse is refused; a log without closed windows is no ground to judge."""
    with open_service(tmp_path / "none", secret=SECRET, clock=lambda: END) as service:
        _shop(service, n=2_400, effect=0.0)
        with pytest.raises(InvalidInputError, match="has a closed window"):
            retrain(service, CONFIG, at=START + timedelta(hours=1))
        run = retrain(service, CONFIG, at=END)
        assert run.verdict.outcome in ("refuse", "log cannot answer")
        assert run.verdict.reasons
        bad = ("the page shows other offers",)
        with pytest.raises(StateError, match="nothing is learned while the log"):
            retrain(service, CONFIG, at=END, health=lambda *_: bad)


def test_logs_of_other_rewards_are_put_beside_by_their_decisions(shop: DecisionService) -> None:
    """Rows for a guardrail are those of the same decisions, wherever in its log they lie."""
    batch = exported(shop.database, "shop", as_of=END)
    assert batch.decision_ids is not None
    turned = batch.take(np.arange(len(batch))[::-1])
    rows = turned.take(same_decisions(turned, batch.decision_ids[5:9]))
    assert rows.decision_ids is not None
    assert sorted(rows.decision_ids) == sorted(batch.decision_ids[5:9])


def test_any_name_of_a_placement_is_part_of_a_path() -> None:
    """Plain names stay as they are; none leads out of the folder, and each is part of a policy's name."""
    assert plain_name("home_page") == "home_page"
    for name in ("..", ".", "a/b", "x@y", "../../etc"):
        assert not set(plain_name(name)) & set("/@")
        assert not plain_name(name).startswith(".")


def test_one_process_retrains_a_placement(tmp_path: Path) -> None:
    """While another process over the store, on this host or another, has claimed a placement, its retraining is refused."""
    with open_shop(tmp_path) as service:
        other = ownership_of(service.database)
        assert other.claim("retrain shop")
        with pytest.raises(ConflictError, match="another process retrains 'shop'"):
            retrain(service, CONFIG, at=END)
        other.close()
        with pytest.raises(InvalidInputError, match="has a closed window"):
            retrain(service, CONFIG, at=END)


def test_a_configuration_reads_back_what_it_wrote() -> None:
    """Plain values and back are equal; an unknown candidate is named with the nearest."""
    config = RetrainConfig("shop", memories_days=(7.0, 0.0))
    assert config_from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(UnknownNameError, match="did you mean 'greedy_logistic'"):
        RetrainConfig("shop", candidates=("greedy_logistics",))

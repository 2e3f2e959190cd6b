"""PPO through RLlib in processes of its own: trained, resumed, exported, and served without ray or torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.training.reward import fit_reward_model
from engine.training.rl import RLSettings, train
from engine.training.rl_export import PARITY_TOLERANCE
from offline_eval.interop.arrow import read_parquet, write_parquet
from policies.artifact import load_artifact, save_artifact
from policies.contract import check_policy
from policies.errors import InvalidInputError, StateError
from policies.features import FeatureSpace
from policies.fixed import FixedOrder, Uniform
from policies.registry import load_policy
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import reference
from simulator.scenarios.files import save_scenario
from simulator.scenarios.named import retention_tabular
from tests.policies.worlds import batch


def test_a_folder_with_a_policy_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """Minutes of training are not spent on a result that may not be written, nor on resuming from nothing."""
    (tmp_path / "policy").mkdir()
    with pytest.raises(StateError, match="--resume"):
        train(tmp_path / "scenario", tmp_path, settings=RLSettings())
    with pytest.raises(StateError, match="no checkpoint"):
        train(tmp_path / "scenario", tmp_path, settings=RLSettings(), is_resumed=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One iteration, and one more from its checkpoint; each a process."""
    folder = tmp_path_factory.mktemp("rl")
    save_scenario(reference(), folder / "scenario")
    for extra in ((), ("--resume",)):
        done = _module("--scenario", folder / "scenario", "--out", folder / "out", "--iterations", "1", *extra)
        assert done.returncode == 0, done.stderr[-3000:]
        (folder / "out" / "training.json").rename(folder / f"training{len(extra)}.json")
    return folder


def _module(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine.training.rl", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.rllib
@pytest.mark.slow
def test_training_goes_on_from_its_checkpoint(trained: Path) -> None:
    """The second process begins at iteration 2, and each says what it earned and how far the export is off."""
    first, second = (json.loads((trained / f"training{i}.json").read_text()) for i in (0, 1))
    assert [h["iteration"] for h in first["history"]] == [1]
    assert [h["iteration"] for h in second["history"]] == [2]
    assert second["in_simulation"] is True
    for report in (first, second):
        assert np.isfinite(report["history"][0]["reward_per_visitor"])
        assert report["export_difference"] <= PARITY_TOLERANCE


@pytest.mark.rllib
@pytest.mark.slow
def test_the_export_is_a_policy_like_any_other(trained: Path) -> None:
    """Loaded from disk it keeps the contract on visits of the site, masks included."""
    policy = load_policy(load_artifact(trained / "out" / "policy"))
    run = rollout(reference(), policy, n_subjects=60, visit_days=3, seed=5)
    rows = np.flatnonzero(~run.table.eligible.all(axis=1))[:11]
    assert len(rows) == 11
    check_policy(policy, run.table.take(rows))


@pytest.mark.rllib
@pytest.mark.slow
def test_serving_the_export_loads_no_training_framework(trained: Path) -> None:
    """A process that loads the policy and decides has imported neither ray nor torch."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from policies.artifact import load_artifact\nfrom policies.registry import load_policy\n"
        "from simulator.rollouts import rollout\nfrom simulator.scenarios.car_subscription import reference\n"
        f"p = load_policy(load_artifact(Path({str(trained / 'out' / 'policy')!r})))\n"
        "rollout(reference(), p, n_subjects=20, visit_days=2, seed=1)\n"
        "print(sorted({'ray', 'torch', 'tensorflow', 'pandas'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_settings_without_sense_are_refused() -> None:
    """An unknown algorithm is named beside the known ones, and every environment needs a step."""
    with pytest.raises(InvalidInputError, match="ppo, dqn, bc, marwil"):
        RLSettings(algorithm="sarsa")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="one step for each"):
        RLSettings(n_envs=64, steps_per_iteration=32)


@pytest.mark.rllib
@pytest.mark.slow
def test_dqn_obeys_the_mask_and_serves_its_best_value(tmp_path: Path) -> None:
    """One iteration judged by a reward model: the export keeps the contract and never shows what is not allowed."""
    site = retention_tabular()
    log = rollout(site, Uniform(), n_subjects=400, visit_days=3, seed=1).interactions("clicked")
    save_scenario(site, tmp_path / "scenario")
    save_artifact(fit_reward_model(log, kind="logistic").to_artifact(), tmp_path / "model")
    done = _module(
        "--scenario", tmp_path / "scenario", "--out", tmp_path / "out", "--algorithm", "dqn", "--iterations", "1",
        "--reward-model", tmp_path / "model",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    policy = load_policy(load_artifact(tmp_path / "out" / "policy"))
    check_policy(policy, log.table.take(np.flatnonzero(~log.table.eligible.all(axis=1))[:11]))
    shown = policy.probabilities(log.table)
    assert not shown[~log.table.eligible].any()
    # Two values may tie after one iteration: then the best offers share the row evenly, and nothing else gets any.
    assert np.isin(shown, (0.0, *(1.0 / np.arange(1, shown.shape[1] + 1)))).all()
    assert (np.where(shown > 0.0, shown, shown.max(axis=1, keepdims=True)) == shown.max(axis=1, keepdims=True)).all()


@pytest.mark.rllib
@pytest.mark.slow
def test_a_cloned_policy_acts_like_the_one_in_the_log(tmp_path: Path) -> None:
    """Cloned from the log of a rule with a third of exploration, the network shows the rule's offer most, and no wrong one."""
    site = retention_tabular()
    run = rollout(site, FixedOrder(("suv_care",)), n_subjects=400, visit_days=3, seed=1, explore_share=0.3)
    write_parquet(run.interactions("clicked"), tmp_path / "log.parquet")
    done = _module(
        "--log", tmp_path / "log.parquet", "--out", tmp_path / "out", "--algorithm", "bc", "--iterations", "5"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    policy = load_policy(load_artifact(tmp_path / "out" / "policy"))
    table = read_parquet(tmp_path / "log.parquet").table
    p = policy.probabilities(table)
    assert p[:, table.offers.index_of("suv_care")][table.eligible[:, table.offers.index_of("suv_care")]].mean() > 0.4
    check_policy(policy, table.take(slice(0, 11)))


@pytest.mark.slow
def test_an_episode_is_a_subject_in_the_order_of_its_times(tmp_path: Path) -> None:
    """Rows of two subjects out of order become two episodes with their own offers and rewards, in order."""
    pytest.importorskip("ray", reason="missing tool: ray")
    import msgpack
    import msgpack_numpy
    import pyarrow.parquet as pq
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    from engine.training.rl_episodes import write_episodes

    base, chosen = batch(5), np.arange(5)
    eligible = base.table.eligible.copy()
    eligible[chosen, chosen] = True
    table = replace(
        base.table,
        eligible=eligible,
        subjects=np.asarray(["b", "a", "a", "b", "a"]),
        at=np.asarray([3, 9, 1, 2, 5], dtype="datetime64[us]"),
    )
    log = replace(base, table=table, chosen=chosen, probabilities=None,
                  propensity=np.full(5, 0.2), reward=np.asarray([0.0, 1.0, 2.0, 3.0, 4.0]))  # fmt: skip
    folder = write_episodes(log, FeatureSpace.fit(table), tmp_path / "episodes")
    rows = pq.read_table(folder)["item"].to_pylist()
    made = [SingleAgentEpisode.from_state(msgpack.unpackb(r, object_hook=msgpack_numpy.decode)) for r in rows]
    assert [[int(a) for a in e.get_actions()] for e in made] == [[2, 4, 1], [3, 0]]
    assert [[float(r) for r in e.get_rewards()] for e in made] == [[2.0, 4.0, 1.0], [3.0, 0.0]]
    assert all(e.is_done for e in made)
    mask = np.asarray(made[0].get_observations(slice(0, 3)))[:, :5]
    assert np.array_equal(mask, eligible[[2, 4, 1]])

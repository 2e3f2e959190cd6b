"""PPO through RLlib in processes of its own: trained, resumed, exported, and served without ray or torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.training.rl import RLSettings, train
from engine.training.rl_export import PARITY_TOLERANCE
from policies.artifact import load_artifact
from policies.contract import check_policy
from policies.errors import StateError
from policies.registry import load_policy
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import reference
from simulator.scenarios.files import save_scenario


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

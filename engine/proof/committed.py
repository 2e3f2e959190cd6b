"""What is fixed before anything is trained, as one hash: worlds, incumbent, metrics, sample size, and the method itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from engine.demo.reading import WORTHWHILE_LIFT
from engine.proof.config import ProofConfig
from engine.proof.grid import RANGES, grid_worlds
from engine.proof.learning import CANDIDATES, REWARDS, RIDGE
from engine.proof.live import sample_size, statistics_plan
from policies.errors import StateError
from simulator.habit import HabitScenario
from simulator.parameters import WorldParameters
from simulator.scenarios.car_subscription import reference
from simulator.scenarios.sealed import SealedWorld, commitment, sealed_worlds

# Changing one of these is another proof.
_METHOD = ("coverage", "grid", "learning", "live", "one_world", "rivals", "truth")


def sealed(config: ProofConfig) -> list[SealedWorld]:
    """The sealed worlds of a run."""
    return sealed_worlds(config.n_sealed, seed=config.seed)


def committed(config: ProofConfig) -> dict[str, Any]:
    """Everything that is fixed, in plain words, and ``hash`` over all of it."""
    plan = statistics_plan(sample_size(0.1, config), config)
    told: dict[str, Any] = {
        "sizes": config.to_json(),
        "worlds": {
            "sealed": commitment(sealed(config)),
            "reference": _parameters(reference().parameters),
            "other family": _parameters(HabitScenario().parameters),
            "grid": {"ranges": RANGES, "points": [w.at for w in grid_worlds(config.n_grid, seed=config.seed)]},
        },
        "incumbent": "best single offer per stage by kept 30 days, self-normalised, on the even rotation of the training log",
        "metrics": [asdict(m) for m in plan.metrics],
        "sample": {
            "worthwhile_lift": WORTHWHILE_LIFT, "primary": plan.primary.name, "alpha": plan.alpha, "power": config.power,
            "looks": plan.n_looks, "guardrail_share": plan.guardrail_share,
            "rule": "required_subjects for the worthwhile lift of kept per visitor, from the training log's kept per visitor",
        },
        "learners": {"candidates": CANDIDATES, "rewards": REWARDS, "ridge": RIDGE},
        "answer": "lift where the challenger shows other offers than the incumbent, the log does not say 'do not use' and the live experiment says ship; otherwise cannot say",
        "method": {name: _source(name) for name in _METHOD},
    }  # fmt: skip
    plain = json.loads(json.dumps(told))
    return {"hash": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest(), **plain}


def commit(config: ProofConfig) -> dict[str, Any]:
    """Write the commitment into the folder, or check that it is the one that lies there.

    Raises
    ------
    StateError
        If the folder holds another proof.
    """
    told, path = committed(config), config.keep / "commitment.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))["hash"]
        if found != told["hash"]:
            raise StateError(
                f"{config.keep} holds the proof {found[:12]}…; this one is {told['hash'][:12]}…: give another folder with "
                "--keep, or the same seed, sizes and version"
            )
        return told
    config.keep.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def _parameters(parameters: Any) -> dict[str, Any]:
    assert isinstance(parameters, WorldParameters) or hasattr(parameters, "values")
    return {f.name: asdict(getattr(parameters, f.name)) for f in fields(parameters)}


def _source(name: str) -> str:
    return hashlib.sha256(Path(__file__).with_name(f"{name}.py").read_bytes()).hexdigest()

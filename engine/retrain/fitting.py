"""Reward models and the candidates over them, as a process of its own: ``python -m engine.retrain.fitting``.

LightGBM and its friends stay out of the process that retrains, and of the service.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from engine.retrain.records import CANDIDATES, RetrainConfig, config_from_json
from engine.retrain.split import by_time, remembered
from engine.training.reward import Kind, fit_reward_model
from offline_eval.interop.arrow import read_parquet
from policies.artifact import save_artifact
from policies.errors import InvalidInputError, NextofferError
from policies.features import FeatureSpace
from policies.greedy import greedy
from policies.onnx_policy import OnnxRewardModel
from policies.protocols import SaveablePolicy
from policies.records import IntArray, InteractionBatch
from policies.squarecb import squarecb


def fit_candidates(batch: InteractionBatch, learn: IntArray, config: RetrainConfig) -> dict[str, SaveablePolicy]:
    """Every candidate by name; one that the rows cannot fit is left out.

    Raises
    ------
    InvalidInputError
        If none could be fitted, with the reason of the last.
    """
    out: dict[str, SaveablePolicy] = {}
    models: dict[tuple[str, float], OnnxRewardModel] = {}
    reason = ""
    for days in config.memories_days:
        part = batch.take(remembered(batch, learn, days=days))
        try:
            space = FeatureSpace.fit(part.table)
            for name in config.candidates:
                kind, rule = CANDIDATES[name]
                key = (kind, days)
                if key not in models:
                    models[key] = fit_reward_model(part, kind=_kind(kind), seed=config.seed, space=space)
                made = greedy(models[key]) if rule == "greedy" else squarecb(models[key], n_seen=len(part))
                out[name if not days else f"{name}_{days:g}d"] = made
        except InvalidInputError as error:
            reason = str(error)
    if not out:
        raise InvalidInputError(f"no candidate could be fitted: {reason}")
    return out


def _kind(name: str) -> Kind:
    return name  # type: ignore[return-value]  # names of CANDIDATES are kinds


def main(arguments: list[str] | None = None) -> int:
    """Fit what the configuration names on an exported log, and save an artefact a candidate."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        config = config_from_json(json.loads(given.config.read_text(encoding="utf-8")))
        batch = read_parquet(given.log)
        learn, _ = by_time(batch, held_out_share=config.held_out_share, window_days=config.window_days)
        for name, policy in fit_candidates(batch, learn, config).items():
            save_artifact(policy.to_artifact(), given.out / name)
            print(f"{name} fitted", flush=True)  # noqa: T201 - the job's log
    except NextofferError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

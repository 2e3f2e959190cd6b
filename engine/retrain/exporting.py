"""What a retraining works on: the log of closed windows by reward, brought up to now, and what serves at the moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.decisions.service import DecisionService
from engine.experiments.records import BASELINE
from engine.jobs.steps import digest
from engine.offers.placement import Placement
from engine.registry.versions import snapshot_folder
from engine.retrain.records import RetrainConfig
from engine.rewards.corrections import LateTruth, correct_files
from engine.rewards.definition import RewardDefinition, RewardTerm
from engine.rewards.files import export_files
from engine.store.database import Database
from engine.store.published import newest_published
from policies.artifact import load_artifact, save_artifact
from policies.errors import InvalidInputError
from policies.fixed import FixedOrder


def export_logs(
    database: Database, placement: Placement, config: RetrainConfig, folder: Path, *, at: datetime
) -> tuple[dict[str, Path], dict[str, Any]]:
    """The placement's own reward and those of the guardrails, brought up to now: first what is known anew of old decisions."""
    window_s = placement.reward.window_s
    wanted = {"primary": placement.reward, "margin": RewardDefinition((RewardTerm(config.margin),), window_s=window_s)}
    if placement.reward.kinds != {config.kept}:
        wanted["kept"] = RewardDefinition((RewardTerm(config.kept),), window_s=window_s)
    logs: dict[str, Path] = {}
    pending = folder / "late_truth.json"
    late: dict[str, Any] = json.loads(pending.read_text(encoding="utf-8")) if pending.exists() else {}
    for name, definition in wanted.items():
        # Another definition of success is another log: what was exported under the old one stays as it was.
        path = folder / "log" / f"{name}-{digest(definition.to_json())[:8]}"
        if (path / "_manifest.json").exists():
            found = correct_files(database, path, as_of=at)
            if found.is_any or name not in late:
                late[name] = _both(late.get(name), found)
            pending.write_text(json.dumps(late), encoding="utf-8")
        export_files(database, placement.id, path, as_of=at, definition=definition)
        if not any(path.rglob("*.parquet")):
            raise InvalidInputError(
                f"no decision of placement {placement.id!r} has a closed window ({window_s:g} s) by {at.isoformat()}; wait"
            )
        logs[name] = path
    return logs, late


def _both(before: Mapping[str, Any] | None, found: LateTruth) -> dict[str, Any]:
    """Late truth of a run that was cut off, and of the one that goes on with it."""
    told = found.to_json()
    if before is None or not before.get("n_changed", 0) + before.get("n_added", 0) + before.get("n_dropped", 0):
        return told
    for name in ("n_changed", "n_added", "n_dropped", "n_files"):
        told[name] += before[name]
    told["n_rows"], told["mean_before"] = before["n_rows"], before["mean_before"]
    fields = {k: v for k, v in told.items() if k != "sentence"}
    return LateTruth(**fields).to_json()


def log_digest(path: Path) -> str:
    """Digest of an exported log: what is learned from it depends on nothing else."""
    document = json.loads((path / "_manifest.json").read_text(encoding="utf-8"))
    return digest([document["definition"], document["files"]])


def incumbent_of(service: DecisionService, placement: Placement, folder: Path) -> tuple[Path, str]:
    """What serves now, as an artefact: the newest snapshot where it learns."""
    path = folder / "incumbent"
    ids = placement.offer_set.ids
    if placement.policy is None or placement.policy == BASELINE:
        artifact = FixedOrder((*placement.baseline, *(o for o in ids if o not in placement.baseline))).to_artifact()
    else:
        number = newest_published(service.database, placement.policy)
        if number is None:
            artifact = service.policies.artifact(placement.policy)
        else:
            artifact = load_artifact(snapshot_folder(service.policies.folder, placement.policy, number))
    if not path.exists() or load_artifact(path).digest != artifact.digest:
        shutil.rmtree(path, ignore_errors=True)
        save_artifact(artifact, path)
    return path, digest([placement.policy or BASELINE, artifact.digest])

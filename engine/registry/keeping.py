"""Ten versions of a name are kept; what an older one leaves behind is its row, and what it takes along is said.

An artefact is needed as long as something may load it: a placement, an experiment that has not ended, a version that is on its
way or was live last, and the audit replay of decisions whose bodies are still in the store.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update

from engine.offers.stored import all_placements
from engine.registry.states import States
from engine.registry.versions import PolicyVersion, Registry, snapshot_folder
from engine.store import tables
from engine.store.changes import Change
from engine.store.database import Database, record_change
from engine.store.facts import to_us

KEEP = 10


@dataclass(frozen=True, slots=True)
class Tidied:
    """What a tidying did.

    Attributes
    ----------
    removed
        Versions whose artefacts were removed.
    kept
        Versions beyond the ten that stay, and why, in a sentence each.
    """

    removed: tuple[str, ...]
    kept: Mapping[str, str]


def tidy(
    database: Database,
    registry: Registry,
    *,
    at: datetime,
    actor: str = "",
    keep: int = KEEP,
    even_audited: bool = False,
) -> Tidied:
    """Remove artefacts of versions beyond the newest ones of each name, where nothing needs them.

    Parameters
    ----------
    even_audited
        Remove also what the audit replay of logged decisions needs: the log of changes then says of how many decisions, and
        the replay names the version as removed.
    """
    versions = registry.versions()
    for version in versions:
        if version.removed_at is not None:
            _take_files(database, registry, version)  # what a crash left between the row and the files
    in_use = _in_use(database)
    removed: list[str] = []
    kept: dict[str, str] = {}
    for version in _beyond(versions, keep):
        ref = str(version.ref)
        if ref in in_use:
            kept[ref] = in_use[ref]
            continue
        n = n_audited(database, ref)
        if n and not even_audited:
            kept[ref] = (
                f"audit replay of {n:,} logged decisions needs it; it can go once retention has moved them, or with --even-audited"
            )
            continue
        _remove(database, registry, version, at=at, actor=actor, n_decisions=n, keep=keep)
        removed.append(ref)
    return Tidied(tuple(removed), kept)


def n_audited(database: Database, ref: str) -> int:
    """How many decisions of a version are still in the store whole, so that a replay can recompute them."""
    table = tables.decisions
    with database.reading() as connection:
        query = select(func.count()).where(table.c.policy == ref, func.length(table.c.body) > 0)
        return int(connection.execute(query).scalar_one())


def _beyond(versions: list[PolicyVersion], keep: int) -> list[PolicyVersion]:
    """Versions that are not among the newest of their name and still have an artefact, oldest first."""
    out: list[PolicyVersion] = []
    for name in dict.fromkeys(v.ref.name for v in versions):
        mine = [v for v in versions if v.ref.name == name and v.removed_at is None]
        out += mine[: max(0, len(mine) - keep)]
    return out


def _in_use(database: Database) -> dict[str, str]:
    """Versions that something may load, and what."""
    out: dict[str, str] = {}
    with database.reading() as connection:
        for name, (placement, _) in all_placements(connection).items():
            for role in ("policy", "fallback", "encoder"):
                ref = getattr(placement, role)
                if ref:
                    out[ref] = f"it is the {role} of placement {name}"
        table = tables.experiments
        running = select(table.c.id, table.c.document).where(table.c.state.in_(("draft", "scheduled", "running")))
        for experiment, text in connection.execute(running):
            for variant in json.loads(text)["variants"]:
                out.setdefault(variant["policy"], f"experiment {experiment} may show it")
    for standing in States(database).all():
        if standing.state != "retired":
            out.setdefault(standing.policy, f"it is {standing.state} at {standing.placement}")
        if standing.state == "live" and standing.previous:
            out.setdefault(standing.previous, f"a rollback at {standing.placement} would bring it back")
    return out


def _remove(
    database: Database,
    registry: Registry,
    version: PolicyVersion,
    *,
    at: datetime,
    actor: str,
    n_decisions: int,
    keep: int,
) -> None:
    """First the row says so, then the files go: what a crash leaves in between, the next run takes."""
    reason = f"older than the {keep} newest of its name"
    if n_decisions:
        reason += f"; {n_decisions:,} logged decisions of it cannot be recomputed any more"
    versions = tables.policy_versions
    with database.writing() as connection:
        connection.execute(
            update(versions)
            .where(versions.c.name == version.ref.name, versions.c.version == version.ref.version)
            .values(removed_at_us=to_us(at))
        )
        record_change(
            connection,
            Change(at, actor, reason),
            action="remove artefact",
            what=f"policy {version.ref}",
            document={"n_decisions": n_decisions},
        )
    registry.forget(str(version.ref))
    _take_files(database, registry, version)


def _take_files(database: Database, registry: Registry, version: PolicyVersion) -> None:
    """Remove what lies in the folder of a removed version, unless it has been registered again meanwhile.

    Put aside while the row is locked, which ``Registry.register`` waits for; the slow part comes after it.
    """
    folder = registry.folder / version.location
    mine = (folder, snapshot_folder(registry.folder, str(version.ref), 0).parent)
    aside = [path.with_name(f".{path.name}.gone") for path in mine]
    versions = tables.policy_versions
    here = (versions.c.name == version.ref.name) & (versions.c.version == version.ref.version)
    if any(path.exists() for path in mine):
        with database.writing() as connection:
            removed_at = connection.execute(select(versions.c.removed_at_us).where(here).with_for_update()).scalar()
            if removed_at is not None:
                for path, gone in zip(mine, aside, strict=True):
                    if path.exists():
                        shutil.rmtree(gone, ignore_errors=True)
                        path.rename(gone)
    for gone in aside:
        shutil.rmtree(gone, ignore_errors=True)

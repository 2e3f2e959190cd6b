"""Versions of policies and encoders: a row in the store, an artefact in a folder, loaded once per process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, update

from engine.experiments.records import BASELINE, OWN_POLICY
from engine.rewards.seen import BOT
from engine.store import tables
from engine.store.changes import Change
from engine.store.database import Database, record_change
from engine.store.facts import check_text, from_us, to_us
from engine.store.published import newest_published
from policies.artifact import Artifact, load_artifact, save_artifact
from policies.errors import ArtifactError, InvalidInputError, NextofferError, StoreUnavailableError, UnknownNameError
from policies.features import FeatureSpace
from policies.protocols import Policy
from policies.records import PolicyRef
from policies.registry import known_kinds, load_policy

ENCODER_KIND = "sequence_encoder"
FOLLOW_S = 0.25
# A snapshot that cannot be loaded is tried again: soon, as a disk may only have been busy, then ever more seldom.
RETRY_S = 1.0
MAX_RETRY_S = 60.0
_DOUBLINGS = 10  # after a day of tries 2 ** n would be no float any more

_log = logging.getLogger("nextoffer.registry")

_RESERVED = (BASELINE, BOT, OWN_POLICY)


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One registered version.

    Attributes
    ----------
    feature_space
        Hash of the feature space it was fitted with; "" where it has none.
    removed_at
        When its artefact was removed; None while it is there.
    """

    ref: PolicyRef
    kind: str
    location: str
    feature_space: str
    created_at: datetime
    removed_at: datetime | None = None


class RemovedVersionError(ArtifactError):
    """The artefact of a version was removed on purpose; its row stays."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPolicy:
    """A policy ready to act, and how its decisions name it.

    Attributes
    ----------
    number
        Of the learner's snapshot; 0: as it was registered.
    """

    policy: Policy
    ref: PolicyRef
    snapshot: str
    feature_space: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class _Failed:
    """A snapshot, or 0 for the version as it was registered, that could not be loaded: why, how often, and when it is tried again."""

    number: int
    n_tries: int
    retry_at: float
    why: str


class Registry:
    """Which versions exist, and the loaded form of those in use; safe for several threads.

    Parameters
    ----------
    folder
        Artefacts are copied to ``folder/name/version``; a version is the digest of its content.

    Attributes
    ----------
    warm
        Called with a version and its new snapshot before that serves.
    """

    def __init__(self, database: Database, folder: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self.folder = folder
        self._monotonic = monotonic
        self._failed: dict[str, _Failed] = {}
        self._followed_at = 0.0
        self.is_followed = False  # somebody else calls follow
        self.warm: Callable[[str, Policy], None] | None = None
        self._loaded: dict[str, LoadedPolicy] = {}
        self._lock = threading.Lock()

    def register(self, artifact: Artifact | Path, *, name: str, at: datetime, actor: str = "") -> PolicyRef:
        """Keep an artefact as a version of a name; registering the same content again changes nothing.

        Raises
        ------
        ArtifactError
            If the artefact is damaged, or no policy can be made of it.
        """
        check_text(name, what="name of a policy", max_length=128)
        if "@" in name or "/" in name or name.startswith("."):
            raise InvalidInputError(f"name of a policy is {name!r}; expected no '@', no '/' and no leading dot")
        if name in _RESERVED:
            raise InvalidInputError(
                f"name {name!r} means what decides where no registered version does; choose another name"
            )
        if isinstance(artifact, Path):
            artifact = load_artifact(artifact)
        feature_space = _check_loads(artifact)
        ref = PolicyRef(name, artifact.digest)
        folder = self.folder / ref.name / ref.version
        if not folder.exists():
            save_artifact(artifact, folder)
        versions = tables.policy_versions
        mine = (versions.c.name == ref.name) & (versions.c.version == ref.version)
        with self._database.writing() as connection:
            known = connection.execute(select(versions.c.removed_at_us).where(mine).with_for_update()).first()
            if known is not None and known.removed_at_us is not None:
                # A tidying may have taken it since the look above; it takes nothing while the row is locked.
                if not folder.exists():
                    save_artifact(artifact, folder)
                connection.execute(update(versions).where(mine).values(removed_at_us=None))
                record_change(connection, Change(at, actor), action="register", what=str(ref), document={"again": True})
            if known is None:
                connection.execute(
                    insert(versions).values(
                        name=ref.name,
                        version=ref.version,
                        kind=artifact.kind,
                        location=f"{ref.name}/{ref.version}",
                        feature_space=feature_space,
                        created_at_us=to_us(at),
                    )
                )
                record_change(
                    connection,
                    Change(at, actor),
                    action="register",
                    what=str(ref),
                    document={"kind": artifact.kind},
                )
        return ref

    def versions(self) -> list[PolicyVersion]:
        """All versions, oldest first."""
        table = tables.policy_versions
        with self._database.reading() as connection:
            rows = connection.execute(
                select(table).order_by(table.c.created_at_us, table.c.name, table.c.version)
            ).all()
        return [
            PolicyVersion(
                PolicyRef(r.name, r.version),
                r.kind,
                r.location,
                r.feature_space,
                from_us(r.created_at_us),
                None if r.removed_at_us is None else from_us(r.removed_at_us),
            )
            for r in rows
        ]

    def find(self, ref: str) -> PolicyVersion:
        """Version by ``name@version``; by ``name`` alone the newest.

        Raises
        ------
        UnknownNameError
            If there is none.
        """
        versions = self.versions()
        for version in reversed(versions):
            if ref in (str(version.ref), version.ref.name):
                return version
        raise UnknownNameError("policy version", ref, [n for v in versions for n in (v.ref.name, str(v.ref))])

    def artifact(self, ref: str) -> Artifact:
        """Content of a version, checked against its hashes."""
        return load_artifact(self.folder / self.there(ref).location)

    def load(self, ref: str) -> LoadedPolicy:
        """Policy of a version, loaded once.

        Raises
        ------
        UnknownNameError, ArtifactError
            If there is no such version or its files are gone or damaged; ``RemovedVersionError`` where they were removed. Files that
            could not be loaded are read again after a second, then after two, then four: decisions must not wait for them each time.
        """
        if not self.is_followed and self._monotonic() - self._followed_at > FOLLOW_S:
            self.follow()
        loaded = self._loaded.get(ref)
        if loaded is not None:
            return loaded
        failed = self._failed.get(ref)
        if failed is not None and failed.number == 0 and self._monotonic() < failed.retry_at:
            raise ArtifactError(failed.why)
        version = self.there(ref)
        key = str(version.ref)
        try:
            policy = load_policy(load_artifact(self.folder / version.location))
        except Exception as error:
            self._put_off(key, 0, error)
            raise
        self._failed.pop(key, None)
        loaded = LoadedPolicy(policy, version.ref, version.ref.version, version.feature_space)
        self.publish(key, loaded)
        with suppress(StoreUnavailableError):
            self._follow(key)
        return self._loaded.get(key, loaded)

    def there(self, ref: str) -> PolicyVersion:
        """As ``find``, where its artefact has to be there too.

        Raises
        ------
        UnknownNameError, RemovedVersionError
            If there is no such version, or its artefact was removed.
        """
        version = self.find(ref)
        if version.removed_at is not None:
            raise RemovedVersionError(
                f"the artefact of {version.ref} was removed on {version.removed_at:%d %b %Y}; register it again from its folder, "
                "or name a newer version"
            )
        return version

    def forget(self, ref: str) -> None:
        """Let go of a loaded version; decisions in progress keep it."""
        with self._lock:
            self._loaded.pop(ref, None)
            self._failed.pop(ref, None)

    def follow(self) -> None:
        """Swap in the newest published snapshot of each loaded version; one that cannot be read leaves the old one serving."""
        self._followed_at = self._monotonic()
        with suppress(StoreUnavailableError):
            for ref in list(self._loaded):
                self._follow(ref)

    def _follow(self, ref: str) -> None:
        current, number = self._loaded.get(ref), newest_published(self._database, ref)
        if current is None or number is None or number <= current.number:
            return
        failed = self._failed.get(ref)
        if failed is not None and failed.number == number and self._monotonic() < failed.retry_at:
            return
        try:
            policy = load_policy(load_artifact(snapshot_folder(self.folder, ref, number)))
            if self.warm is not None:
                self.warm(ref, policy)
        except Exception as error:  # a plug-in may raise anything, and there are other versions to follow
            failed = self._put_off(ref, number, error)
            _log.warning(
                "snapshot %d of %s is not swapped in; tried again in %g s: %s",
                number, ref, failed.retry_at - self._monotonic(), failed.why,
            )  # fmt: skip
            return
        self._failed.pop(ref, None)
        self.publish(ref, LoadedPolicy(policy, current.ref, str(number), current.feature_space, number))

    def _put_off(self, ref: str, number: int, error: Exception) -> _Failed:
        before = self._failed.get(ref)
        n_tries = 1 + (before.n_tries if before is not None and before.number == number else 0)
        wait_s = min(RETRY_S * 2.0 ** min(n_tries - 1, _DOUBLINGS), MAX_RETRY_S)
        why = str(error) if isinstance(error, NextofferError | OSError) else f"{type(error).__name__}: {error}"
        self._failed[ref] = _Failed(number, n_tries, self._monotonic() + wait_s, why)
        return self._failed[ref]

    def publish(self, ref: str, loaded: LoadedPolicy) -> None:
        """Put a newer snapshot in the place of a version's loaded form; decisions in progress keep the old one.

        Of several threads the newest snapshot wins. A version as it was registered comes only where nothing is loaded, and a snapshot
        only where something is: the version may have been forgotten while it was read.
        """
        with self._lock:
            current = self._loaded.get(ref)
            if loaded.number == 0 if current is None else loaded.number > current.number:
                self._loaded[ref] = loaded


def snapshot_folder(folder: Path, ref: str, number: int) -> Path:
    """Where the snapshot of a learner lies."""
    name, _, version = ref.partition("@")
    return folder / name / f"{version}.snapshots" / f"{number:08d}"


def _check_loads(artifact: Artifact) -> str:
    if artifact.kind == ENCODER_KIND:
        from engine.models.encoder import SequenceEncoder

        SequenceEncoder.from_artifact(artifact)
        return ""
    if artifact.kind not in known_kinds():
        raise ArtifactError(
            f"the artefact is of kind {artifact.kind!r}; expected a {ENCODER_KIND!r} or one of the installed policies: "
            f"{', '.join(known_kinds()) or 'none'}"
        )
    load_policy(artifact)
    return _space_hash(artifact.manifest)


def _space_hash(manifest: Mapping[str, Any]) -> str:
    """Hash of the feature space that lies somewhere in a manifest (a policy over a model keeps the model's inside)."""
    for value in manifest.values():
        if isinstance(value, Mapping):
            if {"context", "blocks", "offer", "offer_levels"} <= set(value):
                return FeatureSpace.from_manifest(value).hash
            found = _space_hash(value)
            if found:
                return found
    return ""

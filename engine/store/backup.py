"""Backup and restore of a home folder while it serves: the store, artefacts, the draw's secret, key hashes, plans, cold files.

The SQLite store is copied by its online backup, which sees one consistent state and blocks no writer. Artefacts are copied before
it and once more after it, since a learner publishes and prunes meanwhile: whatever the copied store names as newest is there.
A backup appears whole or not at all; every file is listed with its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from engine.store.cold import sync_folder
from engine.store.database import Database
from policies.errors import ArtifactError, InvalidInputError, StoreUnavailableError

FORMAT = 1
STORE = "nextoffer.db"
_MANIFEST = "backup.json"
# Files of a running service that mean nothing elsewhere.
_LEFT_OUT = ("learner-locks",)


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds.

    Attributes
    ----------
    ledger_offset
        Newest fact in it; None where the store lies elsewhere (PostgreSQL) and has a backup of its own.
    """

    folder: Path
    n_files: int
    n_bytes: int
    ledger_offset: int | None


def back_up(home: Path, folder: Path, *, database: Database, at: datetime) -> Backup:
    """Copy a home folder, and its store if that is a SQLite file, into a new folder.

    Raises
    ------
    InvalidInputError
        If the folder exists.
    StoreUnavailableError
        If there is no room for it, or it cannot be written.
    """
    if folder.exists():
        raise InvalidInputError(f"{folder} exists already; a backup gets a folder of its own")
    if not home.is_dir():
        raise InvalidInputError(f"{home} is no folder; expected the home of a service")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _copy_new(home, scratch)
            offset = None
            if database.is_sqlite:
                offset = _copy_store(database.sqlite_path, scratch / STORE)
            _copy_new(home, scratch)
            files = {str(p.relative_to(scratch)): _hash(p) for p in _files(scratch)}
            document = {"format": FORMAT, "at": at.isoformat(), "ledger_offset": offset, "sha256": files}
            (scratch / _MANIFEST).write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")
            for path in _files(scratch):
                _sync(path)
            n_bytes = sum(p.stat().st_size for p in _files(scratch))
            scratch.rename(folder)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        sync_folder(folder.parent)
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailableError(
            f"cannot write the backup {folder} ({error}); check the folder and disk space"
        ) from error
    return Backup(folder, len(files), n_bytes, offset)


def restore(folder: Path, home: Path) -> Backup:
    """Put a backup into a new home folder, after every file was compared with its hash.

    Raises
    ------
    InvalidInputError
        If the home folder holds something, or the folder is no backup.
    ArtifactError
        If a file of the backup is missing or damaged; nothing was written then.
    """
    try:
        document = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = document["sha256"]
        version = document["format"]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInputError(f"{folder} is no backup ({error}); expected a folder with {_MANIFEST}") from error
    if version != FORMAT:
        raise InvalidInputError(f"{folder} is a backup of format {version}; this version reads {FORMAT}")
    if home.exists() and any(home.iterdir()):
        raise InvalidInputError(f"{home} is not empty; restore into a new folder and move it into place")
    for name, digest in files.items():
        path = folder / name
        if ".." in Path(name).parts or not path.is_file() or _hash(path) != digest:
            raise ArtifactError(f"{path} is missing or damaged; take another backup (nothing was written)")
    home.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        for name in files:
            target = scratch / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, target)
            _sync(target)
        if home.exists():
            home.rmdir()
        scratch.rename(home)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    sync_folder(home.parent)
    n_bytes = sum((home / name).stat().st_size for name in files)
    return Backup(home, len(files), n_bytes, document["ledger_offset"])


def _copy_store(path: Path, target: Path) -> int:
    source = sqlite3.connect(path)
    copy = sqlite3.connect(target)
    try:
        source.backup(copy)  # in one step: one read transaction, which in WAL mode blocks nobody
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, until a service opens it again
        found = copy.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            raise StoreUnavailableError(
                f"the copy of {path} is not sound ({found}); check the disk, then the store itself"
            )
        return int(copy.execute("SELECT next_offset - 1 FROM ledger_head").fetchone()[0])
    finally:
        copy.close()
        source.close()


def _copy_new(home: Path, target: Path) -> None:
    """Copy what is not there yet; a file that vanishes meanwhile was not needed."""
    for path in _files(home):
        name = path.relative_to(home)
        if name == Path(STORE) or (target / name).exists():
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(path, target / name)
        except FileNotFoundError:
            continue
    for folder in sorted(target.rglob("*.snapshots/*")):
        # A snapshot that was removed while it was copied may be here in part; one that is whole stays usable.
        if folder.is_dir() and not (folder / "manifest.json").exists():
            shutil.rmtree(folder)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_store = len(parts) == 1 and path.name.startswith(STORE) and path.name != STORE
        if any(p.startswith(".") for p in parts) or parts[0] in _LEFT_OUT or is_store:
            continue
        if path.is_file() and not path.is_symlink():
            yield path


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

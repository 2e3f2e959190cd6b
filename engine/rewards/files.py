"""The joined log as files: Parquet that ``nextoffer evaluate`` reads, or dsjson; streamed, and taken up where it stopped.

A folder holds one export of one placement: files by day under ``day=…/``, named by the offset they begin at, and
``_manifest.json``, which says up to which offset it goes. Only decisions with a closed window are in it, up to the first one that is
still open; the same command run again later adds what has closed since. A file is whole or absent, and a file that a crash left
unlisted is written again under its name.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa

from engine.rewards.definition import RewardDefinition
from engine.rewards.dsjson import line_of
from engine.rewards.export import union_of_offers
from engine.rewards.joined import MICROSECONDS, Joined, Stretch, end_of_closed, join
from engine.store.cold import sync_folder, write_whole
from engine.store.database import Database
from engine.store.facts import from_us, to_us
from engine.subjects.erasure import pseudonyms
from offline_eval.interop.arrow import OFFERS_KEY
from offline_eval.interop.columns import Columns
from policies.errors import InvalidInputError, StoreUnavailableError
from policies.records import OfferSet

Form = Literal["parquet", "dsjson"]
FORMAT = 1
STEP = 20_000
_RESERVED = Columns().names()


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export folder holds after a run.

    Attributes
    ----------
    n_rows, n_files
        Written by this run.
    next_offset
        Where the next run goes on.
    mixed
        Features that were text in some rows and numbers in others: missing where they do not fit.
    """

    folder: Path
    form: Form
    n_rows: int
    n_files: int
    next_offset: int
    mixed: tuple[str, ...] = ()


def export_files(
    database: Database,
    placement: str,
    folder: Path,
    *,
    form: Form = "parquet",
    as_of: datetime,
    definition: RewardDefinition,
    progress: Callable[[int], None] = lambda _: None,
) -> Exported:
    """Write what has matured since the folder's last export, or all of it into a new folder.

    Parameters
    ----------
    definition
        What counts; it must be the one that the folder began with.
    progress
        Told how many rows are written so far.

    Raises
    ------
    InvalidInputError
        If the folder holds something else.
    StoreUnavailableError
        If the disk is full; what is listed in the manifest stays usable.
    """
    if form not in ("parquet", "dsjson"):
        raise InvalidInputError(f"form is {form!r}; expected parquet or dsjson")
    manifest = Manifest.open(folder, form=form, placement=placement, definition=definition)
    as_of_us, known = to_us(as_of), database.head()
    end = end_of_closed(
        database, placement, definition, first_offset=manifest.next_offset, known_offset=known, as_of_us=as_of_us
    )
    sets: dict[str, OfferSet] = {}
    n_rows = n_files = 0
    for start in range(manifest.next_offset, end, STEP):
        stretch = Stretch(start, min(start + STEP, end), known, as_of_us)
        rows = join(database, placement, definition, stretch)
        bodies = [orjson.loads(b) for b in rows.bodies]
        for revision in dict.fromkeys(b["r"] for b in bodies):
            if revision not in sets:
                with database.reading() as connection:
                    sets[revision] = union_of_offers(connection, [revision])
        for day, first, last in _days(rows):
            part = range(first, last)
            path = folder / f"day={day}" / f"{rows.offsets[first]:012d}.{form}"
            if form == "parquet":
                write_whole(parquet_table(rows, bodies, part, sets, manifest), path)
            else:
                _write_lines(path, (_line(rows, bodies[i], i, sets) for i in part))
            manifest.add(path.relative_to(folder), len(part))
            n_files += 1
        n_rows += len(rows)
        manifest.next_offset = stretch.end_offset
        manifest.write()
        progress(n_rows)
    manifest.known(database, known)
    manifest.write()
    return Exported(folder, form, n_rows, n_files, manifest.next_offset, tuple(sorted(manifest.mixed)))


@dataclass(slots=True)
class Manifest:
    """What the folder holds."""

    folder: Path
    document: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, *, form: Form, placement: str, definition: RewardDefinition) -> Manifest:
        """The manifest of a folder, or that of a new export.

        Raises
        ------
        InvalidInputError
            If the folder holds something else.
        """
        path = folder / "_manifest.json"
        wanted = {"format": FORMAT, "form": form, "placement": placement, "definition": definition.to_json()}
        if path.exists():
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            for name, value in wanted.items():
                if document.get(name) != value:
                    raise InvalidInputError(
                        f"{folder} holds an export with {name} {document.get(name)}, not {value}; export into a new folder"
                    )
            return cls(folder, document)
        if folder.exists() and any(folder.iterdir()):
            raise InvalidInputError(f"{folder} is not empty and holds no export; name a new folder")
        return cls(folder, {**wanted, "next_offset": 1, "n_rows": 0, "files": [], "columns": {}, "mixed": []})

    @property
    def next_offset(self) -> int:
        """Where the next run goes on."""
        return int(self.document["next_offset"])

    @next_offset.setter
    def next_offset(self, offset: int) -> None:
        self.document["next_offset"] = offset

    @property
    def columns(self) -> dict[str, str]:
        """Whether each feature was text or a number when it was first exported."""
        columns: dict[str, str] = self.document["columns"]
        return columns

    @property
    def mixed(self) -> list[str]:
        """Features that were text in some rows and numbers in others."""
        mixed: list[str] = self.document["mixed"]
        return mixed

    def known(self, database: Database, offset: int) -> None:
        """Up to where facts are in the files, and how many erasures: what comes later is for ``corrections``.

        A manifest that has its own corrections due keeps what it knew: only ``correct_files`` may move past it.
        """
        self.document.setdefault("known_offset", offset)
        self.document.setdefault("n_erasures", len(pseudonyms(database)))

    def add(self, path: Path, n_rows: int) -> None:
        """List a file that lies there whole."""
        self.document["files"].append({"path": path.as_posix(), "n_rows": n_rows})
        self.document["n_rows"] += n_rows

    def write(self) -> None:
        """Put it on disk, whole."""
        content = json.dumps(self.document, indent=1, sort_keys=True).encode()
        _write_lines(self.folder / "_manifest.json", [content, b"\n"])


def _days(rows: Joined) -> Iterator[tuple[str, int, int]]:
    """Runs of rows of one day: the day and where the run begins and ends."""
    at = 0
    for day, run in itertools.groupby(rows.at_us, key=lambda us: us // (86_400 * MICROSECONDS)):
        n = sum(1 for _ in run)
        yield from_us(day * 86_400 * MICROSECONDS).date().isoformat(), at, at + n
        at += n


def _line(rows: Joined, body: dict[str, Any], i: int, sets: dict[str, OfferSet]) -> bytes:
    row = {
        "offset": rows.offsets[i],
        "id": rows.ids[i],
        "subject": rows.subjects[i],
        "at_us": rows.at_us[i],
        "policy": rows.policies[i],
        "experiment": rows.experiments[i],
        "phase": rows.phases[i],
        "variant": rows.variants[i],
    }
    return line_of(row, body, sets[body["r"]], reward=rows.rewards[i], placement=rows.placement)


def parquet_table(
    rows: Joined, bodies: Sequence[dict[str, Any]], part: range, sets: dict[str, OfferSet], manifest: Manifest
) -> Any:
    """Some joined decisions as an Arrow table.

    Parameters
    ----------
    bodies
        Of the rows, parsed.
    part
        Which rows.
    sets
        Offers by revision.
    """
    names = Columns()
    picked = [bodies[i] for i in part]
    data: dict[str, Any] = {
        names.offer: pa.array([rows.offers[i] for i in part], pa.string()),
        names.reward: pa.array([rows.rewards[i] for i in part], pa.float64()),
        names.propensity: pa.array([rows.propensities[i] for i in part], pa.float64()),
        names.eligible: pa.array([b["o"] for b in picked], pa.list_(pa.string())),
        names.subject: pa.array([rows.subjects[i] for i in part], pa.string()),
        names.at: pa.array([rows.at_us[i] for i in part], pa.timestamp("us")),
        names.decision_id: pa.array([rows.ids[i] for i in part], pa.string()),
        names.policy: pa.array([rows.policies[i] for i in part], pa.string()),
        names.variant: pa.array([rows.variants[i] or "" for i in part], pa.string()),
        names.phase: pa.array(
            ["" if rows.experiments[i] is None else f"{rows.experiments[i]}:{rows.phases[i]}" for i in part],
            pa.string(),
        ),
        names.variant_probability: pa.array([1.0 if b["q"] is None else b["q"] for b in picked], pa.float64()),
    }
    for name in sorted({f for b in picked for f in b["x"]}):
        column = f"feature.{name}" if name in _RESERVED else name
        data[column] = _feature(name, [b["x"].get(name) for b in picked], manifest)
    for name in sorted({v for b in picked for v in b["w"]}):
        width = next(len(b["w"][name]) for b in picked if name in b["w"])
        data[name] = pa.array(
            [v if len(v := b["w"].get(name, ())) == width else [0.0] * width for b in picked], pa.list_(pa.float32())
        )
    offers = {o.id: o for r in dict.fromkeys(b["r"] for b in picked) for o in sets[r]}
    described = json.dumps([{"id": o.id, "features": dict(o.features)} for o in offers.values()])
    return pa.table(data).replace_schema_metadata({OFFERS_KEY: described})


def _feature(name: str, values: list[Any], manifest: Manifest) -> Any:
    """A column of the type that the feature had when it was first exported."""
    known = [v for v in values if v is not None]
    if name not in manifest.columns and known:
        manifest.columns[name] = "number" if any(not isinstance(v, str) for v in known) else "text"
    is_text = manifest.columns.get(name) == "text"
    if any(isinstance(v, str) is not is_text for v in known) and name not in manifest.mixed:
        manifest.mixed.append(name)
    if is_text:
        return pa.array([v if isinstance(v, str) else None for v in values], pa.string())
    return pa.array([None if v is None or isinstance(v, str) else float(v) for v in values], pa.float64())


def _write_lines(path: Path, lines: Iterator[bytes] | Sequence[bytes]) -> None:
    """Write a file that appears whole, and is on disk when this returns."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            Path(scratch).chmod(0o640)
            Path(scratch).replace(path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise StoreUnavailableError(f"cannot write {path} ({error}); check the folder and disk space") from error

"""``nextoffer db``: schema, backup and restore, export, move, erasure and retention of the store."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cyclopts import App

from api.cli.opening import HERE, UNSIGNED, Where

app = App(name="db", help="The store: schema, backup, export, move, erasure, retention")


@app.command
def status(*, where: Where = HERE) -> int:
    """Print the revision of the store and the one that this version expects; exit 1 if they differ."""
    from engine.store.migrate import current_revision, head_revision

    with where.stored(may_be_new=True) as (database, _):
        found, expected = current_revision(database), head_revision()
    print(f"{found or 'empty'} {expected}")  # noqa: T201 - data on stdout
    return 0 if found == expected else 1


@app.command
def upgrade(*, where: Where = HERE) -> int:
    """Bring the schema forward to what this version expects; services of the version before go on working."""
    from engine.store.migrate import upgrade as forward

    with where.stored(may_be_new=True) as (database, _):
        forward(database)
    return 0


@app.command
def downgrade(revision: str, /, *, yes: bool = False, where: Where = HERE) -> int:
    """Take the schema back to a revision; what later revisions added is lost.

    Parameters
    ----------
    revision
        Such as 0001; base removes every table.
    yes
        Without it, nothing is done.
    """
    from engine.store.migrate import downgrade as back

    if not yes:
        print(f"going back to {revision} drops what later revisions added; repeat with --yes", file=sys.stderr)  # noqa: T201
        return 1
    with where.stored() as (database, _):
        back(database, revision)
    return 0


@app.command
def export(
    placement: str,
    folder: Path,
    /,
    *,
    form: Literal["parquet", "dsjson"] = "parquet",
    json: bool = False,
    where: Where = HERE,
) -> int:
    """Write decisions whose reward window has closed, each with its reward, as files; run again to add what has closed since.

    Parameters
    ----------
    placement
        Whose decisions.
    folder
        A new folder, or one that an earlier run of this has written.
    form
        parquet, which ``nextoffer evaluate --log FOLDER`` reads, or dsjson, which Vowpal Wabbit reads too.
    json
        As JSON.
    """
    from engine.offers.stored import definition_of
    from engine.rewards.files import export_files

    with where.stored() as (database, _), _bar("exported") as progress:
        found = export_files(
            database,
            placement,
            folder,
            form=form,
            as_of=datetime.now(UTC),
            definition=definition_of(database, placement),
            progress=lambda n: progress("rows", n),
        )
    if found.mixed:
        names = ", ".join(map(repr, found.mixed))
        told = f"{names}: text in some rows and a number in others; missing where it does not fit"
        print(told, file=sys.stderr)  # noqa: T201 - words on stderr
    return _told(found, as_json=json)


@app.command
def move(url: str, /, *, json: bool = False, where: Where = HERE) -> int:
    """Copy the whole store into another, empty database (SQLite to PostgreSQL, or back), and compare every row.

    Stop the services first. Afterwards name the new database in the settings; artefacts and keys stay in the home folder.

    Parameters
    ----------
    url
        Of the empty database: ``postgresql://user@host/name`` or ``sqlite:///file.db``.
    json
        As JSON.
    """
    from engine.store.database import Database
    from engine.store.move import move as copy

    with where.stored() as (database, _), Database(url) as target, _bar("copied") as progress:
        found = copy(database, target, progress=progress)
    return _told(found, as_json=json)


@app.command
def backup(folder: Path, /, *, json: bool = False, where: Where = HERE) -> int:
    """Copy the home folder, with a SQLite store, while it serves: store, artefacts, secret, key hashes, plans.

    Parameters
    ----------
    folder
        A new one.
    json
        As JSON.
    """
    from engine.store.backup import back_up

    with where.stored() as (database, settings):
        found = back_up(settings.home, folder, database=database, at=datetime.now(UTC))
        if not database.is_sqlite:
            url = database.url.set(drivername="postgresql").render_as_string()
            print(  # noqa: T201 - words on stderr
                f"the store is on PostgreSQL and has a backup of its own, to be taken after this one: pg_dump --format=custom --no-unlogged-table-data '{url}' > store.dump",
                file=sys.stderr,
            )
    return _told(found, as_json=json)


@app.command
def restore(folder: Path, /, *, home: Path, json: bool = False) -> int:
    """Put a backup into a new home folder, after every file was compared with its hash.

    Parameters
    ----------
    folder
        What ``nextoffer db backup`` has written.
    home
        A new or empty folder.
    json
        As JSON.
    """
    from engine.store.backup import restore as put_back

    return _told(put_back(folder, home), as_json=json)


@app.command
def erase(
    subject: str,
    /,
    *,
    yes: bool = False,
    json: bool = False,
    where: Where = HERE,
) -> int:
    """Erase a person: a subject and everybody linked with it. What reports count stays, under a random pseudonym.

    Running services forget the person within a second. Backups and exports made before still hold it.

    Parameters
    ----------
    subject
        Id of the subject.
    yes
        Without it, nothing is done.
    json
        As JSON.
    """
    from engine.subjects.erasure import erase as forget

    if not yes:
        print("erasing cannot be undone; repeat with --yes", file=sys.stderr)  # noqa: T201 - words on stderr
        return 1
    with where.stored() as (database, settings):
        found = forget(database, subject, at=datetime.now(UTC), actor=UNSIGNED.by, cold=settings.home / "cold")
    return _told(found, as_json=json)


@app.command
def retention(
    *,
    events_days: float | None = None,
    decisions_days: float | None = None,
    cold: Path | None = None,
    json: bool = False,
    where: Where = HERE,
) -> int:
    """Move old events, and what old decisions were made from, out of the store into files; run it once a day.

    Ids, rewards, outcomes and what reports count stay. Works beside running services, in small steps.

    Parameters
    ----------
    events_days
        Events older than this go.
    decisions_days
        Features and distributions of decisions older than this go; longer than every reward window.
    cold
        Folder of the files; by default ``cold`` in the home folder.
    json
        As JSON.
    """
    from engine.store.partitions import ensure_partitions
    from engine.store.retention import What, retain
    from policies.errors import InvalidInputError

    wanted: list[tuple[What, float]] = []
    if events_days is not None:
        wanted.append(("events", events_days))
    if decisions_days is not None:
        wanted.append(("decisions", decisions_days))
    if not wanted:
        raise InvalidInputError("say what should go: --events-days, --decisions-days, or both")
    found: list[Any] = []
    with where.stored() as (database, settings), _bar("moved") as progress:
        ensure_partitions(database)
        for what, days in wanted:

            def tell(n: int, what: str = what) -> None:
                progress(what, n)

            found.append(
                retain(
                    database,
                    what=what,
                    days=days,
                    now=datetime.now(UTC),
                    cold=cold or settings.home / "cold",
                    progress=tell,
                )
            )
    if json:
        print(json_module.dumps([asdict(f) for f in found]))  # noqa: T201 - data on stdout
    else:
        for each in found:
            _told(each, as_json=False)
    return 0


@contextmanager
def _bar(done: str) -> Iterator[Callable[[str, int], None]]:
    """A counter on stderr for whoever watches."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    with console.status("") as shown:
        yield lambda what, n: shown.update(f"{what}: {n:,} {done}")


def _told(found: Any, *, as_json: bool) -> int:
    content = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(found).items()}
    if as_json:
        print(json_module.dumps(content))  # noqa: T201 - data on stdout
    else:
        print("  ".join(f"{k}={v}" for k, v in content.items() if v not in (None, {}, ())))  # noqa: T201 - data on stdout
    return 0

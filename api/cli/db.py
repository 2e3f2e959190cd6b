"""``nextoffer db``: the schema of the store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

if TYPE_CHECKING:
    from engine.store.database import Database

app = App(name="db", help="Schema of the store: where it is, forward and back")


@app.command
def status(*, home: Path | None = None, config: Path | None = None) -> int:
    """Print the revision of the store and the one that this version expects; exit 1 if they differ.

    Parameters
    ----------
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    from engine.store.migrate import current_revision, head_revision

    with _database(home, config) as database:
        found, expected = current_revision(database), head_revision()
    print(f"{found or 'empty'} {expected}")  # noqa: T201 - data on stdout
    return 0 if found == expected else 1


@app.command
def upgrade(*, home: Path | None = None, config: Path | None = None) -> int:
    """Bring the schema forward to what this version expects.

    Parameters
    ----------
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    from engine.store.migrate import upgrade as forward

    with _database(home, config) as database:
        forward(database)
    return 0


@app.command
def downgrade(revision: str, /, *, yes: bool = False, home: Path | None = None, config: Path | None = None) -> int:
    """Take the schema back to a revision; what later revisions added is lost.

    Parameters
    ----------
    revision
        Such as 0001; base removes every table.
    yes
        Without it, nothing is done.
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    from engine.store.migrate import downgrade as back

    if not yes:
        print(f"going back to {revision} drops what later revisions added; repeat with --yes", file=sys.stderr)  # noqa: T201
        return 1
    with _database(home, config) as database:
        back(database, revision)
    return 0


def _database(home: Path | None, config: Path | None) -> Database:
    from api.settings import load_settings
    from engine.store.database import Database, sqlite_url

    settings = load_settings(config) if home is None else load_settings(config, home=home)
    settings.home.mkdir(parents=True, exist_ok=True)
    return Database(settings.database_url or sqlite_url(settings.home / "nextoffer.db"))

"""Schema revisions: where a store is, and the way forward and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from engine.store.partitions import ensure_partitions
from policies.errors import StoreUnavailableError

if TYPE_CHECKING:
    from engine.store.database import Database

_SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(database: Database, revision: str = "head") -> None:
    """Go forward to a revision; does nothing where the store is there already.

    Raises
    ------
    StoreUnavailableError
        If the store was written by a later version of the code.
    """
    known = {script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()}
    found = current_revision(database)
    if found is not None and found not in known:
        raise StoreUnavailableError(
            f"the store has schema revision {found}, which this version does not know (newest: {head_revision()}); "
            "upgrade nextoffer, or go back with the version that wrote it"
        )
    if revision != "head" or found != head_revision():
        with database.writing() as connection:
            if not database.is_sqlite:
                # Several hosts may start at once: one goes forward, the others wait and find nothing left to do.
                connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('nextoffer schema'))"))
            command.upgrade(_config(connection), revision)
    if revision == "head":
        ensure_partitions(database)


def downgrade(database: Database, revision: str) -> None:
    """Go back to a revision; ``base`` removes every table and all that is in them."""
    with database.writing() as connection:
        command.downgrade(_config(connection), revision)


def current_revision(database: Database) -> str | None:
    """Revision of the store; None where it is empty."""
    with database.reading() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str:
    """Revision that this version of the code expects."""
    return str(ScriptDirectory(str(_SCRIPTS)).get_current_head())


def _config(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config

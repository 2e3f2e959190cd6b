"""The schema: models and migrations agree, forward and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from engine.store.database import Database, sqlite_url
from engine.store.migrate import current_revision, downgrade, head_revision
from engine.store.tables import metadata
from policies.errors import InvalidInputError, StoreUnavailableError


def test_migrations_make_exactly_the_models(tmp_path: Path) -> None:
    """A migrated store differs in nothing from what the models say."""
    with Database(sqlite_url(tmp_path / "store.db")) as database:
        database.upgrade()
        with database.reading() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_schema_goes_back_and_forward_again(tmp_path: Path) -> None:
    """Every migration can be undone, and done again."""
    with Database(sqlite_url(tmp_path / "store.db")) as database:
        database.upgrade()
        assert current_revision(database) == head_revision()
        downgrade(database, "base")
        assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
        database.upgrade()
        assert database.head() == 1


def test_a_store_of_a_later_version_is_refused_with_a_sentence(tmp_path: Path) -> None:
    """An old program never touches a schema it does not know."""
    with Database(sqlite_url(tmp_path / "store.db")) as database:
        database.upgrade()
        with database.writing() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = 'later'"))
        with pytest.raises(StoreUnavailableError, match="upgrade nextoffer"):
            database.upgrade()


def test_another_kind_of_database_is_refused() -> None:
    """Only what the project is tested against is accepted."""
    with pytest.raises(InvalidInputError, match="expected sqlite"):
        Database("oracle://host/name")

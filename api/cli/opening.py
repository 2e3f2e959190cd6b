"""Which service a command works on, and who answers for what it changes: the options that commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from policies.errors import InvalidInputError

if TYPE_CHECKING:
    from api.auth import KeyFile
    from api.settings import Settings
    from engine.decisions.service import DecisionService
    from engine.store.changes import Change
    from engine.store.database import Database
    from offline_eval.report.page import Page


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Where:
    """Where the service is that a command works on.

    Parameters
    ----------
    home
        Folder of the service.
    config
        TOML file of settings.
    """

    home: Path | None = None
    config: Path | None = None

    @property
    def is_named(self) -> bool:
        """Whether a service was named at all."""
        return self.home is not None or self.config is not None

    def settings(self, **overrides: Any) -> Settings:
        """Settings of the service, which may be a new one."""
        from api.settings import load_settings

        if self.home is not None:
            overrides["home"] = self.home
        return load_settings(self.config, **overrides)

    def existing(self, **overrides: Any) -> Settings:
        """Settings of a service that has run before; a mistyped folder must not become a new, empty store.

        Raises
        ------
        InvalidInputError
            If the settings name no database and the home folder holds no store.
        """
        settings = self.settings(**overrides)
        if _has_no_store(settings):
            raise InvalidInputError(
                f"there is no store at {settings.home / _STORE}; start the service once, or name its folder with --home"
            )
        return settings

    @contextmanager
    def opened(self, *, may_be_new: bool = False) -> Iterator[DecisionService]:
        """The service, which has run before; where it ``may_be_new``, its store is made, and it is said where."""
        from engine.decisions.opening import open_service

        settings = self.settings() if may_be_new else self.existing()
        if _has_no_store(settings):
            print(f"a new store is made at {settings.home / _STORE}", file=sys.stderr)  # noqa: T201 - words on stderr
        with open_service(settings.home, url=settings.database_url) as service:
            yield service

    @contextmanager
    def stored(self, *, may_be_new: bool = False) -> Iterator[tuple[Database, Settings]]:
        """The service's store alone, and its settings."""
        from engine.store.database import Database, sqlite_url

        settings = self.settings() if may_be_new else self.existing()
        if may_be_new:
            settings.home.mkdir(parents=True, exist_ok=True)
        with Database(settings.database_url or sqlite_url(settings.home / _STORE)) as database:
            yield database, settings

    def keys(self) -> KeyFile:
        """File of key hashes of the service, which may be a new one."""
        from api.app import keys_path
        from api.auth import KeyFile

        return KeyFile(keys_path(self.settings()))

    def keep(self, page: Page, *, kind: str, about: str) -> None:
        """Keep a report in the service's folder, where the console shows it."""
        from datetime import UTC, datetime

        from engine.reports import keep_report

        kept = keep_report(self.settings().home, page, kind=kind, about=about, at=datetime.now(UTC))
        print(f"kept for the console: {kept}", file=sys.stderr)  # noqa: T201 - words on stderr


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Signed:
    """Who answers for a change, and why it is made.

    Parameters
    ----------
    reason
        Why; it is kept in the log of changes.
    by
        Who answers for it.
    """

    reason: str = ""
    by: str = "command"

    def change(self) -> Change:
        """What a command changes is changed now."""
        from datetime import UTC, datetime

        from engine.store.changes import Change

        return Change(datetime.now(UTC), self.by, self.reason)


# What the options are where none is given.
HERE, UNSIGNED = Where(), Signed()
_STORE = "nextoffer.db"


def show(rows: Any, *, as_json: bool, line: str = "") -> None:
    """Print data: JSON, or a line for each row from a format of its keys."""
    if as_json:
        print(json.dumps(rows))  # noqa: T201 - data on stdout
        return
    for row in rows:
        print(line.format(**row))  # noqa: T201 - data on stdout


def _has_no_store(settings: Settings) -> bool:
    return settings.database_url is None and not (settings.home / _STORE).exists()

"""Open the service that the settings describe, for commands that work on its store."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.errors import InvalidInputError

if TYPE_CHECKING:
    from api.settings import Settings
    from engine.decisions.service import DecisionService
    from offline_eval.report.page import Page


def existing(home: Path | None, config: Path | None, **overrides: Any) -> Settings:
    """Return settings of a service that has run before; a mistyped folder must not become a new, empty store.

    Raises
    ------
    InvalidInputError
        If the settings name no database and the home folder holds no store.
    """
    from api.settings import load_settings

    if home is not None:
        overrides["home"] = home
    settings = load_settings(config, **overrides)
    file = settings.home / "nextoffer.db"
    if settings.database_url is None and not file.exists():
        raise InvalidInputError(f"there is no store at {file}; start the service once, or name its folder with --home")
    return settings


@contextmanager
def opened(home: Path | None, config: Path | None) -> Iterator[DecisionService]:
    """Service of a home folder or a settings file, which has run before; closed at the end."""
    from engine.decisions.opening import open_service

    settings = existing(home, config)
    with open_service(settings.home, url=settings.database_url) as service:
        yield service


def keep(home: Path | None, config: Path | None, page: Page, *, kind: str, about: str) -> None:
    """Keep a report in the service's folder, where the console shows it."""
    from datetime import UTC, datetime

    from api.settings import load_settings
    from engine.reports import keep_report

    settings = load_settings(config) if home is None else load_settings(config, home=home)
    kept = keep_report(settings.home, page, kind=kind, about=about, at=datetime.now(UTC))
    print(f"kept for the console: {kept}", file=sys.stderr)  # noqa: T201 - words on stderr


def show(rows: Any, *, as_json: bool, line: str = "") -> None:
    """Print data: JSON, or a line for each row from a format of its keys."""
    if as_json:
        print(json.dumps(rows))  # noqa: T201 - data on stdout
        return
    for row in rows:
        print(line.format(**row))  # noqa: T201 - data on stdout

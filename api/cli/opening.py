"""Open the service that the settings describe, for commands that work on its store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.decisions.service import DecisionService


@contextmanager
def opened(home: Path | None, config: Path | None) -> Iterator[DecisionService]:
    """Service of a home folder or a settings file, closed at the end."""
    from api.settings import load_settings
    from engine.decisions.service import open_service

    settings = load_settings(config) if home is None else load_settings(config, home=home)
    with open_service(settings.home, url=settings.database_url) as service:
        yield service


def show(rows: Any, *, as_json: bool, line: str = "") -> None:
    """Print data: JSON, or a line for each row from a format of its keys."""
    if as_json:
        print(json.dumps(rows))  # noqa: T201 - data on stdout
        return
    for row in rows:
        print(line.format(**row))  # noqa: T201 - data on stdout

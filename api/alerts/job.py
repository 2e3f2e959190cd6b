"""``python -m api.alerts.job``: one round of looking after experiments, for a server; settings come on standard input."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from api.alerts.looking import clock_of, habits_of, look_after
from api.logs import set_up
from api.settings import from_plain
from engine.store.database import Database, sqlite_url
from policies.errors import NextofferError


def main() -> int:
    """Do the round; the caller has the claim."""
    settings = from_plain(json.load(sys.stdin))
    set_up(settings.log_level)
    try:
        with Database(settings.database_url or sqlite_url(settings.home / "nextoffer.db")) as database:
            at = clock_of(database, is_sandbox=settings.is_sandbox)()
            look_after(database, habits_of(settings), at=at, now=datetime.now(UTC), in_simulation=settings.is_sandbox)
    except NextofferError as error:
        print(f"nextoffer: {error}", file=sys.stderr)  # noqa: T201 - words on stderr
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

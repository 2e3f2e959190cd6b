"""``python -m api.alerts.job``: one round of looking after experiments, for a server; settings come on standard input."""

from __future__ import annotations

import json
import sys

from api.alerts.looking import habits_of, one_round
from api.logs import set_up
from api.settings import from_plain
from engine.decisions.opening import open_service
from engine.experiments.moments import clock_of
from policies.errors import NextofferError


def main() -> int:
    """Do the round; the caller has the claim."""
    settings = from_plain(json.load(sys.stdin))
    set_up(settings.log_level)
    try:
        with open_service(settings.home, url=settings.database_url) as service:
            clock = clock_of(service.database, is_sandbox=settings.is_sandbox)
            one_round(service, habits_of(settings), clock=clock, in_simulation=settings.is_sandbox)
    except NextofferError as error:
        print(f"nextoffer: {error}", file=sys.stderr)  # noqa: T201 - words on stderr
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``nextoffer learn``: learners for one placement, or for all of them, until it is told to stop."""

from __future__ import annotations

import logging
import signal
import sys
import threading

from api.cli.opening import HERE, Where
from policies.errors import InvalidInputError


def learn(
    placement: str | None = None,
    /,
    *,
    all: bool = False,  # noqa: A002 - the name of the option
    policy: str | None = None,
    where: Where = HERE,
) -> int:
    """Learn from the log as reward windows close, and publish a snapshot a second.

    Several of these may run: each version is learned by one of them, and by another one when that has died. A database that
    does not answer is waited for, also at the start. Scheduled starts, ramps, planned ends, news and the digest are looked
    after here too, unless a console or another learner does.

    Parameters
    ----------
    placement
        Whose decisions.
    all
        Every version that decides at any placement, variants of running experiments included, in this one process.
    policy
        name@version that learns; by default the placement's own policy. Each variant of an experiment has its own.
    """
    from api.learning import learn_until
    from api.logs import set_up

    if all is (placement is not None):
        raise InvalidInputError("name a placement, or give --all")
    if all and policy is not None:
        raise InvalidInputError("--policy names one version; leave it out with --all")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = where.existing()
    set_up(settings.log_level, settings.log_format)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    n = learn_until(settings, placement, stop.is_set, ref=policy, looks_after=True)
    print(f"learned from {n} decisions", file=sys.stderr)  # noqa: T201 - words on stderr
    return 0

"""``nextoffer learn``: one learner for one version at one placement, until it is told to stop."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path


def learn(placement: str, /, *, policy: str | None = None, home: Path | None = None, config: Path | None = None) -> int:
    """Learn from the log of a placement as reward windows close, and publish a snapshot a second.

    Parameters
    ----------
    placement
        Whose decisions.
    policy
        name@version that learns; by default the placement's own policy. Each variant of an experiment has its own.
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    from api.learning import learn_until
    from api.settings import load_settings

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = load_settings(config) if home is None else load_settings(config, home=home)
    n = learn_until(settings, placement, stop.is_set, ref=policy)
    print(f"learned from {n} decisions", file=sys.stderr)  # noqa: T201 - words on stderr
    return 0

"""Readings for rounds over all experiments, of which one that cannot be read holds up no other."""

from __future__ import annotations

import logging
from datetime import datetime

from engine.experiments.reading import Reading, take_reading
from engine.experiments.records import Experiment
from engine.store.database import Database
from policies.errors import StoreUnavailableError

_log = logging.getLogger("nextoffer.experiments")


def read_or_log(database: Database, experiment: Experiment, *, as_of: datetime, in_simulation: bool) -> Reading | None:
    """Read an experiment; None, and a line in the log, where it cannot be read.

    Raises
    ------
    StoreUnavailableError
        If the store is away, which is the trouble of all.
    """
    try:
        return take_reading(database, experiment, as_of=as_of, in_simulation=in_simulation, n_points=0)
    except StoreUnavailableError:
        raise
    except Exception:  # whatever ails one experiment must not keep verdicts of others, digest and messages back
        _log.exception("experiment %s could not be read", experiment.id)
        return None

"""The health of a placement: takes in what is new in the ledger, and runs every check."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from engine.monitoring.alarms import INTEGRITY
from engine.monitoring.checks import candidates, choice, effects, facts, features, integrity, learning
from engine.monitoring.figures import figures
from engine.monitoring.fold import refresh
from engine.monitoring.placements import watched
from engine.monitoring.records import Check, HealthReport, ordered_and_explained
from engine.monitoring.thresholds import Thresholds
from engine.monitoring.window import Window, window_of
from engine.store.database import Database

if TYPE_CHECKING:
    from engine.registry.versions import Registry


def check_health(
    database: Database,
    placement: str,
    as_of: datetime,
    *,
    registry: Registry | None = None,
    thresholds: Thresholds | None = None,
) -> HealthReport:
    """Bring the sums of the ledger up to now, and look at every alarm of a placement as of a moment.

    Parameters
    ----------
    registry
        Where policies are loaded from; without it the checks that ask a policy (calibration, overlap) are not made.
    thresholds
        From where on alarms ring; the defaults if left out.

    Raises
    ------
    UnknownNameError
        If there is no such placement.
    """
    place = watched(database, placement)[placement]
    refresh(database)
    window = window_of(database, place, as_of=as_of, limits=thresholds or Thresholds())
    found = effects.bands(database, window)
    checks = ordered_and_explained(_checks(database, window, registry, found))
    return HealthReport(placement, as_of, checks, round(window.n_day), tuple(figures(window, found)))


def check_integrity(
    database: Database, placement: str, as_of: datetime, *, thresholds: Thresholds | None = None
) -> tuple[Check, ...]:
    """The integrity alarms alone, as ``check_health`` would give them: for who asks often and asks nothing else."""
    place = watched(database, placement)[placement]
    refresh(database)
    window = window_of(database, place, as_of=as_of, limits=thresholds or Thresholds())
    return tuple(c for c in ordered_and_explained(_integrity(window)) if c.alarm in INTEGRITY)


def _integrity(window: Window) -> list[Check]:
    return [integrity.shown(window), integrity.propensity(window), integrity.leak(window)]


def _checks(
    database: Database, window: Window, registry: Registry | None, found: Sequence[effects.Band]
) -> list[Check]:
    return [
        *_integrity(window),
        facts.duplicates(window),
        facts.values(window),
        facts.silence(window),
        facts.clock(window),
        facts.delay(window),
        facts.unattributed(window),
        features.constant(window),
        features.drift(window),
        choice.fallbacks(window),
        choice.collapse(window),
        choice.support(window),
        choice.vanished(window),
        candidates.overlap(database, window, registry),
        learning.learner(database, window, registry),
        learning.calibration(database, window, registry),
        effects.worse(found),
    ]

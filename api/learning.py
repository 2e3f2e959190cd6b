"""Run learners beside a server: same store, their own handle."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from api.settings import Settings
from engine.decisions.opening import open_service
from engine.decisions.service import DecisionService, utc_now
from engine.experiments.moments import clock_of
from engine.learner.shards import Job, Learners, all_jobs
from engine.learner.snapshots import load_state
from policies.errors import InvalidInputError, StoreUnavailableError

RETRY_S = 2.0
_LOOK_S = 0.05
_log = logging.getLogger("nextoffer.learner")


def learn_until(
    settings: Settings,
    placement_id: str | None,
    should_stop: Callable[[], bool],
    *,
    ref: str | None = None,
    looks_after: bool = False,
) -> int:
    """Learn until told to stop; return from how many decisions.

    Parameters
    ----------
    placement_id
        Whose decisions; None: every version that decides anywhere, variants of running experiments included.
    ref
        Which version learns; by default the placement's own policy.
    looks_after
        Whether experiments are looked after beside it, unless another process does.

    Raises
    ------
    StateError
        If the version that was asked for does not learn online.
    """
    service = _opened(settings, should_stop)
    if service is None:
        return 0
    with service:
        if placement_id is not None:
            load_state(service.policies, next(iter(_job_of(service, placement_id, ref))), None)

        def jobs() -> Mapping[str, Job]:
            if placement_id is None:
                return all_jobs(service.database)
            return _job_of(service, placement_id, ref)

        learners = Learners(service.database, service.policies, jobs=jobs, clock=utc_now)
        with _looking(service, settings) if looks_after else nullcontext():
            learners.run(should_stop)
        return learners.n_learned


def _looking(service: DecisionService, settings: Settings) -> AbstractContextManager[None]:
    from api.alerts.looking import habits_of, looking  # loads statistics

    clock = clock_of(service.database, is_sandbox=settings.is_sandbox)
    return looking(service, habits_of(settings), clock=clock, in_simulation=settings.is_sandbox)


def _opened(settings: Settings, should_stop: Callable[[], bool]) -> DecisionService | None:
    """The service, as soon as its store answers; None where it was told to stop before."""
    is_told = False
    while not should_stop():
        try:
            return open_service(settings.home, url=settings.database_url)
        except StoreUnavailableError as error:
            if not is_told:
                _log.warning("learning waits: %s", error)
                is_told = True
        until = time.monotonic() + RETRY_S
        while time.monotonic() < until and not should_stop():
            time.sleep(_LOOK_S)
    return None


def _job_of(service: DecisionService, placement_id: str, ref: str | None) -> dict[str, Job]:
    placement, _ = service.placement(placement_id)
    chosen = ref or placement.policy
    if chosen is None:
        raise InvalidInputError(
            f"placement {placement_id!r} decides by its baseline order, which does not learn; give it a policy, or name a version"
        )
    return {str(service.policies.find(chosen).ref): Job(placement_id, placement.reward)}

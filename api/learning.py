"""Run a learner beside a server: same store, its own handle."""

from __future__ import annotations

from collections.abc import Callable

from api.settings import Settings
from engine.decisions.service import open_service, utc_now
from engine.learner.learner import Learner
from policies.errors import InvalidInputError


def learn_until(
    settings: Settings, placement_id: str, should_stop: Callable[[], bool], *, ref: str | None = None
) -> int:
    """Learn from a placement's decisions until told to stop; return from how many.

    Parameters
    ----------
    ref
        Which version learns; by default the placement's own policy.

    Raises
    ------
    StateError
        If that version does not learn online.
    """
    with open_service(settings.home, url=settings.database_url) as service:
        placement, _ = service.placement(placement_id)
        chosen = ref or placement.policy
        if chosen is None:
            raise InvalidInputError(
                f"placement {placement_id!r} decides by its baseline order, which does not learn; give it a policy, or name a version"
            )
        learner = Learner(
            service.database,
            service.policies,
            placement=placement_id,
            definition=placement.reward,
            ref=chosen,
            clock=utc_now,
        )
        learner.run(should_stop)
        return learner.n_learned

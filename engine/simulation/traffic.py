"""Simulated visitors ask the real service, day by day: what the demo and the console's sample are made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np

from engine.decisions.requests import DecisionRequest, EventRequest, OutcomeRequest, RewardRequest
from engine.decisions.service import DecisionService
from policies.errors import NextofferError
from simulator.habit import HabitSite
from simulator.rollouts import WINDOW_DAYS
from simulator.scenarios.car_subscription import PLACEMENT
from simulator.site import START, LiveSite, Visits


class TrafficError(NextofferError, RuntimeError):
    """The service did not take a request of the demo's traffic."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to report: ``about`` is a decision for a reward, a subject for an outcome."""

    about: str
    kind: str
    value: float
    id: str
    at: datetime


class Door(Protocol):
    """A way into the decision service; both doors lead to the same pipeline."""

    def events(self, requests: Sequence[EventRequest]) -> None:
        """Report behaviour."""
        ...

    def decide(self, requests: Sequence[DecisionRequest]) -> list[str]:
        """Offer id of each decision."""
        ...

    def rewards(self, facts: Sequence[Fact]) -> None:
        """Report what came of decisions."""
        ...

    def outcomes(self, facts: Sequence[Fact]) -> None:
        """Report what became of subjects."""
        ...


class InProcess:
    """The pipeline without HTTP: for traffic beyond what HTTP carries in the time."""

    def __init__(self, service: DecisionService) -> None:
        self._service = service

    def events(self, requests: Sequence[EventRequest]) -> None:
        """Report behaviour."""
        self._service.event_many(requests)

    def decide(self, requests: Sequence[DecisionRequest]) -> list[str]:
        """Offer id of each decision."""
        answers = self._service.decide_many(requests)
        if not all(a.decision.recorded for a in answers):
            raise TrafficError("the log did not take some decisions; see the service's log for why")
        return [a.decision.offer for a in answers]

    def rewards(self, facts: Sequence[Fact]) -> None:
        """Report what came of decisions."""
        self._service.reward_many([RewardRequest(f.about, f.kind, f.value, id=f.id, at=f.at) for f in facts])

    def outcomes(self, facts: Sequence[Fact]) -> None:
        """Report what became of subjects."""
        self._service.outcome_many([OutcomeRequest(f.about, f.kind, f.value, id=f.id, at=f.at) for f in facts])


def live_through(
    site: LiveSite | HabitSite,
    door: Door,
    *,
    placement: str = PLACEMENT,
    histories: Iterable[EventRequest] = (),
    hidden: Collection[str] = (),
    starts_at: datetime | None = None,
    n_days: int | None = None,
    before_day: Callable[[int], None] | None = None,
    on_day: Callable[[int, int], None] | None = None,
) -> int:
    """Let a cohort live day by day; returns the number of decisions.

    Parameters
    ----------
    histories
        Behaviour before the first visit, which is reported first.
    hidden
        Columns of a visit that are not sent with the request, because the service has them from elsewhere.
    starts_at
        When the site's first day begins; None: at the simulator's own date.
    n_days
        Days to live; None: until the last window is over.
    before_day
        Called with the number of each day before its visitors come.
    on_day
        Called with (days done, days in all).
    """
    shift = timedelta() if starts_at is None else starts_at - moment(START)
    door.events(list(histories))
    days = site.visit_days + WINDOW_DAYS if n_days is None else n_days
    offers, n_decisions = site.scenario.offers, 0
    reported = site.margin_eur.copy()
    for day in range(days):
        if before_day is not None:
            before_day(day)
        visits = site.visits(day)
        if len(visits):
            requests = list(_requests(visits, placement=placement, hidden=hidden, shift=shift))
            chosen = np.asarray([offers.index_of(o) for o in door.decide(requests)], dtype=np.int64)
            seen = site.respond(visits, chosen)
            clicks = [
                Fact(r.id or "", "clicked", 1.0, f"{r.id}:clicked", (r.at or moment(START)) + timedelta(seconds=30))
                for r, clicked in zip(requests, seen.clicked.tolist(), strict=True)
                if clicked
            ]
            door.rewards(clicks)
            n_decisions += len(requests)
        facts = site.end_of_day(day)
        at = moment(START + np.timedelta64(day, "D")) + shift + timedelta(hours=23, minutes=59, seconds=59)
        named = [("subscribed", r) for r in facts.subscribed.tolist()]
        named += [("active_30d", r) for r in facts.kept.tolist()]
        named += [("cancelled", r) for r in facts.cancelled.tolist()]
        due = [Fact(str(site.names[r]), kind, 1.0, f"{site.names[r]}:{kind}", at) for kind, r in named]
        for r in np.flatnonzero(site.margin_eur != reported).tolist():
            value = float(site.margin_eur[r] - reported[r])
            due.append(Fact(str(site.names[r]), "margin_eur", value, f"{site.names[r]}:margin:{day}", at))
        reported = site.margin_eur.copy()
        door.outcomes(due)
        if on_day is not None:
            on_day(day + 1, days)
    return n_decisions


def _requests(
    visits: Visits, *, placement: str, hidden: Collection[str], shift: timedelta
) -> Iterator[DecisionRequest]:
    table = visits.table
    assert table.subjects is not None
    assert table.at is not None
    asked = {name: column for name, column in table.columns.items() if name not in hidden}
    for i, (subject, number) in enumerate(zip(table.subjects, visits.visit_number.tolist(), strict=True)):
        features: dict[str, Any] = {}
        for name, column in asked.items():
            value = column[i]
            if column.dtype.kind == "U":
                features[name] = str(value)
            elif not np.isnan(value):
                features[name] = float(value)
        at = moment(table.at[i]) + shift
        yield DecisionRequest(placement, str(subject), features, id=f"{subject}-{number}", at=at)


def moment(at: np.datetime64) -> datetime:
    """A moment of the simulator as everything else takes it."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(at.astype("datetime64[us]").astype(np.int64)))

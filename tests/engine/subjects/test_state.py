"""Subject state: the store is the truth, the cache only ever agrees with it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.decisions.requests import DecisionRequest, EventRequest
from engine.subjects.state import SubjectStates
from policies.errors import InvalidInputError
from policies.records import Event
from tests.engine.service_world import START, open_shop


class Digest:
    """An encoder whose vector is different for different events, and which counts how often it is asked."""

    version = "v1"
    width = 2

    def __init__(self) -> None:
        self.n_calls = 0

    def encode_events(self, events: Sequence[Event], *, as_of: datetime) -> NDArray[np.float32]:
        """Number of events and their value weighted by position."""
        self.n_calls += 1
        assert all(e.at < as_of for e in events)
        return np.asarray([len(events), sum((i + 1) * e.value for i, e in enumerate(events))], dtype=np.float32)


def test_cached_state_equals_a_fresh_read_whatever_order_events_come_in(tmp_path: Path) -> None:
    """Random events of a few subjects, asked at random moments, with a cache as small as can be and one that is not."""
    rng = random.Random(5)
    with open_shop(tmp_path) as service:
        small = SubjectStates(service.database, last_events=4, max_cached=2)
        encoder = Digest()
        for i in range(120):
            subject = f"u{rng.randrange(3)}"
            at = START + timedelta(seconds=rng.randrange(60))
            receipt = service.event(EventRequest(subject, "view", value=float(i), at=at))
            assert receipt.offset is not None
            small.advance(receipt.event, receipt.offset)
            as_of = START + timedelta(seconds=rng.randrange(70))
            asked = f"u{rng.randrange(4)}"
            fresh = SubjectStates(service.database, last_events=4)
            assert small.vector(asked, encoder, as_of=as_of) == fresh.vector(asked, Digest(), as_of=as_of)


def test_a_state_is_computed_once_per_new_event(tmp_path: Path) -> None:
    """Asking again without a new event does not run the encoder again; another model version does."""
    with open_shop(tmp_path) as service:
        encoder = Digest()
        states = service.subjects
        service.event(EventRequest("u1", "view", value=2.0, id="e1"))
        later = START + timedelta(seconds=1)
        first = states.vector("u1", encoder, as_of=later)
        assert first == ((1.0, 2.0), 1)
        assert states.vector("u1", encoder, as_of=later) == first
        assert encoder.n_calls == 1
        service.event(EventRequest("u1", "view", value=3.0))
        assert states.vector("u1", encoder, as_of=later)[0] == (2.0, 8.0)
        other = Digest()
        other.version = "v2"
        states.vector("u1", other, as_of=later)
        assert (encoder.n_calls, other.n_calls) == (2, 1)


def test_traits_are_under_the_requests_features(tmp_path: Path) -> None:
    """Batch-scored traits join the logged context; what the request says wins; bad traits change nothing."""
    with open_shop(tmp_path) as service:
        assert service.decide(DecisionRequest("shop", "u1", {"x": 1.0})).decision.context == {"x": 1.0}
        service.subjects.load_traits({"u1": {"x": 5.0, "churn_risk": 0.25}, "u2": {"plan": "free"}}, at=START)
        assert service.decide(DecisionRequest("shop", "u1", {"x": 1.0})).decision.context == {
            "x": 1.0,
            "churn_risk": 0.25,
        }
        with pytest.raises(InvalidInputError, match="subject 'u2'"):
            service.subjects.load_traits({"u1": {}, "u2": {"plan": float("nan")}}, at=START)
        assert service.decide(DecisionRequest("shop", "u2")).decision.context == {"plan": "free"}


def test_traits_loaded_elsewhere_replace_what_a_server_holds(tmp_path: Path) -> None:
    """Another process writes new traits, with whatever clock: a server that follows has them, also where it knew of none."""
    with open_shop(tmp_path) as service:
        server, loader = SubjectStates(service.database), SubjectStates(service.database)
        server.is_followed = True
        loader.load_traits({"u1": {"risk": 0.1}}, at=START)
        server.follow_traits()
        assert (server.traits("u1"), server.traits("u2")) == ({"risk": 0.1}, {})
        loader.load_traits({"u1": {"risk": 0.9}, "u2": {"risk": 0.5}}, at=START - timedelta(hours=1))
        server.follow_traits()
        assert (server.traits("u1"), server.traits("u2")) == ({"risk": 0.9}, {"risk": 0.5})

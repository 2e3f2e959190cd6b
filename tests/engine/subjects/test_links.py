"""Who is who: links are facts, a person is what is linked together, and nothing about it depends on order."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.decisions.requests import DecisionRequest, EventRequest, IdentifyRequest, OutcomeRequest
from engine.decisions.service import DecisionService
from engine.experiments.records import Experiment
from engine.experiments.results import experiment_results
from engine.store.changes import Change
from engine.subjects.links import _names, people_of
from policies.allocation import Variant
from policies.errors import ConflictError, InvalidInputError
from tests.engine.service_world import START, Clock, exported, open_shop, shop

IDS = st.sampled_from("abcdefg")


@given(edges=st.dictionaries(IDS, IDS, max_size=7))
def test_a_person_is_what_is_linked_together(edges: dict[str, str]) -> None:
    """Two ids have one name exactly where a path of links joins them, circles included."""
    edges = {a: b for a, b in edges.items() if a != b}
    names = _names(edges)
    group = {id_: {id_} for id_ in "abcdefg"}
    for a, b in edges.items():
        merged = group[a] | group[b]
        for member in merged:
            group[member] = merged
    for a in names:
        assert {b for b in names if names[b] == names[a]} == group[a]
        assert names[a] in group[a]


def _experiment(service: DecisionService) -> Experiment:
    service.put_placement(shop(policy=None, explore_share=0.5))
    variants = (Variant("control", 5000, "baseline"), Variant("other", 5000, "baseline"))
    draft = service.experiments.create(Experiment("trial", "shop", variants), change=Change(START))
    started = service.experiments.start("trial", revision=draft.revision, change=Change(START))
    service.refresh()
    return started


def _subjects_of(service: DecisionService, key: str, n: int) -> list[str]:
    """Subjects that the hash alone puts into a variant."""
    split = service.experiments.get("trial").split(service.experiments.get("trial").phases[-1])
    found = []
    for i in range(500):
        variant = split.assign(f"s{i}")
        if variant is not None and variant.key == key:
            found.append(f"s{i}")
    return found[:n]


def test_a_login_keeps_the_variant_of_the_anonymous_visitor(tmp_path: Path) -> None:
    """After the link the login gets the variant of the first exposure, though its own hash says otherwise; transitively."""
    with open_shop(tmp_path) as service:
        _experiment(service)
        anonymous = _subjects_of(service, "other", 1)[0]
        login, merged = _subjects_of(service, "control", 2)
        assert service.decide(DecisionRequest("shop", anonymous)).decision.variant == "other"
        assert service.decide(DecisionRequest("shop", merged, dry_run=True)).decision.variant == "control"
        receipt = service.identify(IdentifyRequest(anonymous, login))
        assert (receipt.status, receipt.person) == ("recorded", (login, anonymous))
        assert service.decide(DecisionRequest("shop", login)).decision.variant == "other"
        assert service.identify(IdentifyRequest(login, merged)).person[0] == merged
        answer = service.decide(DecisionRequest("shop", merged)).decision
        assert (answer.variant, answer.variant_probability, answer.subject) == ("other", 0.5, merged)


def test_an_experiment_counts_a_person_once_with_all_outcomes(tmp_path: Path) -> None:
    """Three ids, one row: first exposure's variant and time, and the subscription of an id that was never exposed."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        _experiment(service)
        anonymous, phone = _subjects_of(service, "other", 1)[0], _subjects_of(service, "control", 1)[0]
        service.decide(DecisionRequest("shop", anonymous))
        clock.forward(hours=1)
        service.decide(DecisionRequest("shop", phone))  # met before the login: a crossover, counted where it was first
        service.outcome(OutcomeRequest("customer-7", "subscribed", id="o0", at=START - timedelta(hours=2)))
        for id_ in (anonymous, phone):
            service.identify(IdentifyRequest(id_, "customer-7"))
        clock.forward(hours=1)
        service.outcome(OutcomeRequest("customer-7", "margin_eur", 4.0, id="o1"))
        service.outcome(OutcomeRequest(phone, "margin_eur", 3.0, id="o2"))
        found = experiment_results(service.database, "trial", as_of=clock.forward(days=60))
        assert found.subjects.tolist() == ["customer-7"]
        assert found.variants.tolist() == ["other"]
        assert found.margin.tolist() == [7.0]
        assert found.subscribed.tolist() == [0.0]  # it was before the exposure


def test_an_outcome_crosses_the_link(tmp_path: Path) -> None:
    """Billing's subscription of the login belongs to the anonymous visitor's decision, in the answer and in the export."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        made = service.decide(DecisionRequest("shop", "cookie-1", id="d1"))
        other = service.decide(DecisionRequest("shop", "cookie-2", id="d2"))
        clock.forward(hours=1)
        before = service.outcome(OutcomeRequest("customer-7", "subscribed", id="o1"))
        assert before.attributed_to == ()
        service.identify(IdentifyRequest("cookie-1", "customer-7"))
        after = service.outcome(OutcomeRequest("customer-7", "subscribed", id="o1"))
        assert (after.status, after.attributed_to) == ("repeat", (made.decision.id,))
        batch = exported(service.database, "shop", as_of=clock.forward(days=31))
        assert batch.decision_ids is not None
        assert dict(zip(batch.decision_ids.tolist(), batch.reward.tolist(), strict=True)) == {
            made.decision.id: 1.0,
            other.decision.id: 0.0,
        }


def test_what_was_known_at_an_offset_does_not_change(tmp_path: Path) -> None:
    """A link that came later is not seen by a reader of the ledger as it was: snapshots stay recomputable."""
    with open_shop(tmp_path) as service:
        service.identify(IdentifyRequest("a", "b"))
        head = service.database.head()
        service.identify(IdentifyRequest("b", "c"))
        with service.database.reading() as connection:
            assert people_of(connection, ["a"], known_offset=head) == {"a": "b", "b": "b"}
            assert people_of(connection, ["c"]) == {"a": "c", "b": "c", "c": "c"}
            assert people_of(connection, ["stranger"]) == {"stranger": "stranger"}


def test_an_id_is_identified_once(tmp_path: Path) -> None:
    """The same link again is a repeat; another one, a circle, or oneself is refused with what to do."""
    with open_shop(tmp_path) as service:
        service.identify(IdentifyRequest("a", "b"))
        assert service.identify(IdentifyRequest("a", "b")).status == "repeat"
        with pytest.raises(ConflictError, match="new anonymous id"):
            service.identify(IdentifyRequest("a", "c"))
        service.identify(IdentifyRequest("b", "c"))
        with pytest.raises(ConflictError, match="circle"):
            service.identify(IdentifyRequest("c", "a"))
        with pytest.raises(InvalidInputError, match="itself"):
            service.identify(IdentifyRequest("a", "a"))


def test_the_state_of_a_person_is_made_of_all_its_events(tmp_path: Path) -> None:
    """After a login the sequence holds what the anonymous visitor did, in the order of time."""

    class Counting:
        version, width = "v1", 1

        def encode_events(self, events, *, as_of):  # type: ignore[no-untyped-def]  # a fake of the encoder's protocol
            import numpy as np

            self.seen = [e.item for e in events]
            return np.asarray([len(events)], dtype=np.float32)

    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        for i, subject in enumerate(("anonymous", "login", "anonymous")):
            service.event(EventRequest(subject, "view", f"item-{i}", at=START + timedelta(minutes=i)))
        encoder = Counting()
        now = clock.forward(hours=1)
        assert service.subjects.vector("login", encoder, as_of=now)[0] == (1.0,)
        service.identify(IdentifyRequest("anonymous", "login"))
        vector, cursor = service.subjects.vector("login", encoder, as_of=now)
        assert (vector, cursor, encoder.seen) == ((3.0,), 3, ["item-0", "item-1", "item-2"])


def test_another_process_sees_a_link_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    """A server that shares the store follows links that others wrote."""
    import time

    from engine.subjects.links import People

    with open_shop(tmp_path) as service:
        people = People(service.database, is_shared=True)
        assert people.ids("a") == ("a",)
        service.identify(IdentifyRequest("a", "b"))
        time.sleep(0.12)
        assert people.ids("a") == ("b", "a")
        service.identify(IdentifyRequest("x", "b"))
        time.sleep(0.12)
        assert people.ids("a") == ("b", "a", "x")


def test_a_logged_decision_keeps_the_id_it_was_made_for(tmp_path: Path) -> None:
    """A request that names a linked subject is logged under the id that was sent: decisions are never rewritten."""
    with open_shop(tmp_path) as service:
        request = DecisionRequest("shop", "cookie", id="d1")
        service.decide(request)
        service.identify(IdentifyRequest("cookie", "login"))
        assert service.get_decision("d1").subject == "cookie"
        assert service.decide(request._replace(explain=True)).is_repeat

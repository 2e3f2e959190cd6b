"""The service in process: what is answered is on disk, once, and says what it was drawn from."""

from __future__ import annotations

import asyncio
import json
import math
import re
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decisions import configuration
from engine.decisions.opening import _kept_secret, open_service
from engine.decisions.requests import DecisionRequest, EventRequest, OutcomeRequest, RewardRequest
from engine.offers.placement import CatalogueOffer, Placement
from engine.offers.stock import StockCounts
from engine.store.database import Database
from policies.eligibility import Condition, EligibilityRule
from policies.errors import (
    ConflictError,
    DuplicateOfferError,
    InvalidInputError,
    NextofferError,
    NoEligibleOfferError,
    UnknownDecisionError,
    UnknownNameError,
)
from policies.records import FeatureValue, Offer, OfferId
from policies.sampling import uniform_for
from tests.engine.service_world import SECRET, START, Clock, offer, open_shop, shop


def test_a_decision_is_read_back_equal_to_the_bit(tmp_path: Path) -> None:
    """The log holds exactly what was answered, also after the service is opened again."""
    with open_shop(tmp_path) as service:
        answer = service.decide(DecisionRequest("shop", "u1", {"x": 0.1 + 0.2, "country": "dé", "n": None, "b": True}))
        assert service.get_decision(answer.decision.id) == answer.decision
    with open_service(tmp_path, secret=SECRET) as again:
        assert again.get_decision(answer.decision.id) == answer.decision


def test_the_draw_is_the_keyed_hash_of_the_id(tmp_path: Path) -> None:
    """The logged uniform and distribution give the chosen offer, by hand."""
    with open_shop(tmp_path) as service:
        decisions = [service.decide(DecisionRequest("shop", "u1", id=f"d{i}")).decision for i in range(40)]
    floor = 0.05 / 3
    for d in decisions:
        assert d.uniform == uniform_for(SECRET, "shop", d.id)
        assert d.probabilities == pytest.approx((0.95 + floor, floor, floor), abs=1e-12)
        assert d.chosen == (0 if d.uniform < 0.95 + floor else 1 if d.uniform < 0.95 + 2 * floor else 2)
    assert len({d.offer for d in decisions}) > 1


def test_the_same_id_gets_the_stored_answer_even_when_the_catalogue_has_changed(tmp_path: Path) -> None:
    """A retry is answered from the log, payload included, not decided again."""
    request = DecisionRequest("shop", "u1", {"x": 1.0}, id="d1")
    with open_shop(tmp_path) as service:
        first = service.decide(request)
        service.put_placement(replace(shop(), offers=(CatalogueOffer(offer("z")),)))
        again = service.decide(request)
        assert (again.decision, again.payload, again.is_repeat) == (first.decision, first.payload, True)
        assert service.database.head() == 2


def test_a_retry_is_answered_although_nothing_may_be_shown_any_more(tmp_path: Path) -> None:
    """The stored answer does not depend on today's eligibility."""
    request = DecisionRequest("shop", "u1", id="d1")
    with open_shop(tmp_path) as service:
        first = service.decide(request)
        never = EligibilityRule("never", requires=(Condition("x", "present"),))
        service.put_placement(replace(shop(), rules=(never,)))
        assert service.decide(request).decision == first.decision
        with pytest.raises(NoEligibleOfferError):
            service.decide(request._replace(id="d2"))


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "u2"},
        {"features": {"x": 2.0}},
        {"exclude": ("a",)},
        {"is_activated": False},
        {"offers": (offer("a"),)},
    ],
    ids=lambda c: next(iter(c)),
)
def test_the_same_id_for_another_request_is_a_conflict(tmp_path: Path, change: dict[str, object]) -> None:
    """An id that was used for another request is refused, whatever differs."""
    request = DecisionRequest("shop", "u1", {"x": 1.0}, id="d1")
    with open_shop(tmp_path) as service:
        service.decide(request)
        with pytest.raises(ConflictError, match="'d1' was used before"):
            service.decide(request._replace(**change))  # type: ignore[arg-type]


def test_in_bulk_one_by_one_and_in_an_event_loop_the_log_is_the_same(tmp_path: Path) -> None:
    """The three ways in give equal decisions at equal offsets."""
    requests = [DecisionRequest("shop", f"u{i % 7}", {"x": float(i)}, id=f"d{i}") for i in range(60)]

    async def in_a_loop(folder: Path) -> list[object]:
        with open_shop(folder) as service:
            return [(await service.adecide(r)).decision for r in requests]

    with open_shop(tmp_path / "bulk") as service:
        bulk = [a.decision for a in service.decide_many(requests)]
        log = [service.get_decision(r.id or "") for r in requests]
        head = service.database.head()
    with open_shop(tmp_path / "single") as service:
        single = [service.decide(r).decision for r in requests]
        assert service.database.head() == head
    assert bulk == single == asyncio.run(in_a_loop(tmp_path / "loop")) == log


def test_a_dry_run_decides_and_writes_nothing(tmp_path: Path) -> None:
    """A dry run gives the decision that a real one would, and leaves no trace."""
    request = DecisionRequest("shop", "u1", id="d1")
    with open_shop(tmp_path) as service:
        dry = service.decide(request._replace(dry_run=True)).decision
        assert service.database.head() == 1
        assert not dry.recorded
        assert service.decide(request).decision._replace(recorded=False) == dry


def test_rules_dates_stock_and_exclusions_form_the_logged_eligible_set(tmp_path: Path) -> None:
    """Each offer that may not be shown is logged with its reason, and has no probability."""
    entries = (
        CatalogueOffer(offer("early"), ends_at=START),
        CatalogueOffer(offer("late"), starts_at=START + timedelta(seconds=1)),
        CatalogueOffer(offer("none_left"), stock=0),
        CatalogueOffer(offer("ruled", 9.0)),
        CatalogueOffer(offer("unwanted")),
        CatalogueOffer(offer("fine")),
    )
    rule = EligibilityRule(
        "adults", offers=(Condition("price_eur", ">", 5.0),), requires=(Condition("age", ">=", 18.0),)
    )
    with open_shop(tmp_path, placements=[Placement("p", entries, rules=(rule,))]) as service:
        decision = service.decide(DecisionRequest("p", "u1", {"age": 17.0}, exclude=("unwanted",))).decision
        assert decision.offers == ("fine",)
        assert decision.probabilities == (1.0,)
        assert decision.excluded == {
            "early": "ended",
            "late": "not_started",
            "none_left": "out_of_stock",
            "ruled": "adults",
            "unwanted": "request",
        }
        assert service.get_decision(decision.id) == decision


def test_stock_runs_out_and_is_counted_again_after_a_restart(tmp_path: Path) -> None:
    """An offer with three in stock is shown three times, also across a restart."""
    entries = (CatalogueOffer(offer("rare"), stock=3), CatalogueOffer(offer("common")))
    place = Placement("p", entries, baseline=("rare", "common"), explore_share=0.0)
    with open_shop(tmp_path, placements=[place]) as service:
        before = [service.decide(DecisionRequest("p", f"u{i}")).decision.offer for i in range(2)]
    with open_service(tmp_path, secret=SECRET, clock=Clock()) as service:
        after = [service.decide(DecisionRequest("p", f"v{i}")).decision.offer for i in range(3)]
    assert before + after == ["rare", "rare", "rare", "common", "common"]


def test_what_is_shown_while_placements_are_read_again_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view between the reading of a new revision and its taking over uses up stock."""
    place = Placement("p", (CatalogueOffer(offer("rare"), stock=3), CatalogueOffer(offer("common"))))
    with open_shop(tmp_path, placements=[place]) as service:
        held = configuration.Configuration(service.database)
        held.count_shown(held.placement("p").placement.id, "rare")
        read = configuration._load

        def read_slowly(database: Database, stock: StockCounts) -> dict[str, configuration.LivePlacement]:
            live = read(database, stock)
            held.count_shown("p", "rare")
            return live

        monkeypatch.setattr(configuration, "_load", read_slowly)
        service.put_placement(replace(place, explore_share=0.0))
        held.refresh()
        assert held.placement("p").placement.explore_share == 0.0
        assert held.placement("p").shown == {"rare": 1}


def test_a_repeat_shows_what_the_offer_looks_like_today(tmp_path: Path) -> None:
    """A title that changed meanwhile is not answered from an older set of the same features, nor the set's first title later."""
    old, new = ({"title": title} for title in ("a", "b"))
    place = Placement("p", (CatalogueOffer(Offer(OfferId("x"), {"price": 1.0}, old)),))
    with open_shop(tmp_path, placements=[place]) as service:
        service.decide(DecisionRequest("p", "u1", id="d1"))
        service.put_placement(replace(place, offers=(CatalogueOffer(Offer(OfferId("x"), {"price": 1.0}, new)),)))
        first = service.decide(DecisionRequest("p", "u2", id="d2"))
        again = service.decide(DecisionRequest("p", "u2", id="d2"))
    assert again.is_repeat
    assert again.payload == first.payload == new


def test_offers_sent_with_a_request_are_logged_by_value(tmp_path: Path) -> None:
    """Candidates of one request can be read back with their features and payload."""
    mine = (offer("x", 7.0), offer("y", 8.0))
    with open_shop(tmp_path) as service:
        request = DecisionRequest("shop", "u1", offers=mine, id="d1")
        answer = service.decide(request)
        assert answer.decision.offers == ("x", "y")
        assert service.decide(request).payload == answer.payload == {"title": f"Offer {answer.decision.offer}"}


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (DecisionRequest("shoop", "u1"), UnknownNameError, "did you mean 'shop'"),
        (DecisionRequest("shop", ""), InvalidInputError, "subject has 0 characters"),
        (DecisionRequest("shop", "u" * 300), InvalidInputError, "expected text of 1 to 256"),
        (DecisionRequest("shop", "u\x00"), InvalidInputError, "NUL"),
        (DecisionRequest("shop", "\ud800"), InvalidInputError, "surrogate"),
        (DecisionRequest("shop", "u", {"x": math.nan}), InvalidInputError, "feature 'x' of the request is nan"),
        (DecisionRequest("shop", "u", {"x": 10**400}), InvalidInputError, "finite number"),
        (DecisionRequest("shop", "u", {"x": [1]}), InvalidInputError, "flatten"),  # type: ignore[dict-item]
        (DecisionRequest("shop", "u", {"x": "\ud800"}), InvalidInputError, "JSON"),
        (
            DecisionRequest("shop", "u", offers=(offer("a"), offer("a"))),
            DuplicateOfferError,
            "'a' appears more than once",
        ),
        (DecisionRequest("shop", "u", offers=()), InvalidInputError, "offer set is empty"),
        (DecisionRequest("shop", "u", exclude=("a", "b", "c")), NoEligibleOfferError, "subject 'u' has no eligible"),
        (DecisionRequest("shop", "u", at=datetime(2026, 1, 1)), InvalidInputError, "no time zone"),
        (DecisionRequest("shop", "u", {f"f{i}": 1.0 for i in range(1001)}), InvalidInputError, "at most 1000"),
    ],
)
def test_bad_requests_get_one_clear_error_and_leave_no_trace(
    tmp_path: Path, request_: DecisionRequest, error: type[NextofferError], words: str
) -> None:
    """Each bad request has an error of its kind that names the place; nothing is written."""
    with open_shop(tmp_path) as service:
        with pytest.raises(error, match=re.escape(words)):
            service.decide(request_)
        assert service.database.head() == 1


@settings(max_examples=60, deadline=None)
@given(
    features=st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        max_size=6,
    ),
    subject=st.text(max_size=12),
)
def test_any_features_are_either_logged_as_sent_or_refused(
    shared_shop: object, features: dict[str, FeatureValue], subject: str
) -> None:
    """No input raises anything but our errors, and what is taken is in the log as it was sent."""
    from engine.decisions.service import DecisionService

    assert isinstance(shared_shop, DecisionService)
    try:
        decision = shared_shop.decide(DecisionRequest("shop", subject, features)).decision
    except NextofferError:
        return
    stored = shared_shop.get_decision(decision.id)
    assert stored.context == features
    assert stored.subject == subject


@pytest.fixture(scope="module")
def shared_shop(tmp_path_factory: pytest.TempPathFactory) -> object:
    """One service for many examples."""
    return open_shop(tmp_path_factory.mktemp("shared"))


def test_a_reward_counts_once_and_says_what_it_joined(tmp_path: Path) -> None:
    """The same reward twice is one; another value under its id is a conflict; an unknown decision an error."""
    with open_shop(tmp_path) as service:
        decision = service.decide(DecisionRequest("shop", "u1")).decision.id
        first = service.reward(RewardRequest(decision, "subscribed"))
        assert (first.status, first.joined) == ("recorded", True)
        assert service.reward(RewardRequest(decision, "subscribed")).status == "repeat"
        with pytest.raises(ConflictError):
            service.reward(RewardRequest(decision, "subscribed", 2.0))
        with pytest.raises(UnknownDecisionError, match="'nobody' is not in the log"):
            service.reward(RewardRequest("nobody", "subscribed"))
        waiting = service.reward(RewardRequest("later", "subscribed", must_join=False))
        assert (waiting.status, waiting.joined) == ("recorded", False)
        for bad in (math.nan, math.inf, 1e13, True, "1"):
            with pytest.raises(InvalidInputError, match="value of the reward"):
                service.reward(RewardRequest(decision, "click", bad))  # type: ignore[arg-type]


def test_an_outcome_is_attributed_to_the_last_seen_decision_within_the_window(tmp_path: Path) -> None:
    """Not to an earlier one, not to one not yet seen, not to one before the window, not to another's."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        service.decide(DecisionRequest("shop", "u1", id="old"))
        clock.forward(days=31)
        service.decide(DecisionRequest("shop", "u1", id="first"))
        clock.forward(minutes=1)
        service.decide(DecisionRequest("shop", "u1", id="second"))
        clock.forward(minutes=1)
        service.decide(DecisionRequest("shop", "u1", id="unseen", is_activated=False))
        service.decide(DecisionRequest("shop", "u2", id="other"))
        clock.forward(minutes=1)
        assert service.outcome(OutcomeRequest("u1", "subscribed")).attributed_to == ("second",)
        service.activate("unseen")
        assert service.outcome(OutcomeRequest("u1", "refund")).attributed_to == ("unseen",)
        early = OutcomeRequest("u1", "subscribed", at=clock.now - timedelta(minutes=2, seconds=30))
        assert service.outcome(early).attributed_to == ("first",)
        assert service.outcome(OutcomeRequest("nobody", "subscribed")).attributed_to == ()
        assert service.outcome(OutcomeRequest("u1", "unrelated")).attributed_to == ()
        clock.forward(days=31)
        assert service.outcome(OutcomeRequest("u1", "subscribed")).attributed_to == ()


def test_an_activation_counts_once_and_needs_its_decision(tmp_path: Path) -> None:
    """A decision that waits for its page is seen from its activation on."""
    with open_shop(tmp_path) as service:
        service.decide(DecisionRequest("shop", "u1", id="d1", is_activated=False))
        assert not service.get_decision("d1").activated
        assert service.activate("d1")
        assert not service.activate("d1")
        assert service.get_decision("d1").activated
        with pytest.raises(UnknownDecisionError):
            service.activate("d2")


def test_events_are_kept_once(tmp_path: Path) -> None:
    """The same event twice is one; another under its id is a conflict."""
    with open_shop(tmp_path) as service:
        first = EventRequest("u1", "view", "p1", id="e1")
        assert service.event(first).status == "recorded"
        assert service.event(first).status == "repeat"
        with pytest.raises(ConflictError):
            service.event(replace(first, item="p2"))


def test_a_placement_is_changed_only_by_who_has_seen_its_last_revision(tmp_path: Path) -> None:
    """The optimistic lock refuses the second of two who changed the same revision."""
    with open_shop(tmp_path) as service:
        assert service.put_placement(shop(4), expected_revision=1) == 2
        with pytest.raises(ConflictError, match="at revision 2, not 1"):
            service.put_placement(shop(5), expected_revision=1)
        assert service.placement("shop") == (shop(4), 2)
        with pytest.raises(UnknownNameError, match="policy version"):
            service.put_placement(shop(policy="nobody@1"))


def test_a_change_made_by_another_process_is_seen_within_a_second(tmp_path: Path) -> None:
    """Two services over one store follow each other's configuration."""
    with open_shop(tmp_path) as one, open_service(tmp_path, secret=SECRET, clock=Clock()) as two:
        assert two.status("shop").n_offers == 3
        one.put_placement(shop(5))
        two.refresh()
        assert two.status("shop").n_offers == 5


def test_an_explanation_names_rung_variant_and_exclusions(tmp_path: Path) -> None:
    """A person can check a decision by its explanation."""
    with open_shop(tmp_path) as service:
        answer = service.decide(DecisionRequest("shop", "u1", exclude=("b",), explain=True))
        assert answer.explanation is not None
        text = " · ".join(answer.explanation.steps)
        assert "2 of 3 offers" in text
        assert "baseline" in text
        assert json.loads(json.dumps(dict(answer.explanation.excluded))) == {"b": "request"}
        assert sum(answer.explanation.probabilities.values()) == pytest.approx(1.0)


def test_the_secret_is_made_once_and_kept_private(tmp_path: Path) -> None:
    """Two starts over one folder draw alike; only the owner reads the secret."""
    with open_service(tmp_path) as service:
        service.put_placement(shop())
        first = service.decide(DecisionRequest("shop", "u1", id="d1", dry_run=True)).decision.uniform
    with open_service(tmp_path) as service:
        assert service.decide(DecisionRequest("shop", "u1", id="d1", dry_run=True)).decision.uniform == first
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    with pytest.raises(InvalidInputError, match="at least 16"):
        open_service(tmp_path, secret=b"short")


def test_of_two_that_start_at_once_both_have_one_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts while another makes the secret has the same whole one afterwards, never half of it."""
    made = secrets.token_bytes
    found: list[bytes] = []

    def while_another_starts(n: int) -> bytes:
        monkeypatch.undo()
        found.append(_kept_secret(tmp_path / "secret"))
        return made(n)

    monkeypatch.setattr(secrets, "token_bytes", while_another_starts)
    found.append(_kept_secret(tmp_path / "secret"))
    assert found[0] == found[1] == (tmp_path / "secret").read_bytes()
    assert len(found[0]) == 32
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]


def test_times_of_a_request_win_over_the_clock(tmp_path: Path) -> None:
    """In a sandbox the caller keeps time, in any time zone; the log has UTC."""
    at = datetime.fromisoformat("2026-05-01T02:00:00+02:00")
    with open_shop(tmp_path) as service:
        decision = service.decide(DecisionRequest("shop", "u1", at=at)).decision
        assert decision.at == datetime(2026, 5, 1, tzinfo=UTC)
        assert service.get_decision(decision.id).at.utcoffset() == timedelta(0)


def test_a_server_knows_its_store_before_its_first_visitor(tmp_path: Path) -> None:
    """Traits that were there when it started are seen by the very first decision, not only after a first look in passing."""
    with open_shop(tmp_path) as service:
        service.put_placement(shop())
        service.subjects.load_traits({"u1": {"plan": "gold"}}, at=START)
    with open_shop(tmp_path) as service:
        service.follow()
        assert service.decide(DecisionRequest("shop", "u1", dry_run=True)).decision.context == {"plan": "gold"}

"""Bodies of decisions read in bulk: the same as parsed one by one, whatever is in them."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
from hypothesis import given
from hypothesis import strategies as st

from engine.store.bodies import read_bodies
from engine.store.facts import decision_row, digest_of
from policies.records import Decision, DecisionId, OfferId, PlacementId, PolicyRef, SubjectId

NASTY = st.text(st.sampled_from('{}[]",:\\pcrexwt é\n'), max_size=12) | st.sampled_from(
    ['],"p":[', '},"w":{', ',"r":', '},"t":', ',"x":{', "\\"]
)
FEATURES = st.dictionaries(NASTY, NASTY | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none())


@given(
    rows=st.lists(
        st.tuples(st.lists(NASTY.filter(bool), min_size=1, max_size=4, unique=True), FEATURES, NASTY, st.booleans()),
        min_size=1,
        max_size=5,
    )
)
def test_bulk_reading_equals_parsing_each(rows: list[tuple[list[str], dict[str, object], str, bool]]) -> None:
    """Ids and features full of our own marks change nothing; a body laid out otherwise is read as well."""
    bodies = []
    for offers, features, name, is_odd in rows:
        decision = Decision(
            id=DecisionId("d"),
            placement=PlacementId("p"),
            subject=SubjectId("s"),
            at=datetime(2026, 3, 1, tzinfo=UTC),
            offers=tuple(OfferId(o) for o in offers),
            probabilities=(1.0 / len(offers),) * len(offers),
            chosen=0,
            offer_set_revision="0" * 16,
            policy=PolicyRef(name, "1"),
            snapshot=name,
            rung="policy",
            explore_share=0.05,
            uniform=0.5,
            secret_version=1,
            feature_space="",
            context=features,  # type: ignore[arg-type]
            vectors={"sequence": (0.5, -1.0)} if is_odd else {},
            event_cursor=3,
        )
        body = decision_row(decision, digest=digest_of(0)).values[-1]
        bodies.append(orjson.dumps(dict(reversed(orjson.loads(body).items()))) if is_odd and len(offers) == 2 else body)
    found = read_bodies(bodies)
    whole = [orjson.loads(b) for b in bodies]
    assert found.offers == [tuple(b["o"]) for b in whole]
    assert found.revisions == [b["r"] for b in whole]
    assert found.rungs == [b["g"] for b in whole]
    assert found.contexts == [b["x"] for b in whole]
    assert found.vectors == [b["w"] for b in whole]

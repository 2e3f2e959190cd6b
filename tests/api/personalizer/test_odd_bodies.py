"""Odd bodies are refused in the contract's form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.conftest import Site

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.slow
def test_any_body_is_answered(site: Site) -> None:
    """Whatever a body holds at any address, the answer is a success, a 400 or a 501, in the contract's form."""

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(
        call=st.sampled_from(
            [
                *(
                    ("POST", path)
                    for path in ("rank", "multislot/rank", "events/e/reward", "multislot/events/e/reward")
                ),
                *(("POST", path) for path in ("events/e/activate", "multislot/events/e/activate", "evaluations")),
                *(("PUT", path) for path in ("configurations/service", "configurations/policy", "model")),
                *(("GET", path) for path in ("configurations/service", "configurations/policy", "logs/properties")),
                ("DELETE", "configurations/policy"),
            ]
        ),
        body=JSON
        | st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                (
                    *("actions", "contextFeatures", "excludedActions", "eventId", "slots", "value", "reward"),
                    *("rewardWaitTime", "defaultReward", "learningMode", "explorationPercentage", "name", "arguments"),
                ),
                JSON,
            ),
        )
        | st.fixed_dictionaries(
            {"actions": st.lists(st.fixed_dictionaries({"id": st.text(max_size=3), "features": JSON}), max_size=3)},
            optional={"contextFeatures": st.lists(st.dictionaries(st.text(max_size=4), JSON), max_size=2)},
        ),
    )
    def run(call: tuple[str, str], body: object) -> None:
        method, path = call
        headers = {"Ocp-Apim-Subscription-Key": site.keys["admin"]}
        address = f"/personalizer/v1.0/{path}"
        answer = site.client.request(method, address, content=json.dumps(body).encode(), headers=headers)
        assert answer.status_code in (200, 201, 204, 400, 501), answer.text
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) <= {"code", "message", "details"}

    run()

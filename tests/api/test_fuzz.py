"""Every documented operation under generated requests, right and wrong: no 5xx, no traceback, answers of the documented form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import OPERATIONS
from tests.api.process import ServerProcess, start_server

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
N_EXAMPLES = 12
_settings = settings(
    max_examples=N_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One sandbox server for the module; its log must not hold a traceback."""
    started = start_server(tmp_path_factory.mktemp("fuzz") / "home")
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log.read_text()


@pytest.fixture(scope="module")
def schema(server: ServerProcess) -> Any:
    """The document that the server publishes."""
    document = httpx.get(f"{server.url}/openapi.json").json()
    return schemathesis.openapi.from_dict(document)


# An operation that takes nothing has nothing that could be wrong.
CASES = [
    (operation.name, mode)
    for operation in OPERATIONS
    for mode in schemathesis.GenerationMode
    if mode is schemathesis.GenerationMode.POSITIVE or operation.scope is not None
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), CASES, ids=[f"{name}-{mode.value}" for name, mode in CASES])
def test_generated_requests(name: str, mode: Any, schema: Any, server: ServerProcess) -> None:
    """Whatever is sent, the answer is one that the document describes, and never a 5xx."""
    operation = schema.find_operation_by_id(name)

    @_settings
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if (case.headers or {}).get("Nextoffer-Time"):
            case.headers.pop("Nextoffer-Time")  # any text is possible there; its own test has the cases that matter
        case.call_and_validate(base_url=server.url, headers=server.headers, checks=CHECKS)

    run()


ODD_TEXT = st.one_of(
    st.text(max_size=20), st.sampled_from(["\x00", "\ud800", "🦆", "'; --", "../../x", "%00", "{{7*7}}", "\u202e"])
)
ODD_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ODD_TEXT.filter(lambda t: "\ud800" not in t),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
def test_the_hot_doors_survive_any_json(server: ServerProcess) -> None:
    """Any JSON in any known field, NaN and infinities included, is answered with 200 or a refusal that says something."""
    import json

    doors = {
        f"/v1/placements/{server.placement}/decisions": ["subject", "features", "id", "offers", "exclude", "events"],
        "/v1/rewards": ["decision", "kind", "value", "id", "at"],
        "/v1/outcomes": ["subject", "kind", "value", "id", "at"],
        "/v1/events": ["subject", "kind", "item", "value", "id", "at"],
    }
    with httpx.Client(base_url=server.url, headers=server.headers) as http:

        @settings(
            max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(data=st.data())
        def run(data: st.DataObject) -> None:
            path = data.draw(st.sampled_from(sorted(doors)))
            body = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(doors[path], ODD_JSON)))
            raw = json.dumps({"subject": "u", **body} if "decisions" in path else body).encode()
            answer = http.post(path, content=raw)
            assert answer.status_code in (200, 400, 404, 409, 422), answer.text
            assert answer.status_code == 200 or len(answer.json()["error"]["message"]) > 10

        run()


@pytest.mark.slow
@given(subject=ODD_TEXT, request_id=ODD_TEXT)
@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_odd_paths_and_texts(server: ServerProcess, subject: str, request_id: str) -> None:
    """Odd text in a path is a refusal, never a failure."""
    from urllib.parse import quote

    for path in (
        f"/v1/decisions/{quote(subject.encode('utf-8', 'surrogatepass'))}",
        f"/v1/placements/{quote(request_id.encode('utf-8', 'surrogatepass'))}/status",
    ):
        answer = httpx.get(server.url + path, headers=server.headers)
        assert answer.status_code < 500, answer.text

"""Both clients against the OpenAPI document: every path, field and status that they use exists there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.openapi import answer_schema, check_body, document, has_field, operation
from tests.clients.test_python_client import nextoffer_client

DECISION: dict[str, Any] = {
    "id": "d",
    "offer": {"id": "annual", "payload": {}},
    "probability": 0.5,
    "variant": None,
    "recorded": True,
}
PAGE: dict[str, Any] = {"slots": [{"slot": "hero", "decision": DECISION}, {"slot": "side", "decision": DECISION}]}


class Recorder(dict[str, Any]):
    """An answer that notes which of its fields are read."""

    def __init__(self, content: dict[str, Any], seen: set[tuple[str, ...]], path: tuple[str, ...] = ()) -> None:
        super().__init__(content)
        self._seen, self._path = seen, path

    def __getitem__(self, name: str) -> Any:
        path = (*self._path, name)
        self._seen.add(path)
        value = super().__getitem__(name)
        if isinstance(value, dict):
            return Recorder(value, self._seen, path)
        if isinstance(value, list):
            return [Recorder(v, self._seen, (*path, "*")) for v in value]
        return value


def _python_calls() -> list[tuple[str, str, Any, set[tuple[str, ...]]]]:
    made: list[tuple[str, str, Any, set[tuple[str, ...]]]] = []

    def recording(method: str, path: str, body: Any, **_: Any) -> Any:
        seen: set[tuple[str, ...]] = set()
        made.append((method, path, body, seen))
        return Recorder(PAGE if body and "slots" in body else DECISION, seen)

    client: Any = nextoffer_client.Nextoffer("http://127.0.0.1:9", "k")
    client._call = recording
    choice = client.decide("p", subject="u", features={"x": 1, "t": "a", "b": True, "n": None}, exclude=["a"])
    client.decide("p", subject="u", ttl_s=60, user_agent="Firefox")
    client.decide_page("p", subject="u", slots=["hero", "side"])
    client.reward(choice, "subscribed", id="r1")
    client.outcome("u", "subscribed", 2.0, at="2026-01-31T00:00:00Z")
    client.event("u", "page_view", "pricing")
    client.activate(choice)
    client.identify("u", "customer-7")
    return made


def _javascript_calls() -> list[tuple[str, str, Any, set[tuple[str, ...]]]]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("missing tool: node (18 or later)")
    script = Path(__file__).with_name("javascript_contract.mjs")
    client = Path(__file__).parents[2] / "clients" / "javascript" / "nextoffer.js"
    done = subprocess.run(
        [node, str(script), str(client), json.dumps(DECISION), json.dumps(PAGE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(c["method"], c["path"], c["body"], {tuple(p) for p in c["read"]}) for c in json.loads(done.stdout)]


@pytest.mark.parametrize("calls", [_python_calls, _javascript_calls], ids=["python", "javascript"])
def test_every_path_field_and_body_is_documented(calls: Any) -> None:
    """Each call is an operation of the document, its body fits the schema, and each field read is one that is always there."""
    found = document()
    made = calls()
    assert len(made) == 8
    fields_read = 0
    for method, path, body, read in made:
        chosen = operation(found, method, path)
        if body is not None:
            check_body(found, chosen, body)
        else:
            assert not chosen.get("requestBody", {}).get("required", False)
        for field in read:
            assert has_field(found, answer_schema(chosen), list(field)), (path, field)
            fields_read += 1
    assert fields_read >= 15
    shown = {path for _, path, _, _ in made}
    assert "/v1/subjects/u/identify" in shown


def test_the_statuses_and_the_error_that_clients_know_are_documented() -> None:
    """What is retried (503) and what is reported is documented, with the code and message that clients read."""
    found = document()
    for template, methods in found["paths"].items():
        for chosen in methods.values():
            if "security" in chosen:
                assert {"429", "503", "401", "403"} <= set(chosen["responses"]), template
    error = {"$ref": "#/components/schemas/ErrorReply"}
    assert has_field(found, error, ["error", "message"])
    assert has_field(found, error, ["error", "code"])


def test_a_field_that_is_not_documented_would_be_noticed() -> None:
    """The check itself refuses an unknown path, field and body."""
    found = document()
    chosen = operation(found, "POST", "/v1/rewards")
    assert not has_field(found, answer_schema(chosen), ["no_such_field"])
    with pytest.raises(AssertionError, match="not in the OpenAPI"):
        operation(found, "POST", "/v1/nothing")
    with pytest.raises(Exception, match="no_such_field"):
        check_body(found, chosen, {"decision": "d", "kind": "k", "no_such_field": 1})

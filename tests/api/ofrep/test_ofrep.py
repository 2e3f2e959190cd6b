"""The OpenFeature door: the protocol answer by answer, and real clients over a real server."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.auth import KeyFile, new_key
from policies.allocation import Split, Variant
from tests.api.conftest import NOW, PLACEMENT, Site
from tests.api.process import ServerProcess, start_server

BULK = "/ofrep/v1/evaluate/flags"
SPLIT = {
    "id": "headline",
    "placement": "offer_page",
    "variants": [
        {"key": "plain", "weight_bp": 3334, "policy": "placement", "value": "Join us"},
        {"key": "warm", "weight_bp": 3333, "policy": "placement", "value": "Stay a while"},
        {"key": "bold", "weight_bp": 3333, "policy": "placement"},
    ],
}
VARIANTS = (
    Variant("plain", 3334, "p", "Join us"),
    Variant("warm", 3333, "p", "Stay a while"),
    Variant("bold", 3333, "p"),
)


def _started(site: Site, **change: Any) -> int:
    made = site.call("POST", "/v1/experiments", {**SPLIT, **change}).json()
    return int(site.call("POST", f"/v1/experiments/{made['id']}/start", {"revision": 1}).json()["revision"])


def _ask(site: Site, flag: str, *, key: str = "decide", headers: Any = None, **context: Any) -> Any:
    path = f"{BULK}/{flag}" if flag else BULK
    return site.call("POST", path, {"context": context}, key=key, headers=headers or {})


def test_a_flag_is_the_variant_of_the_hash(site: Site) -> None:
    """Every subject gets the value of its variant, SPLIT as reason, and nothing is recorded."""
    _started(site)
    split = Split("headline", VARIANTS)
    for i in range(40):
        answer = _ask(site, "headline", targetingKey=f"посетитель-{i}")
        told, expected = answer.json(), split.assign(f"посетитель-{i}")
        assert expected is not None
        assert (told["variant"], told["value"]) == (expected.key, expected.value or expected.key)
        assert told["reason"] == "SPLIT"
        assert answer.headers["cache-control"] == "private, no-store"
    assert site.call("GET", "/v1/experiments/headline/results").json()["rows"][0]["n_subjects"] == 0


def test_the_next_best_offer_is_a_decision(site: Site) -> None:
    """The object flag carries offer and payload, and its decision id takes a reward."""
    told = _ask(site, "next-best-offer", targetingKey="u1", age=41.0).json()
    assert told["value"]["offer"] == told["variant"]
    assert told["metadata"]["recorded"] is True
    logged = site.call("GET", f"/v1/decisions/{told['metadata']['decisionId']}").json()
    assert (logged["subject"], logged["offer"]) == ("u1", told["variant"])
    assert site.call("POST", "/v1/rewards", {"decision": logged["id"], "kind": "subscribed"}).status_code == 200


def test_a_machine_gets_an_offer_that_counts_nowhere(site: Site) -> None:
    """A context that says so, or whose User-Agent does, is answered with the baseline order under the policy name bot."""
    machines: list[dict[str, Any]] = [{"bot": True}, {"userAgent": "Googlebot/2.1"}, {"user_agent": "curl/8.0"}]
    for i, said in enumerate(machines):
        flag = _ask(site, "next-best-offer", targetingKey=f"m{i}", **said).json()
        assert flag["value"]["offer"] == "annual"
        policy = site.call("GET", f"/v1/decisions/{flag['metadata']['decisionId']}").json()["policy"]
        assert policy.startswith("bot@")
    flag = _ask(site, "next-best-offer", targetingKey="person", userAgent="Mozilla/5.0 Firefox/140.0").json()
    policy = site.call("GET", f"/v1/decisions/{flag['metadata']['decisionId']}").json()["policy"]
    assert not policy.startswith("bot@")


@pytest.mark.parametrize(
    ("flag", "body", "status", "code"),
    [
        ("headline", b"{", 400, "PARSE_ERROR"),
        ("headline", b"[]", 400, "INVALID_CONTEXT"),
        ("headline", b"{}", 400, "TARGETING_KEY_MISSING"),
        ("headline", b'{"context": {"targetingKey": 7}}', 400, "INVALID_CONTEXT"),
        ("headline", b'{"context": {"targetingKey": "u", "tags": [1, "a"]}}', 400, "INVALID_CONTEXT"),
        ("nothing", b'{"context": {"targetingKey": "u"}}', 404, "FLAG_NOT_FOUND"),
        ("next-best-offer", b'{"context": {"targetingKey": "u", "placement": "no"}}', 400, "INVALID_CONTEXT"),
    ],
)
def test_faults_have_the_form_of_the_protocol(site: Site, flag: str, body: bytes, status: int, code: str) -> None:
    """Each fault has its code, the flag's key and a sentence."""
    _started(site)
    headers = {"Authorization": f"Bearer {site.keys['decide']}"}
    answer = site.client.post(f"{BULK}/{flag}", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["key"] == flag
    assert answer.json()["errorCode"] == code
    assert len(answer.json()["errorDetails"]) > 20


def test_no_key_a_wrong_scope_and_too_much(make_site: Any) -> None:
    """401, 403, and 429 with whole seconds."""
    site = make_site(rate_limit_per_s=1.0)
    assert site.client.post(BULK, json={}).status_code == 401
    assert _ask(site, "x", key="read", targetingKey="u").status_code == 403
    answers = [_ask(site, "x", targetingKey="u") for _ in range(6)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_bulk_has_every_flag_and_a_tag_of_configuration_and_context(site: Site) -> None:
    """The same context gets 304; another context, or a changed experiment, gets everything anew; decisions are not seen yet."""
    revision = _started(site)
    first = _ask(site, "", targetingKey="u1")
    flags = {f["key"]: f for f in first.json()["flags"]}
    assert set(flags) == {"headline", "next-best-offer"}
    assert flags["next-best-offer"]["metadata"]["activated"] is False
    known = {"If-None-Match": first.headers["etag"]}
    again = _ask(site, "", targetingKey="u1", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert _ask(site, "", targetingKey="u1", age=3.0, headers=known).status_code == 200
    assert _ask(site, "", targetingKey="u1").json() == first.json()
    site.call("POST", "/v1/experiments/headline/stop", {"revision": revision})
    assert _ask(site, "", targetingKey="u1", headers=known).status_code == 200
    stopped = _ask(site, "headline", targetingKey="u1").json()
    assert (stopped["reason"], stopped["value"]) == ("DISABLED", "Join us")


def test_a_public_key_sees_what_is_marked_and_nothing_else(site: Site) -> None:
    """A page's key reads visible experiments; the others do not exist for it, and it gets no decision."""
    site.keys["page"] = site.new_key("page", "reward", is_public=True)
    _started(site)
    assert _ask(site, "headline", key="page", targetingKey="u").status_code == 404
    assert _ask(site, "next-best-offer", key="page", targetingKey="u").status_code == 404
    site.call("PUT", "/v1/placements/other", PLACEMENT)
    _started(site, id="shown", placement="other", is_client_visible=True)
    assert _ask(site, "shown", key="page", targetingKey="u").json()["reason"] == "SPLIT"
    assert [f["key"] for f in _ask(site, "", key="page", targetingKey="u").json()["flags"]] == ["shown"]
    assert _ask(site, "", key="page", targetingKey="u", headers={"Origin": "https://evil.example"}).status_code == 403


@pytest.mark.slow
def test_random_bodies_get_no_server_fault(site: Site) -> None:
    """Whatever a client sends, the answer is below 500 and JSON."""
    schemathesis = pytest.importorskip(
        "schemathesis", reason="missing tool: schemathesis; pip install 'nextoffer[test]'"
    )
    from hypothesis import HealthCheck, given, settings

    _started(site)
    context = {"type": "object", "properties": {"targetingKey": {}, "placement": {}}}
    body = {"type": "object", "properties": {"context": context}}
    content = {"application/json": {"schema": body}}
    operation = {"requestBody": {"content": content}, "responses": {"200": {"description": "ok"}}}
    flag = {"name": "key", "in": "path", "required": True, "schema": {"type": "string"}}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "t", "version": "1"},
        "paths": {BULK: {"post": operation}, BULK + "/{key}": {"post": {**operation, "parameters": [flag]}}},
    }
    schema = schemathesis.openapi.from_dict(document)
    statuses: Counter[int] = Counter()
    for result in schema.get_all_operations():

        @given(case=result.ok().as_strategy())
        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        def probe(case: Any) -> None:
            arguments = case.as_transport_kwargs(base_url="http://testserver")
            arguments = {k: v for k, v in arguments.items() if k in ("method", "url", "json", "params")}
            arguments["headers"] = {"Authorization": f"Bearer {site.keys['decide']}"}
            if not isinstance(arguments.get("json"), (dict, list, str, int, float, bool, type(None))):
                arguments.pop("json")
            answer = site.client.request(**arguments)
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, answer.text
            if answer.status_code != 304:
                json.loads(answer.content)

        probe()
    assert sum(statuses.values()) >= 100
    assert set(statuses) & {400, 404}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real server with the experiment running and visible."""
    home = tmp_path_factory.mktemp("ofrep") / "home"
    found = start_server(home)
    try:
        with httpx.Client(base_url=found.url, headers=found.headers, timeout=20) as client:
            assert client.post("/v1/experiments", json={**SPLIT, "is_client_visible": True}).status_code == 201
            assert client.post("/v1/experiments/headline/start", json={"revision": 1}).status_code == 200
        yield found
    finally:
        found.stop()


@pytest.mark.slow
def test_the_openfeature_client(server: ServerProcess) -> None:
    """The real Python provider: string and object flags, a missing flag, a wrong type."""
    api = pytest.importorskip("openfeature.api", reason="missing tool: openfeature-sdk; pip install 'nextoffer[test]'")
    from openfeature.contrib.provider.ofrep import OFREPProvider
    from openfeature.evaluation_context import EvaluationContext

    headers = {"Authorization": f"Bearer {server.key}"}
    api.set_provider(OFREPProvider(server.url, headers_factory=lambda: headers, timeout=20.0))
    client = api.get_client()
    split = Split("headline", VARIANTS)
    for i in range(25):
        context = EvaluationContext(f"клиент-{i}", {"age": 30 + i, "is_new": True})
        found = client.get_string_details("headline", "?", context)
        expected = split.assign(f"клиент-{i}")
        assert expected is not None
        assert (found.value, found.variant, str(found.reason)) == (
            expected.value or expected.key,
            expected.key,
            "SPLIT",
        )
    offer = client.get_object_details("next-best-offer", {}, EvaluationContext("u", {"placement": "offer_page"}))
    assert offer.error_code is None, offer.error_message
    assert isinstance(offer.value, dict)
    assert offer.value["offer"] == offer.variant
    missing = client.get_string_details("nothing", "?", EvaluationContext("u"))
    assert (missing.value, str(missing.error_code)) == ("?", "FLAG_NOT_FOUND")
    nobody = client.get_string_details("headline", "?", EvaluationContext())
    assert (nobody.value, str(nobody.error_code)) == ("?", "TARGETING_KEY_MISSING")
    api.clear_providers()


@pytest.mark.slow
def test_the_growthbook_client(server: ServerProcess) -> None:
    """GrowthBook's Python SDK loads the payload and gives each id the variant that we give it."""
    growthbook = pytest.importorskip("growthbook", reason="missing tool: growthbook; pip install 'nextoffer[test]'")
    key, kept = new_key("page", scopes=("reward",), at=NOW, is_public=True)
    KeyFile(server.log.parent / "home" / "keys.json").add(kept)
    time.sleep(1.1)  # the server looks at the file of keys once a second
    split = Split("headline", VARIANTS)
    book = growthbook.GrowthBook(api_host=server.url, client_key=key)
    book.load_features()
    for i in range(500):
        book.set_attributes({"id": f"ü-{i}"})
        expected = split.assign(f"ü-{i}")
        assert expected is not None
        assert book.get_feature_value("headline", "?") == (expected.value or expected.key)
    book.destroy()

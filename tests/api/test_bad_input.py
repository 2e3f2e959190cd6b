"""Bad input gets one clear error that names the place and the mend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import PLACEMENT, Site

DECISIONS = "/v1/placements/offer_page/decisions"


@pytest.mark.parametrize(
    ("raw", "status", "code", "words"),
    [
        (b"", 422, "malformed", "invalid JSON"),
        (b'{"subject": "u1"', 422, "malformed", "invalid JSON"),
        (b"\xff\xfe{}", 422, "malformed", "invalid JSON"),
        (b"[]", 422, "malformed", "body"),
        (b"{}", 422, "malformed", "subject is missing"),
        (b'{"subject": 7}', 422, "malformed", "subject input should be a valid string"),
        (b'{"subject": ""}', 422, "malformed", "subject"),
        (b'{"subject": "u", "featurs": {}}', 422, "malformed", "featurs is not a known field"),
        (b'{"subject": "u", "features": {"x": NaN}}', 422, "malformed", "features.x is not a finite number"),
        (b'{"subject": "u", "features": {"x": 1e999}}', 422, "malformed", "features.x is not a finite number"),
        (b'{"subject": "u", "features": {"x": [1]}}', 422, "malformed", "features.x has the wrong type"),
        (b'{"subject": "u", "features": {"x": ' + b"9" * 400 + b"}}", 422, "malformed", "features.x"),
        (b'{"subject": "u\\u0000"}', 422, "malformed", "subject"),
        (b'{"subject": "\\ud800"}', 422, "malformed", "invalid JSON"),
        (b'{"subject": "u", "offers": []}', 422, "malformed", "offers has too few entries (0); expected at least 1"),
        (b'{"subject": "u", "ttl_s": -5}', 422, "malformed", "ttl_s is -5; expected at least 1"),
        (
            b'{"subject": "u", "offers": [{"id": "a"}, {"id": "a"}]}',
            400,
            "duplicate_offer",
            "'a' appears more than once",
        ),
        (b'{"subject": "u", "exclude": ["monthly", "annual", "winback"]}', 409, "no_eligible_offer", "fallback offer"),
        (b'{"subject": "u", "features": {"x": ' + b"[" * 40 + b"]" * 40 + b"}}", 422, "malformed", "nested deeper"),
    ],
)
def test_a_bad_decision_request(site: Site, raw: bytes, status: int, code: str, words: str) -> None:
    """Each fault of a body is answered with its place and what to do."""
    headers = {"Authorization": f"Bearer {site.keys['decide']}"}
    answer = site.client.post(DECISIONS, content=raw, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert words in answer.json()["error"]["message"]


def test_an_unknown_placement_is_answered_with_the_nearest(site: Site) -> None:
    """A misspelt placement names the right one."""
    answer = site.call("POST", "/v1/placements/ofer_page/decisions", {"subject": "u1"})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "unknown placement 'ofer_page'; did you mean 'offer_page'?"


def test_a_large_body_is_refused_whether_announced_or_streamed(site: Site) -> None:
    """Ten megabytes are not read, and what was written before stays."""
    site.decide({"id": "before", "subject": "u1"})
    headers = {"Authorization": f"Bearer {site.keys['decide']}"}
    big = b'{"subject": "' + b"x" * 10_000_000 + b'"}'
    announced = site.client.post(DECISIONS, content=big, headers=headers)
    streamed = site.client.post(DECISIONS, content=iter([big[:50_000], big[50_000:]]), headers=headers)
    for answer in (announced, streamed):
        assert answer.status_code == 413
        assert "at most 65,536 are read" in answer.json()["error"]["message"]
    assert site.call("GET", "/v1/decisions/before").status_code == 200


def test_unknown_addresses_and_methods_have_the_same_shape(site: Site) -> None:
    """404 and 405 of the framework look like every other error."""
    for method, path, status in (("GET", "/v1/nothing", 404), ("DELETE", "/v1/rewards", 405)):
        answer = site.call(method, path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"code", "message", "request_id"}


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"offers": [{"id": "a"}, {"id": "a"}]}, 400, "appears more than once"),
        ({"baseline": ["anual"]}, 400, "did you mean 'annual'"),
        ({"explore_share": 1.5}, 422, "explore_share"),
        ({"policy": "nobody@1"}, 400, "unknown policy version"),
        (
            {"rules": [{"id": "r", "requires": [{"feature": "a", "operator": "in", "value": 3}]}]},
            400,
            "expected a list",
        ),
        ({"rules": [{"id": "r", "requires": [{"feature": "a", "operator": "<", "value": "x"}]}]}, 400, "number"),
        ({"rules": [{"id": "r", "requires": [{"feature": "a", "operator": "~", "value": 3}]}]}, 422, "operator"),
        ({"offers": [{"id": "a", "starts_at": "2026-01-01T00:00:00"}]}, 422, "starts_at"),
        ({"expected_revision": 7}, 409, "is at revision 1, not 7"),
    ],
)
def test_a_bad_placement(site: Site, change: dict[str, Any], status: int, words: str) -> None:
    """A placement that could not decide is refused when it is written, and the old one stays."""
    before = site.call("GET", "/v1/placements/offer_page").json()
    answer = site.call("PUT", "/v1/placements/offer_page", {**PLACEMENT, **change})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert site.call("GET", "/v1/placements/offer_page").json() == before


def test_an_unexpected_failure_shows_no_traceback(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours is answered with a request id, which the log holds, and nothing of the code."""

    async def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(site.service, "areward", broken)
    answer = site.call("POST", "/v1/rewards", {"decision": "d", "kind": "k"}, headers={"X-Request-Id": "req-7"})
    assert answer.status_code == 500
    assert answer.json()["error"]["request_id"] == "req-7" == answer.headers["x-request-id"]
    assert "secret detail" not in answer.text


def test_the_request_id_is_echoed_only_where_it_is_harmless(site: Site, make_site: Callable[..., Site]) -> None:
    """A line break or a control character of a caller never reaches a header or a log."""
    assert site.decide({"subject": "u"}, headers={"X-Request-Id": "abc.1"}).headers["x-request-id"] == "abc.1"
    assert (
        site.decide({"subject": "u"}, headers={"X-Request-Id": "a b<script>"}).headers["x-request-id"] != "a b<script>"
    )

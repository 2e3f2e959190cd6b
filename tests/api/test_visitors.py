"""Slots, reloads and machines over HTTP."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from api.visitors import Visitors, is_machine_agent
from tests.api.conftest import Site

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36"


def test_a_page_answers_a_decision_for_each_slot(site: Site) -> None:
    """Two slots, two decisions with ids of their own; a reward names one of them; a retry is the stored page."""
    body = {"id": "p1", "subject": "u1", "slots": [{"id": "hero"}, {"id": "side", "features": {"size": "small"}}]}
    page = site.decide(body).json()
    assert (page["id"], page["recorded"], page["repeat"]) == ("p1", True, False)
    hero, side = (entry["decision"] for entry in page["slots"])
    assert [entry["slot"] for entry in page["slots"]] == ["hero", "side"]
    assert hero["offer"]["id"] != side["offer"]["id"]
    reward = site.call("POST", "/v1/rewards", {"decision": side["id"], "kind": "subscribed"}).json()
    assert reward["joined"] is True
    again = site.decide(body).json()
    assert again["repeat"] is True
    assert [e["decision"]["offer"] for e in again["slots"]] == [hero["offer"], side["offer"]]
    logged = site.call("GET", "/v1/decisions/p1%23side").json()
    assert logged["excluded"][hero["offer"]["id"]] == "placed"


def test_a_reload_gets_the_same_offer(site: Site) -> None:
    """With ``ttl_s`` a second call is a repeat under the first id; an id of one's own beside it is refused."""
    first = site.decide({"subject": "u1", "ttl_s": 600}).json()
    again = site.decide({"subject": "u1", "ttl_s": 600, "features": {"visits": 9}}).json()
    assert again == {**first, "repeat": True}
    assert site.decide({"subject": "u1", "ttl_s": 600, "id": "x"}).status_code == 400
    assert site.call("GET", "/v1/placements/offer_page/status").json()["n_decisions"] == 1


@pytest.mark.parametrize("said", [{"bot": True}, {"user_agent": "Mozilla/5.0 (compatible; Googlebot/2.1)"}])
def test_a_machine_is_told_apart_by_word_or_by_its_agent(site: Site, said: dict[str, object]) -> None:
    """A declared or known machine gets the baseline order and is counted apart."""
    made = site.decide({"id": "d1", "subject": "c1", **said}).json()
    assert (made["rung"], made["offer"]["id"], made["probability"], made["activated"]) == ("bot", "annual", 1.0, False)
    site.decide({"subject": "u1", "user_agent": CHROME})
    status = site.call("GET", "/v1/placements/offer_page/status").json()
    assert (status["n_decisions"], status["n_bot_decisions"]) == (2, 1)


def test_a_visitor_too_quick_for_a_person_is_a_machine(make_site: Callable[..., Site]) -> None:
    """Above the rate a subject is answered as a machine, others are not."""
    site = make_site(bot_decisions_per_minute=3)
    rungs = [site.decide({"subject": "u1"}).json()["rung"] for _ in range(5)]
    assert rungs[-1] == "bot"
    assert rungs[0] != "bot"
    assert site.decide({"subject": "u2"}).json()["rung"] != "bot"


def test_the_count_starts_anew_each_minute() -> None:
    """What was too quick in one minute is a person again in the next."""
    seconds = [0.0]
    visitors = Visitors(2, monotonic=lambda: seconds[0])

    class Ask:
        subject, bot, user_agent = "u", False, None

    assert [visitors.is_machine(Ask()) for _ in range(3)] == [False, False, True]
    seconds[0] = 60.0
    assert visitors.is_machine(Ask()) is False


def test_a_machine_that_runs_the_page_s_script_is_ignored(site: Site) -> None:
    """With a public key the User-Agent is the visitor's own: a crawler neither activates nor rewards."""
    site.decide({"id": "d1", "subject": "u1", "activated": False})
    key = site.new_key("browser", "reward", is_public=True)
    crawler = {"User-Agent": "Mozilla/5.0 HeadlessChrome/138.0.0.0"}
    seen = site.client.post(f"/v1/decisions/d1/activation?key={key}", headers=crawler).json()
    assert seen == {"decision": "d1", "activated": False, "first": False}
    text = '{"decision": "d1", "kind": "clicked"}'
    assert site.client.post(f"/v1/rewards?key={key}", content=text, headers=crawler).json()["status"] == "ignored"
    assert site.call("GET", "/v1/decisions/d1").json()["activated"] is False
    person = {"User-Agent": CHROME}
    assert site.client.post(f"/v1/decisions/d1/activation?key={key}", headers=person).json()["first"] is True
    assert site.client.post(f"/v1/rewards?key={key}", content=text, headers=person).json()["joined"] is True


@pytest.mark.parametrize(
    ("agent", "is_machine"),
    [
        (CHROME, False),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Mobile/15E148 Safari/604.1",
            False,
        ),
        ("Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0", False),
        ("Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 Chrome/138.0 Mobile Safari/537.36", False),
        ("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)", True),
        ("Mozilla/5.0 (compatible; YandexBot/3.0)", True),
        ("facebookexternalhit/1.1", True),
        ("curl/8.5.0", True),
        ("python-requests/2.32", True),
        ("Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/138.0.0.0", True),
        ("  ", True),
    ],
)
def test_known_agents(agent: str, is_machine: bool) -> None:
    """Browsers are people, crawlers, tools and headless browsers are machines, and a phone called CUBOT is a phone."""
    assert is_machine_agent(agent) is is_machine

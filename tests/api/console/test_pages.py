"""The pages over a real store: what they say, who may do what, and what no other site can make them do."""

from __future__ import annotations

import base64
import csv
import io
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.auth import KeyFile, new_key
from api.console.app import PAGES, create_console
from api.console.conditions import OPERATORS
from api.console.links import Link, LinkKey
from api.console.rules import AGGREGATIONS
from api.console.shown import done, money, policy_names
from api.console.words import translations
from engine.accounts.accounts import Accounts
from engine.experiments.gain import money_gain
from engine.experiments.lesson import false_winner
from engine.experiments.reading import take_reading
from engine.experiments.records import Experiment, Ramp
from engine.reports import keep_report
from engine.store.changes import Change
from policies.allocation import Variant
from policies.eligibility import Condition
from policies.errors import InvalidInputError, UnknownNameError
from tests.api.console.conftest import PASSWORD, START, TITLES, Console, opened, some_report

pytestmark = pytest.mark.slow  # the store is filled through the service's durable path
FOLDER = Path(__file__).parents[3] / "api" / "console"


def test_home_says_what_runs_and_what_to_do(console: Console) -> None:
    """The first page names both running experiments, the verdict of the planned one, and that the other has no plan."""
    html = console.get("/")
    assert re.search(r"Ship personal: [\d\u00a0]+ more subscriptions \(between [\d\u00a0]+ and [\d\u00a0]+\)", html)
    assert "No plan, no verdict" in html
    assert 'href="/experiments/spring-welcome"' in html
    assert "This week, from the new variants" in html
    assert "Pause all experiments" in html


def test_an_experiment_shows_its_verdict_looks_segments_and_cohorts(console: Console) -> None:
    """The sentence, each planned look with what a careless test would have said, segments, cohorts and phases are on one page."""
    html = console.get("/experiments/spring-welcome")
    for text in ("Ship personal", "1 of 5", "5 of 5", "a test that ignores looking would say", "week 12", "Guardrails"):
        assert text in html
    assert "device: phone" in html
    assert html.count("<svg") >= 4


def test_pages_speak_russian(console: Console) -> None:
    """With Russian asked for, sentence, menu and figures are Russian; every text of the templates has a translation."""
    html = console.get("/experiments/spring-welcome", language="ru-RU,ru")
    assert re.search(r"Выпускайте personal: .* больше \(от [\d\u00a0]+ до [\d\u00a0]+\)", html)
    assert '<html lang="ru">' in html
    assert "Что показал" in html
    sources = [p.read_text(encoding="utf-8") for p in (*FOLDER.glob("templates/*.j2"), *FOLDER.glob("*.py"))]
    said = {m for s in sources for m in re.findall(r'\bt\(\s*"((?:[^"\\]|\\.)+)"', s)}
    said |= {m for s in sources for m in re.findall(r'\bask\.words\(\s*"((?:[^"\\]|\\.)+)"', s)}
    said |= {p.title for p in PAGES if p.menu} | set(OPERATORS.values()) | set(AGGREGATIONS.values())
    missing = {s for s in said if s not in translations("ru")}
    assert not missing


def test_names_amounts_and_deeds_are_said_in_words() -> None:
    """A number gets its currency and a price in words stays; versions go by name, older ones of a name told apart; no action is raw."""
    assert (money(9.5), money(11.0), money("9.9")) == ("9.50\u00a0€", "11\u00a0€", "9.9\u00a0€")
    assert money("249 € a month") == "249 € a month"
    assert money(None) == ""
    refs = ["lints@c973ace9", "baseline", "lints@0badcafe"]
    assert policy_names(refs) == {"lints@c973ace9": "lints", "baseline": "baseline", "lints@0badcafe": "lints · 0bad"}
    assert done("register") == "added the policy"
    engine = (FOLDER.parents[1] / "engine").rglob("*.py")
    told = {a for p in engine for a in re.findall(r'\baction="([a-z]+)"', p.read_text(encoding="utf-8"))}
    assert "register" in told
    assert {a for a in told if done(a) == a} == set()
    assert {done(a) for a in told} <= set(translations("ru"))


def test_keys_say_when_they_end(console: Console) -> None:
    """The page of keys names the end of each key, and says which are over."""
    _, over = new_key("old", scopes=["decide"], at=START, expires_at=START + timedelta(days=1))
    _, open_ = new_key("forever", scopes=["decide"], at=START)
    kept = KeyFile(console.folder / "keys.json")
    for key in (over, open_):
        kept.add(key)
    assert console.sign_in("admin") == 303
    html = console.get("/keys")
    assert "expired</span> 2026-01-06 00:00" in html
    assert "no end" in html
    assert console.sign_in("experimenter") == 303


def test_nobody_unknown_sees_anything(console: Console) -> None:
    """Without a session every page leads to the form, and the form says no more for a name that exists than for one that does not."""
    with TestClient(console.client.app) as stranger:
        for page in PAGES:
            if page.role is None or "{" in page.path:
                continue
            answer = stranger.request(page.methods[0], page.path, follow_redirects=False)
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/sign-in")
        wrong = [stranger.post("/sign-in", data={"name": n, "password": "x" * 12}) for n in ("admin", "nobody")]
        assert [w.status_code for w in wrong] == [401, 401]
        assert wrong[0].text.replace("admin", "") == wrong[1].text.replace("nobody", "")
        assert stranger.get("/setup?token=guess").status_code == 403


def test_each_role_may_do_its_part(console: Console) -> None:
    """A viewer looks, an experimenter changes experiments and no accounts, an admin makes accounts and keys."""
    assert console.sign_in("viewer") == 303
    assert "Pause all experiments" not in console.get("/")
    key = re.search(r'name="form_key" value="([^"]+)"', console.get("/"))
    assert key is not None
    assert console.post("/pause", form_key=key[1], pause="on").status_code == 403
    assert console.sign_in("experimenter") == 303
    assert console.client.get("/keys").status_code == 403
    assert console.post("/people/add", name="x", password=PASSWORD, role="admin").status_code == 403
    assert console.sign_in("admin") == 303
    made = console.post("/keys/add", name="shop", scope=["decide", "reward"])
    shown = re.search(r"nxo_[A-Za-z0-9_-]{20,}", made.text)
    assert shown is not None
    assert shown[0] not in (console.folder / "keys.json").read_text()
    assert shown[0] not in console.get("/keys")
    assert console.post("/keys/revoke", name="shop").status_code == 303
    assert console.post("/people/add", name="new", password=PASSWORD, role="viewer").status_code == 303
    assert console.post("/people/change", name="admin", role="viewer", is_active="yes").status_code == 400
    assert console.sign_in("experimenter") == 303


def test_a_form_from_elsewhere_is_refused(console: Console) -> None:
    """Without the session's key, or from another origin, a form changes nothing."""
    assert console.post("/pause", form_key="guess", pause="on").status_code == 403
    answer = console.client.post(
        "/pause", data={"form_key": console.form_key(), "pause": "on"}, headers={"Origin": "https://evil.example"}
    )
    assert answer.status_code == 403
    assert not console.service.controls().is_paused


def test_two_editors_at_once_lose_nothing(console: Console) -> None:
    """The slower of two who changed an offer sees who was faster and keeps what was typed; saving again then wins."""
    revision = console.service.placement("cancel_page")[1]
    fields: dict[str, Any] = {"is_new": "no", "id": "trial", "title": "Three weeks to try", "revision": str(revision)}
    assert console.post("/offers/cancel_page/save", **fields).status_code == 303
    assert console.post("/offers/cancel_page/save", **{**fields, "revision": "no number"}).status_code == 409
    slower = console.post("/offers/cancel_page/save", **{**fields, "title": "Four weeks to try"})
    assert slower.status_code == 409
    assert "experimenter changed this place at" in slower.text
    assert 'value="Four weeks to try"' in slower.text
    again = re.search(r'name="revision" value="(\d+)"', slower.text)
    assert again is not None
    saved = console.post("/offers/cancel_page/save", **{**fields, "title": "Four weeks to try", "revision": again[1]})
    assert saved.status_code == 303
    assert "Four weeks to try" in console.get("/offers")


def test_an_offer_with_stock_dates_cap_and_margin(console: Console) -> None:
    """What the editor is given is what the service decides by; mistakes are answered beside what was typed."""
    revision = str(console.service.placement("cancel_page")[1])
    fields: dict[str, Any] = {
        "is_new": "yes", "title": "Half price", "price": "4,95", "margin": "2.5", "stock": "100", "cap_most": "2", "cap_days": "7",
        "starts_at": "2026-02-01T00:00", "image": "https://example.org/a.png", "revision": revision,
    }  # fmt: skip
    bad = console.post("/offers/cancel_page/save", **{**fields, "stock": "many"})
    assert bad.status_code == 400
    assert "expected a number" in bad.text
    assert 'value="Half price"' in bad.text
    assert console.post("/offers/cancel_page/save", **fields).status_code == 303
    placement, _ = console.service.placement("cancel_page")
    entry = next(o for o in placement.offers if o.offer.id == "half-price")
    assert entry.stock == 100
    assert entry.starts_at == datetime(2026, 2, 1, tzinfo=UTC)
    assert dict(entry.offer.features) == {"price_eur": 4.95, "margin_eur": 2.5}
    assert [(c.most, c.days) for c in placement.limits.caps] == [(2, 7.0)]
    page = console.get("/offers/cancel_page/edit/half-price")
    assert 'value="4.95"' in page or 'value="4,95"' in page
    shown = console.post("/offer-preview", title="<b>Half</b>", image="javascript:alert(1)")
    assert "&lt;b&gt;Half" in shown.text
    assert "javascript" not in shown.text
    revision = str(console.service.placement("cancel_page")[1])
    money = console.post("/offers/cancel_page/limits", floor="1", budget="500", budget_from="2026-01-05T00:00", budget_until="2026-12-31T00:00", explore="10", revision=revision)  # fmt: skip
    assert money.status_code == 303
    changed, _ = console.service.placement("cancel_page")
    assert changed.explore_share == 0.1
    assert changed.limits.margin_floors[0].least == 1
    assert changed.limits.budgets[0].total == 500


def test_an_experiment_is_made_changed_and_stopped(console: Console) -> None:
    """A draft from the form has its plan; new shares say their cost; a stale page is told who was faster."""
    fields: dict[str, Any] = {
        "id": "third try", "placement": "cancel_page", "variant": ["now", "new", "bold"], "policy": ["placement", "baseline", "baseline"],
        "weight": ["33.34", "33.33", "33.33"], "primary": "conversion", "effect": "2", "rate": "10", "per_day": "100",
    }  # fmt: skip
    estimate = console.post("/experiments-estimate", **fields)
    assert "An answer in about" in estimate.text
    uneven = console.post("/experiments-estimate", **{**fields, "weight": ["80", "10", "10"]})

    def days(text: str) -> int:
        found = re.search(r"in about ([\d\u00a0]+) days", text)
        assert found is not None
        return int(found[1].replace("\u00a0", ""))

    assert days(uneven.text) > days(estimate.text)
    thin = console.post("/experiments-estimate", **{**fields, "per_day": "1"}).text
    assert "Too little traffic here to tell within a year" in thin
    assert "A larger change that matters" in thin
    assert (
        "they have to make 100"
        in console.post("/experiments-estimate", **{**fields, "weight": ["50", "10", "10"]}).text
    )
    assert console.post("/experiments", **fields).status_code == 303
    made = console.service.experiments.get("third-try")
    assert [v.weight_bp for v in made.variants] == [3334, 3333, 3333]
    assert made.plan is not None
    assert made.plan.effect == 0.02
    path = "/experiments/third-try"
    assert "stay-a-while runs at this place" in console.get(path)
    blocked = console.post(f"{path}/do/start", revision="1")
    assert blocked.status_code == 400
    assert "stop it before starting" in blocked.text
    running = console.service.experiments.get("spring-welcome")
    cost = console.post(
        "/experiments/spring-welcome/cost", variant=["incumbent", "personal"], policy=["", ""], weight=["90", "10"]
    )
    assert "A new phase begins" in cost.text
    stale = console.post("/experiments/spring-welcome/do/weights", revision=str(running.revision - 1), variant=["incumbent", "personal"], policy=["", ""], weight=["90", "10"])  # fmt: skip
    assert stale.status_code == 409
    assert "was faster" in stale.text
    assert console.post(f"{path}/do/note", text="The campaign began").status_code == 303
    assert "The campaign began" in console.get(path)
    assert console.post(f"{path}/do/archive", revision="1").status_code == 303


def test_a_visitor_shows_what_it_got_and_would_get(console: Console) -> None:
    """The log tells what somebody got and why; the trial explains itself and records nothing."""
    head = console.service.database.head()
    html = console.get("/visitors?id=home_page-3&try=1")
    assert "spring-welcome" in html
    assert "What this visitor would get now" in html
    assert "may be shown" in html
    assert re.search(r"With what was known at the last visit:\s*device (phone|desktop|tablet)", html)
    assert console.service.database.head() == head
    assert "Nothing is known of this visitor." in console.get("/visitors?id=nobody")


def test_the_log_of_changes_is_a_file_too(console: Console) -> None:
    """Every change is in it, and no cell begins like a formula."""
    console.service.experiments.note("idea", "=cmd()", change=Change(datetime(2026, 4, 1, tzinfo=UTC), "@x"))
    assert "create" in console.get("/audit")
    rows = list(csv.reader(io.StringIO(console.get("/audit.csv"))))
    assert len(rows) > 8
    assert all(cell[:1] not in "=@+" for row in rows[1:] for cell in row if cell)


def test_a_sandbox_says_so_and_production_does_not(console: Console) -> None:
    """Figures of a sandbox carry the badge; the same store read as production does not."""
    for path in ("/", "/experiments", "/experiments/spring-welcome"):
        assert "in simulation" in console.get(path)
    cookie = console.client.cookies["nextoffer_session"]
    real = create_console(console.service, KeyFile(console.folder / "keys.json"), is_sandbox=False, ticks=False)
    with TestClient(real, cookies={"nextoffer_session": cookie}) as client:
        assert "in simulation" not in client.get("/experiments/spring-welcome").text


def test_pages_fetch_nothing_from_elsewhere_and_run_nothing_inline(console: Console) -> None:
    """The policy allows scripts and styles of this site only, and no page has an inline one or a foreign address."""
    for path in (
        "/",
        "/experiments",
        "/experiments/spring-welcome",
        "/experiments-new",
        "/offers",
        "/audit",
        "/nowhere",
    ):
        answer = console.client.get(path)
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<script(?! src=\"/static/)|<style|\sstyle=|\son\w+=", answer.text)
        addresses = re.findall(r'(?:href|src|action)="([^"]+)"', answer.text)
        assert all(a.startswith(("/", "#", "data:,")) or a == "https://example.org/a.png" for a in addresses)
    assert console.client.get("/static/secret").status_code == 404
    assert "did you mean &#39;spring-welcome&#39;" in console.get("/experiments/sprng-welcome", status=404)
    assert all(title in console.get("/offers") for title in list(TITLES.values())[:2])


def test_the_first_account_is_made_once(tmp_path: Path) -> None:
    """Whoever has the printed word makes the first admin; afterwards the word is worth nothing."""
    with opened(tmp_path) as service:
        app = create_console(
            service, KeyFile(tmp_path / "keys.json"), is_sandbox=False, setup_token="word", ticks=False
        )
        with TestClient(app) as client:
            assert "Make the account" in client.get("/setup?token=word").text
            short = client.post("/setup", data={"token": "word", "name": "ann", "password": "short"})
            assert short.status_code == 400
            made = client.post(
                "/setup", data={"token": "word", "name": "ann", "password": PASSWORD}, follow_redirects=False
            )
            assert made.headers["location"] == "/"
            assert "httponly" in made.headers["set-cookie"].lower()
            assert client.get("/people").status_code == 200
            assert client.get("/setup?token=word").status_code == 403
            assert "No experiment is running" in client.get("/").text


def test_accounts_lock_and_sessions_end(tmp_path: Path) -> None:
    """Eight wrong passwords lock a name for ten minutes; a changed account, a closed one and half a day end sessions."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    with opened(tmp_path) as service:
        accounts = Accounts(service.database)
        accounts.create("ann", role="admin", password=PASSWORD, change=Change(at))
        for _ in range(8):
            assert accounts.sign_in("ann", "wrong password", at=at) is None
        assert accounts.sign_in("ann", PASSWORD, at=at) is None
        cookie = accounts.sign_in("ann", PASSWORD, at=at.replace(minute=11))
        assert cookie is not None
        assert accounts.session(cookie, at=at.replace(hour=11)) is not None
        assert accounts.session(cookie, at=at.replace(hour=13)) is None
        with pytest.raises(InvalidInputError, match="the last one who administers"):
            accounts.change("ann", change=Change(at), role="viewer")
        accounts.create("bob", role="viewer", password=PASSWORD, change=Change(at))
        other = accounts.sign_in("bob", PASSWORD, at=at)
        assert other is not None
        accounts.change("bob", change=Change(at), is_active=False)
        assert accounts.session(other, at=at) is None
        assert accounts.sign_in("bob", PASSWORD, at=at) is None
        with pytest.raises(UnknownNameError):
            accounts.change("eve", change=Change(at))


def test_the_sample_is_looked_at_in_place_of_ones_own_and_thrown_away_whole(console: Console) -> None:
    """Pages of the sample say so and change it alone; accounts stay one's own; removed, nothing of it is left."""
    sample = console.folder / "sample"
    sample.mkdir()
    with sqlite3.connect(console.folder / "nextoffer.db") as own, sqlite3.connect(sample / "nextoffer.db") as copy:
        own.backup(copy)
    assert "Look at the sample" in console.get("/sample")
    assert console.post("/sample/look", at="sample").status_code == 303
    assert "This is the sample." in console.get("/")
    assert console.post("/experiments/idea/do/archive", revision="1").status_code == 303
    assert console.service.experiments.get("idea").state == "draft"
    page = console.post("/experiments/spring-welcome/link", days="7").text
    token = re.search(r"/shared/([\w.-]+)", page)
    assert token is not None
    with TestClient(console.client.app) as stranger:  # who has a link has chosen neither the sample nor the other
        assert stranger.get(f"/shared/{token[1]}").status_code == 200
    mine = LinkKey(console.folder).sign(Link("spring-welcome", datetime.now(UTC) + timedelta(days=1)))
    assert "This is the sample." not in console.get(f"/shared/{mine}")
    assert console.post("/sample/remove").status_code == 303
    assert "This is the sample." not in console.get("/")
    assert not sample.exists()
    assert "Fill the sample" in console.get("/sample")


def test_kept_reports_are_shown_inside_the_frame(console: Console) -> None:
    """A report that a command kept is listed and shown without its own head, styles or scripts; other files are no reports."""
    kept = keep_report(console.folder, some_report(), kind="evaluate", about="a log", at=START)
    (kept.parent / "notes.html").write_text("<script>alert(1)</script>")
    assert "Off-policy evaluation on log" in console.get("/reports")
    assert "notes" not in console.get("/reports")
    html = console.get(f"/reports/{kept.stem}")
    assert "Estimates" in html
    assert "<svg" in html
    assert "<style" not in html
    assert html.count("<h1") == 1
    assert console.get("/reports/notes", status=404)


def test_a_draft_is_changed_with_its_rules_and_metrics(console: Console) -> None:
    """Targeting, layer and metrics come back into the form as they were typed; the slower of two editors keeps what was typed."""
    fields: dict[str, Any] = {
        "id": "phones", "placement": "cancel_page", "variant": ["now", "new"], "policy": ["placement", "baseline"], "weight": ["50", "50"],
        "primary": "conversion", "effect": "2", "rate": "10", "per_day": "100",
    }  # fmt: skip
    assert console.post("/experiments", **fields).status_code == 303
    changed = {
        **fields, "revision": "1", "effect": "3", "layer": "offers", "slot_from": "0", "slot_until": "50", "kind_subscribed": "bought",
        "conversion_days": "14", "covariate": "past_spend", "t_feature": ["device", "tenure_days", ""], "t_operator": ["in", ">=", "=="], "t_value": ['phone, "7"', "3", ""],
    }  # fmt: skip
    assert console.post("/experiments/phones/edit", **changed).status_code == 303
    made = console.service.experiments.get("phones")
    assert made.plan is not None
    assert made.plan.covariate == "past_spend"
    assert (made.plan.effect, made.layer, made.slots, made.revision) == (0.03, "offers", (0, 5000), 2)
    assert made.targeting == (Condition("device", "in", ("phone", "7")), Condition("tenure_days", ">=", 3.0))
    assert (made.counting.subscribed, made.counting.conversion_window_s) == ("bought", 14 * 86_400)
    form = console.get("/experiments/phones/edit")
    for text in ("phone, &#34;7&#34;", 'value="offers"', 'value="50"', "<option selected>bought"):
        assert text in form
    assert "device is one of phone" in console.get("/experiments/phones")
    assert "0–50 %" in console.get("/layers")
    stale = console.post("/experiments/phones/edit", **{**changed, "hypothesis": "Mine."})
    assert stale.status_code == 409
    assert "Mine." in stale.text
    wrong = console.post("/experiments/phones/edit", **{**changed, "revision": "2", "t_value": ["phone", "many", ""]})
    assert wrong.status_code == 400
    assert "needs a number" in wrong.text
    assert console.service.experiments.get("phones").revision == 2
    assert console.get("/experiments/spring-welcome/edit", status=400)
    assert console.post("/experiments/phones/do/archive", revision="2").status_code == 303


def test_a_zero_is_a_zero_and_what_the_form_cannot_show_stays(console: Console) -> None:
    """Nobody taking part is not everybody; a draft's own way to grow outlives a change in the form; shares are numbers."""
    two = (Variant("now", 5_000, "placement"), Variant("new", 5_000, "baseline"))
    small = Ramp((0.01, 0.05), hold_s=3_600.0)
    console.service.experiments.create(
        Experiment("slow", "cancel_page", two, coverage=0.0, ramp=small), change=Change(START)
    )
    assert 'name="coverage" value="0"' in re.sub(r"\s+", " ", console.get("/experiments/slow/edit"))
    fields: dict[str, Any] = {
        "placement": "cancel_page", "variant": ["now", "new"], "policy": ["placement", "baseline"], "weight": ["50", "50"],
        "primary": "conversion", "effect": "2", "rate": "10", "per_day": "100", "coverage": "0", "ramp": "yes", "revision": "1",
    }  # fmt: skip
    for wrong in ("nan", "inf", "-50"):
        assert console.post("/experiments/slow/edit", **{**fields, "weight": [wrong, "50"]}).status_code == 400
    assert console.post("/experiments/slow/edit", **{**fields, "looks": "0"}).status_code == 400
    assert console.post("/experiments/slow/edit", **fields).status_code == 303
    made = console.service.experiments.get("slow")
    assert (made.coverage, made.ramp) == (0.0, small)
    assert console.post("/experiments/slow/do/archive", revision="2").status_code == 303


def test_metrics_name_the_events_and_a_reward_is_put_together(console: Console) -> None:
    """Events that were reported are listed with who uses them; a reward of several is what learners get."""
    html = console.get("/metrics")
    for text in ("subscribed", "active_30d", "margin_eur", "spring-welcome"):
        assert text in html
    revision = str(console.service.placement("home_page")[1])
    fields: dict[str, Any] = {"kind": ["subscribed", "clicked", ""], "weight": ["1", "0,1", ""], "days": "14", "default": "0", "aggregation": "max", "revision": revision}  # fmt: skip
    assert console.post("/metrics/home_page", **fields).status_code == 303
    reward = console.service.placement("home_page")[0].reward
    assert [(x.kind, x.weight) for x in reward.terms] == [("subscribed", 1.0), ("clicked", 0.1)]
    assert (reward.window_s, reward.aggregation) == (14 * 86_400, "max")
    assert console.post("/metrics/home_page", **fields).status_code == 409  # somebody who looked at the page before
    assert console.post("/metrics/home_page", **{**fields, "weight": ["much", "", ""]}).status_code == 400


def test_the_false_winner_is_told(console: Console) -> None:
    """The page shows a p below 0.05 beside the verdict that the console gave, and how often either is fooled."""
    html = console.get("/why-too-early")
    assert "Keep running" in html
    assert "Stop and keep A" in html
    assert re.search(r"B differs, p = 0\.0[0-4]\d", html)
    lesson = false_winner()
    assert f"{lesson.n_fooled} of {lesson.n_tests}" in html
    assert lesson.n_fooled > 2 * lesson.n_shipped


def test_a_rehearsal_finds_what_is_there_and_ships_nothing_that_is_not(console: Console) -> None:
    """With the planned change most made-up courses ship, without any hardly one does; a plan that takes years is refused."""
    fields: dict[str, Any] = {
        "id": "x", "placement": "cancel_page", "variant": ["now", "new"], "policy": ["placement", "baseline"], "weight": ["50", "50"],
        "primary": "conversion", "effect": "4", "rate": "10", "per_day": "200",
    }  # fmt: skip
    html = console.post("/experiments-rehearse", **fields).text
    found, false = (int(k) for k in re.findall(r"(\d+) of 20", html))
    assert found >= 11  # 80 % of 20, less four standard errors of 1.8
    assert false <= 3
    money = console.post(
        "/experiments-rehearse", **{**fields, "primary": "revenue", "effect": "1.2", "per_day": "200"}
    ).text
    assert int(re.findall(r"(\d+) of 20", money)[0]) >= 11
    assert "expected at most 365" in console.post("/experiments-rehearse", **{**fields, "per_day": "1"}).text


def test_a_link_reads_one_experiment_until_it_ends(console: Console) -> None:
    """Without an account the link shows that experiment and no form; changed, ended or with the key replaced it shows nothing."""
    page = console.post("/experiments/spring-welcome/link", days="7").text
    found = re.search(r"/shared/([\w.-]+)", page)
    assert found is not None
    token = found[1]
    with TestClient(console.client.app) as stranger:
        answer = stranger.get(f"/shared/{token}")
        assert answer.status_code == 200
        assert "Ship personal" in answer.text
        assert "/do/" not in answer.text
        assert "experimenter" not in answer.text
        assert answer.headers["x-robots-tag"] == "noindex"
        first, _, second = token.partition(".")
        other = base64.urlsafe_b64encode(b'["idea",4102444800]').decode().rstrip("=")
        for wrong in (f"{other}.{second}", f"{first}.{second[:-2]}AA", first, f"{first}.", "é.ü"):
            assert stranger.get(f"/shared/{wrong}").status_code == 403
        ended = LinkKey(console.folder).sign(Link("spring-welcome", datetime.now(UTC) - timedelta(seconds=1)))
        assert stranger.get(f"/shared/{ended}").status_code == 403
        assert console.sign_in("admin") == 303
        assert console.post("/people/links").status_code == 303
        assert stranger.get(f"/shared/{token}").status_code == 403
    assert console.sign_in("experimenter") == 303
    assert console.post("/experiments/spring-welcome/link", days="9999").status_code == 400


def test_this_weeks_money_is_the_sum_over_experiments(console: Console) -> None:
    """The total's estimate is the sum of the experiments', its limits are wider than the sum of theirs alone, and who cannot tell yet is named."""
    now = console.service.experiments
    readings = [
        take_reading(console.service.database, now.get(n), as_of=START + timedelta(days=80), in_simulation=True, n_points=0)
        for n in ("spring-welcome", "stay-a-while", "idea")
    ]  # fmt: skip
    since = START + timedelta(days=73)
    alone = [g.interval for r in readings if (g := money_gain([r], since=since)) is not None]
    total = money_gain(readings, since=since)
    assert total is not None
    assert total.experiments == ("spring-welcome", "stay-a-while")
    assert total.waiting == ("idea",)
    assert total.interval.estimate == pytest.approx(sum(i.estimate for i in alone))
    assert total.interval.low < sum(i.low for i in alone)
    assert total.interval.high > sum(i.high for i in alone)
    assert "of margin" in console.get("/")

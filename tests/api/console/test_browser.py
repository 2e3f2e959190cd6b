"""The console in a real browser: by keyboard alone, two people at once, and without accessibility faults."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from api.auth import KeyFile
from api.console.app import create_console
from engine.accounts.accounts import Accounts
from engine.decisions.service import DecisionService
from engine.store.changes import Change
from tests.api.console.conftest import PASSWORD, START, fill, opened, some_report

pytestmark = pytest.mark.slow
PAGES = (
    "/", "/offers", "/offers/home_page/new", "/offers/home_page/edit/annual", "/offers/home_page/limits", "/experiments",
    "/experiments-new?template=price", "/experiments/spring-welcome", "/experiments/idea", "/visitors?id=home_page-3&try=1",
    "/audit", "/people", "/keys", "/nowhere", "/sample", "/reports", "/reports/evaluate-log", "/layers",
    "/metrics", "/experiments/idea/edit", "/why-too-early",
)  # fmt: skip


class Site:
    """A running console and the service behind it."""

    def __init__(self, url: str, service: DecisionService) -> None:
        self.url = url
        self.service = service


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A console on a free port over a filled store."""
    folder = tmp_path_factory.mktemp("browser")
    fill(folder, n=1200)
    some_report().write(folder / "reports" / "evaluate-log.html")
    with opened(folder) as service:
        for name, role in (("ann", "admin"), ("bob", "experimenter")):
            Accounts(service.database).create(name, role=role, password=PASSWORD, change=Change(START))  # type: ignore[arg-type]
        app = create_console(service, KeyFile(folder / "keys.json"), is_sandbox=True, ticks=False, home=folder)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
            thread = threading.Thread(target=lambda: server.run(sockets=[sock]), daemon=True)
            thread.start()
            while not server.started:
                time.sleep(0.05)
            yield Site(f"http://127.0.0.1:{sock.getsockname()[1]}", service)
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="missing tool: playwright; pip install 'nextoffer[test]'"
    )
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("missing tool: chromium")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@contextmanager
def signed_in(browser: Any, site: Site, name: str, **options: Any) -> Iterator[Any]:
    """A page of somebody's own browser."""
    context = browser.new_context(base_url=site.url, locale="en", **options)
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    # A form that was sent while an estimate was on its way gives that up, which htmx logs.
    known = ("status of 4", "htmx:sendAbort", "htmx:afterRequest")
    page.on(
        "console",
        lambda m: None if m.type != "error" or any(k in m.text for k in known) else page.faults.append(m.text),
    )
    page.goto("/sign-in")
    # The field takes the focus only when the page is drawn: letters typed before that go nowhere.
    page.wait_for_selector("input[name=name]:focus")
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    yield page
    assert not page.faults
    context.close()


class Keys:
    """Uses a page by keyboard alone, and counts what a person does: a field filled, a choice, a button."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.n = 0

    def reach(self, selector: str) -> None:
        """Press Tab until something has the focus."""
        for _ in range(160):
            if self.page.evaluate("s => document.activeElement && document.activeElement.matches(s)", selector):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"{selector} cannot be reached with the Tab key on {self.page.url}")

    def press(self, selector: str, *, key: str = "Enter") -> None:
        """Go to a link or a button and press it."""
        self.reach(selector)
        self.page.keyboard.press(key)
        self.n += 1

    def fill(self, selector: str, text: str) -> None:
        """Go to a field and type."""
        self.reach(selector)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)
        self.n += 1

    def open(self, path: str) -> None:
        """Follow a link of the menu."""
        with self.page.expect_navigation():
            self.press(f"nav a[href='{path}']")


def test_keyboard_alone_from_an_offer_to_a_stopped_experiment(browser: Any, site: Site) -> None:
    """Make an offer, create a split, start it (in at most twelve interactions), change its shares, stop it: no mouse."""
    service = site.service
    running = service.experiments.get("stay-a-while")
    service.experiments.stop("stay-a-while", revision=running.revision, change=Change(START))
    with signed_in(browser, site, "bob") as page:
        keys = Keys(page)
        keys.open("/offers")
        with page.expect_navigation():
            keys.press("a[href='/offers/cancel_page/new']")
        keys.fill("[name=title]", "Come back for half")
        keys.fill("[name=price]", "4.95")
        keys.fill("[name=stock]", "500")
        page.locator("#preview", has_text="Come back for half").wait_for()
        with page.expect_navigation():
            keys.press("form#offer button.main")
        assert "come-back-for-half" in service.placement("cancel_page")[0].offer_set.ids

        keys.n = 0
        keys.open("/experiments")
        with page.expect_navigation():
            keys.press("a[href='/experiments-new?template=winback']")
        page.wait_for_selector("#estimate .big")
        before = page.inner_text("#estimate .big")
        keys.reach("[name=placement]")
        page.keyboard.type("cancel")
        keys.n += 1
        keys.fill("[name=rate]", "20")
        keys.fill("[name=per_day]", "250")
        page.locator(f"#estimate .big:not(:text-is('{before}'))").wait_for()
        keys.reach("[data-slider]")
        page.keyboard.press("Shift+Tab")
        keys.reach("[data-number]")
        with page.expect_navigation():
            page.keyboard.press("Tab")
            keys.press("button[name=then][value=start]")
        assert keys.n <= 12, keys.n
        found = service.experiments.get("win-back")
        assert (found.state, found.placement) == ("running", "cancel_page")
        assert found.plan is not None

        keys.reach("section[aria-labelledby=change] details:nth-of-type(1) > summary")
        page.keyboard.press("Enter")
        keys.reach("#weights [data-slider]")
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        page.locator("#cost", has_text="This costs you about").wait_for()
        values = page.eval_on_selector_all("#weights [data-number]", "all => all.map(x => x.value)")
        assert values == ["70", "30"]
        keys.fill("#weights [name=reason]", "less risk")
        with page.expect_navigation():
            keys.press("#weights button.main")
        changed = service.experiments.get("win-back")
        assert [v.weight_bp for v in changed.variants] == [7000, 3000]
        assert len(changed.phases) == 2

        keys.reach("section[aria-labelledby=change] details:nth-of-type(2) > summary")
        page.keyboard.press("Enter")
        with page.expect_navigation():
            keys.press("form[action$='/do/stop'] button.danger")
        assert service.experiments.get("win-back").state == "stopped"


def test_two_people_at_one_experiment(browser: Any, site: Site) -> None:
    """The slower one is told who was faster and what stands there now, and nothing is overwritten."""
    with signed_in(browser, site, "ann") as one, signed_in(browser, site, "bob") as two:
        for page in (one, two):
            page.goto("/experiments/spring-welcome")
            page.click("section[aria-labelledby=change] details:nth-of-type(1) > summary")
        one.fill("#weights [data-number] >> nth=0", "60")
        with one.expect_navigation():
            one.click("#weights button.main")
        two.fill("#weights [data-number] >> nth=0", "20")
        with two.expect_navigation():
            two.click("#weights button.main")
        assert "ann was faster" in two.inner_text("[role=alert]")
        assert [v.weight_bp for v in site.service.experiments.get("spring-welcome").variants] == [6000, 4000]


def test_equal_button_and_a_third_variant(browser: Any, site: Site) -> None:
    """Three variants at equal shares are 3334, 3333 and 3333 basis points; shares always sum to 100."""
    with signed_in(browser, site, "bob") as page:
        page.goto("/experiments-new?template=personal")
        page.click("[data-more]")
        shares = page.eval_on_selector_all(".share:not([hidden]) [data-number]", "all => all.map(x => x.value)")
        assert shares == ["33.34", "33.33", "33.33"]
        page.fill(".share:not([hidden]) [data-slider] >> nth=0", "50")
        shares = page.eval_on_selector_all(".share:not([hidden]) [data-number]", "all => all.map(x => Number(x.value))")
        assert shares[0] == 50
        assert sum(shares) == 100
        page.click("[data-equal]")
        page.fill("[name=id]", "thirds")
        with page.expect_navigation():
            page.click("button[name=then][value=draft]")
        assert [v.weight_bp for v in site.service.experiments.get("thirds").variants] == [3334, 3333, 3333]


@pytest.mark.parametrize(
    ("scheme", "width", "language"),
    [("light", 1100, "en"), ("dark", 390, "ru")],
    ids=["light desktop", "dark phone Russian"],
)
def test_every_page_is_free_of_accessibility_faults(
    browser: Any, site: Site, scheme: str, width: int, language: str
) -> None:
    """No fault by axe on any page, nothing wider than the screen; in both colour schemes, languages and widths."""
    axe_module = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="missing tool: axe-playwright-python; pip install 'nextoffer[test]'",
    )
    axe = axe_module.Axe()
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}, "bypass_csp": True}
    with signed_in(browser, site, "ann", **options) as page:
        if language == "ru":
            page.goto("/")
            with page.expect_navigation():
                page.click("button[lang=ru]")
        for path in PAGES:
            page.goto(path)
            page.evaluate("document.querySelectorAll('main details').forEach(d => { d.open = true; })")
            page.wait_for_timeout(150)
            found = axe.run(page)
            assert found.violations_count == 0, f"{path}: {found.generate_report()[:3000]}"
            assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, (
                path
            )
    context = browser.new_context(base_url=site.url, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto("/sign-in")
    assert axe.run(page).violations_count == 0
    context.close()

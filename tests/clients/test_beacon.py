"""The browser's beacon in a real Chromium, on a page of another origin, against a real server."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.auth import KeyFile, new_key
from tests.api.process import ServerProcess, start_server

pytestmark = pytest.mark.slow
BEACON = Path(__file__).parents[2] / "clients" / "javascript" / "nextoffer-beacon.js"
PERSON = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36"
PAGE = """<!doctype html><title>Shop</title>
<div data-nextoffer-decision="{decision}" style="margin-top: {top}px; height: 200px">
  <a id="take" data-nextoffer-click href="thanks.html">Take it</a></div>
<script src="nextoffer-beacon.js" data-url="{url}" data-key="{key}" data-consent="{consent}"></script>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Folder and origin of the site's own pages."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(BEACON, folder)
    (folder / "thanks.html").write_text("<!doctype html><title>Thanks</title>")
    made = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield folder, f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, shop: tuple[Path, str]) -> Iterator[tuple[ServerProcess, str]]:
    """A server that lets the site's origin in, and a public key for its pages."""
    home = tmp_path_factory.mktemp("beacon") / "home"
    text, key = new_key("page", scopes=["reward"], at=datetime.now(UTC), is_public=True)
    KeyFile(home / "keys.json").add(key)
    started = start_server(home, NEXTOFFER_CORS_ORIGINS=f'["{shop[1]}"]')
    yield started, text
    assert started.stop() == 0


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("missing tool: chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, shop: tuple[Path, str], service: tuple[ServerProcess, str]) -> Iterator[Callable[..., Any]]:
    """Open a page that shows a decision; the page notes what it asks of the service."""
    contexts: list[Any] = []
    folder, origin = shop
    server, key = service

    def open_page(
        decision: str, *, consent: str = "yes", top: int = 0, user_agent: str | None = PERSON, host: str | None = None
    ) -> Any:
        body = {"id": decision, "subject": f"visitor-{decision}", "activated": False}
        made = httpx.post(f"{server.url}/v1/placements/{server.placement}/decisions", json=body, headers=server.headers)
        assert made.json()["activated"] is False
        text = PAGE.format(decision=decision, url=server.url, key=key, consent=consent, top=top)
        (folder / f"{decision}.html").write_text(text)
        context = chromium.new_context(**({} if user_agent is None else {"user_agent": user_agent}))
        contexts.append(context)
        page = context.new_page()
        page.sent = []
        page.on("request", lambda r: page.sent.append(r.url) if r.url.startswith(server.url) else None)
        page.goto(f"{host or origin}/{decision}.html")
        return page

    yield open_page
    for context in contexts:
        context.close()


def _seen(server: ServerProcess, decision: str) -> bool:
    url = f"{server.url}/v1/decisions/{decision}"
    return bool(httpx.get(url, headers=server.headers).json()["activated"])


def _clicked(server: ServerProcess, decision: str) -> bool:
    body = {"decision": decision, "kind": "clicked"}
    return bool(httpx.post(f"{server.url}/v1/rewards", json=body, headers=server.headers).json()["status"] == "repeat")


def _until(page: Any, ask: Callable[[], bool]) -> bool:
    """Wait in the browser's own loop: its events reach us only there."""
    deadline = time.monotonic() + 15
    while not ask() and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    return ask()


def test_a_view_and_a_click_arrive_across_origins_though_the_page_is_left(
    visit: Any, service: tuple[ServerProcess, str]
) -> None:
    """A second in view activates the decision; a click that leaves the page is a reward all the same."""
    server, _ = service
    page = visit("seen-1")
    assert _until(page, lambda: _seen(server, "seen-1"))
    page.click("#take")
    page.wait_for_url("**/thanks.html")
    assert _until(page, lambda: any("/v1/rewards" in url for url in page.sent))
    page.close()
    time.sleep(0.3)
    assert _clicked(server, "seen-1")


def test_nothing_is_sent_before_consent(visit: Any, service: tuple[ServerProcess, str]) -> None:
    """Seen and clicked without consent, nothing leaves the page; with consent what was held is sent; withdrawn, it is dropped."""
    server, _ = service
    page = visit("consent-1", consent="no")
    page.evaluate("document.querySelector('#take').removeAttribute('href')")
    page.wait_for_timeout(1500)
    page.click("#take")
    page.wait_for_timeout(300)
    assert page.sent == []
    assert not _seen(server, "consent-1")
    assert page.evaluate("document.cookie.length + localStorage.length + sessionStorage.length") == 0
    page.evaluate("nextofferBeacon.consent(true)")
    assert _until(page, lambda: _seen(server, "consent-1"))
    assert _until(page, lambda: len(page.sent) == 2)
    other = visit("consent-2", consent="no")
    other.wait_for_timeout(1300)
    other.evaluate("nextofferBeacon.consent(false); nextofferBeacon.consent(true)")
    other.wait_for_timeout(300)
    assert other.sent == []


def test_an_offer_below_the_fold_is_no_view_until_it_is_scrolled_to(
    visit: Any, service: tuple[ServerProcess, str]
) -> None:
    """What nobody has seen is no exposure."""
    server, _ = service
    page = visit("fold-1", top=4000)
    page.wait_for_timeout(1500)
    assert page.sent == []
    page.evaluate("document.querySelector('#take').scrollIntoView()")
    assert _until(page, lambda: _seen(server, "fold-1"))


def test_a_headless_browser_is_a_machine(visit: Any, service: tuple[ServerProcess, str]) -> None:
    """The script runs in a crawler too; its view is answered and not recorded."""
    server, _ = service
    page = visit("crawler-1", user_agent=None)
    assert "Headless" in page.evaluate("navigator.userAgent")
    assert _until(page, lambda: len(page.sent) == 1)
    page.wait_for_timeout(300)
    assert not _seen(server, "crawler-1")


def test_a_page_of_another_site_cannot_use_the_key(
    visit: Any, shop: tuple[Path, str], service: tuple[ServerProcess, str]
) -> None:
    """The same page under an origin that is not allowed sends its beacon, and the server refuses it."""
    server, key = service
    page = visit("foreign-1", host=shop[1].replace("127.0.0.1", "localhost"))
    assert _until(page, lambda: len(page.sent) == 1)
    page.wait_for_timeout(300)
    assert not _seen(server, "foreign-1")
    refused = httpx.post(
        f"{server.url}/v1/decisions/foreign-1/activation?key={key}",
        headers={"Origin": "http://localhost:1", "User-Agent": PERSON},
    )
    assert refused.status_code == 403
    assert "cors_origins" in refused.json()["error"]["message"]

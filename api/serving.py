"""Run the application under uvicorn: sandbox set-up, a bound socket, an announcement when it is ready."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from api import logs
from api.alerts.watching import watching
from api.app import create_app, keys_path
from api.auth import SCOPES, ApiKey, KeyFile, digest_of
from api.learning import learn_until
from api.protocol import ExchangeProtocol
from api.settings import Settings, load_settings
from api.workers import Supervisor
from engine.decisions.opening import open_service
from engine.decisions.service import DecisionService, utc_now
from engine.offers.placement import CatalogueOffer, Placement
from engine.rewards.definition import RewardDefinition
from engine.store.collecting import leave_out_what_is_loaded
from policies.errors import InvalidInputError, NextofferError
from policies.features import FeatureSpace
from policies.protocols import SaveablePolicy
from policies.records import Context, DecisionTable, Offer, OfferId, OfferSet, SubjectId

SANDBOX_PLACEMENT = "offer_page"
SANDBOX_KEY_NAME = "sandbox"
SANDBOX_POLICY = "sandbox-lints"
# Long enough to paste the second call after the first, short enough to see the third tell of learning.
SANDBOX_WINDOW_S = 20.0
GRACE_S = 10
Announce = Callable[[str, str | None, str | None], None]


class _Server(uvicorn.Server):
    """Says so when it accepts connections."""

    def __init__(self, config: uvicorn.Config, *, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then announce."""
        await super().startup(sockets)
        if self.started and not self.should_exit:
            leave_out_what_is_loaded()
            self._ready()


def run_server(
    *,
    port: int | None,
    host: str | None,
    home: Path | None,
    is_sandbox: bool | None,
    config: Path | None,
    announce: Announce,
    workers: int | None = None,
) -> int:
    """Serve until a signal; requests in progress are answered first."""
    settings = settings_of_command(
        port=port, host=host, home=home, is_sandbox=is_sandbox, config=config, workers=workers
    )
    _set_up_logging(settings)
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"cannot make the home folder {settings.home} ({error.strerror}); name one that can be written: --home FOLDER"
        ) from error
    key = placement = None
    if settings.is_sandbox:
        key, placement = prepare_sandbox(settings)
    listener = _listen(settings.host, settings.port)
    shown = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    url = f"http://{shown}:{listener.getsockname()[1]}"

    def ready() -> None:
        announce(url, key, placement)

    with _learning(settings, placement), watching(settings):
        if settings.workers == 1:
            return serve_on(settings, listener, ready=ready)
        if settings.writer == "thread":
            raise InvalidInputError("several workers write through one process: leave out writer = 'thread'")
        if placement is None:
            open_service(settings.home, url=settings.database_url).close()  # one process brings the schema up to date
        return Supervisor(settings, listener, announce=ready).run(grace_s=GRACE_S)


def serve_on(settings: Settings, listener: socket.socket, *, ready: Callable[[], None], worker: int = 0) -> int:
    """Answer on a socket, in this process, until a signal."""
    _set_up_logging(settings)
    server = _Server(
        uvicorn.Config(
            create_app(settings, worker=worker),
            loop="auto"
            if sys.platform == "win32"
            else "uvloop",  # named, so that its absence is an error and not half the speed
            http=ExchangeProtocol,
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # read where they matter (``api/operation.py``), not for every request
            log_level="warning",
            timeout_graceful_shutdown=GRACE_S,
        ),
        ready=ready,
    )
    # uvicorn raises the signal again after it has stopped cleanly: that is a success, and the exit code should say so.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return 0
    return 0 if server.started else 1


def _set_up_logging(settings: Settings) -> None:
    logs.set_up(settings.log_level, settings.log_format)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def settings_of_command(
    *,
    port: int | None,
    host: str | None,
    home: Path | None,
    is_sandbox: bool | None,
    config: Path | None,
    workers: int | None = None,
) -> Settings:
    """Settings of a command line; a bare ``serve``, with nothing configured, is a sandbox."""
    said: dict[str, Any] = {"port": port, "host": host, "home": home, "workers": workers}
    overrides = {name: value for name, value in said.items() if value is not None}
    is_configured = config is not None or any(
        os.environ.get(name)
        for name in ("NEXTOFFER_CONFIG", "NEXTOFFER_MODE", "NEXTOFFER_DATABASE_URL", "NEXTOFFER_DATABASE_URL_FILE")
    )
    if is_sandbox is not None or not is_configured:
        overrides["mode"] = "production" if is_sandbox is False else "sandbox"
    return load_settings(config, **overrides)


def prepare_sandbox(settings: Settings) -> tuple[str, str]:
    """Make the sandbox's key and, where there is no placement yet, an example one; return both."""
    settings.home.mkdir(parents=True, exist_ok=True)
    text = _sandbox_key(settings.home / "sandbox-key")
    KeyFile(keys_path(settings)).replace_named(
        ApiKey(SANDBOX_KEY_NAME, digest_of(text), SCOPES, created_at=utc_now().isoformat())
    )
    with open_service(settings.home, url=settings.database_url) as service:
        return text, _first_placement(service)


def _first_placement(service: DecisionService) -> str:
    known = service.placements()
    if known:
        return SANDBOX_PLACEMENT if SANDBOX_PLACEMENT in known else known[0]
    offers = tuple(
        Offer(OfferId(id_), {"discount": discount, "months": months}, {"title": title})
        for id_, discount, months, title in (
            ("monthly", 0.0, 1, "Monthly, cancel any time"),
            ("annual", 0.15, 12, "A year, 15 % off"),
            ("first-month-half", 0.5, 1, "First month half price"),
        )
    )
    ref = service.policies.register(_untaught(offers).to_artifact(), name=SANDBOX_POLICY, at=utc_now(), actor="sandbox")
    service.put_placement(
        Placement(
            SANDBOX_PLACEMENT,
            offers=tuple(CatalogueOffer(o) for o in offers),
            policy=str(ref),
            baseline=tuple(o.id for o in offers),
            reward=RewardDefinition(window_s=SANDBOX_WINDOW_S),
        ),
        actor="sandbox",
    )
    return SANDBOX_PLACEMENT


def _untaught(offers: tuple[Offer, ...]) -> SaveablePolicy:
    """A policy that has learned nothing, over the features that the printed calls send."""
    from policies.linear import LinTS  # loads scipy: a server in production does so only if a policy needs it

    examples = [
        Context(SubjectId("example"), {"stage": stage, "visits": visits})
        for stage, visits in (("new", 1.0), ("returning", 5.0), ("lapsed", 20.0))
    ]
    return LinTS(FeatureSpace.fit(DecisionTable.from_contexts(OfferSet(offers), examples)))


@contextmanager
def _learning(settings: Settings, placement_id: str | None) -> Iterator[None]:
    """Learn in this process while a sandbox serves; production runs ``nextoffer learn`` beside it."""
    if placement_id is None:
        yield
        return
    stop = threading.Event()

    def work() -> None:
        try:
            learn_until(settings, placement_id, stop.is_set)
        except NextofferError as error:  # the placement may have been given a policy that does not learn
            logging.getLogger("nextoffer.learner").warning("the sandbox does not learn: %s", error)

    thread = threading.Thread(target=work, name="learner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(GRACE_S)


def _sandbox_key(path: Path) -> str:
    """Keep the sandbox's key in clear, so that copied calls work after a restart; production keys never are."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    text = f"nxo_sandbox_{secrets.token_urlsafe(24)}"
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
    return text


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise InvalidInputError(
            f"cannot listen on {host}:{port} ({error}); stop what uses it, or take a free port: --port 0"
        ) from error
    listener.set_inheritable(True)
    return listener

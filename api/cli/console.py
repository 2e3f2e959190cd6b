"""``nextoffer console``: the pages for people, and the plan of an experiment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from cyclopts import App

from api.cli.opening import HERE, UNSIGNED, Where

app = App(name="console", help="Pages for the growth team: what runs, what it has shown, what to do")


@app.default
def serve(
    *,
    port: int = 8080,
    host: str = "127.0.0.1",
    sandbox: bool | None = None,
    sample: bool = False,
    where: Where = HERE,
) -> int:
    """Serve the console over the store of a service, in a process of its own, until it is told to stop.

    The first time it prints an address at which the first account is made. Passwords cross the network: on another address than
    this machine's own, put a proxy with TLS before it.

    Parameters
    ----------
    port
        Port to listen on; 0 takes a free one.
    host
        Address to listen on.
    sandbox
        Say on every page that time and visitors are made up.
    sample
        Fill a sample of made-up visitors, in a folder of its own, where there is none yet, and show it first.
    """
    import uvicorn

    from api.alerts.looking import habits_of
    from api.console.app import create_console, setup_token
    from api.console.oidc import openid_of
    from engine.accounts.accounts import Accounts
    from engine.decisions.opening import open_service
    from engine.monitoring.thresholds import Thresholds

    mode = {} if sandbox is None else {"mode": "sandbox" if sandbox else "production"}
    settings = where.settings(**mode) if sample else where.existing(**mode)
    habits = habits_of(settings)
    if sample:
        _fill_sample(settings.home)
    with open_service(settings.home, url=settings.database_url) as service:
        token = "" if Accounts(service.database).list() else setup_token()
        console = create_console(
            service,
            where.keys(),
            is_sandbox=settings.is_sandbox,
            setup_token=token,
            habits=habits,
            home=settings.home,
            sample_first=sample,
            openid=openid_of(settings),
            thresholds=Thresholds.changed(settings.alarm_thresholds),
        )
        server = uvicorn.Server(uvicorn.Config(console, host=host, port=port, log_level="warning"))
        sock = server.config.bind_socket()
        address = f"http://{host}:{sock.getsockname()[1]}"
        print(f"Nextoffer console on {address}", file=sys.stderr)  # noqa: T201
        if token:
            print(f"Make the first account at {address}/setup?token={token}", file=sys.stderr)  # noqa: T201
        server.run(sockets=[sock])
    return 0


@app.command
def user(
    name: str,
    /,
    *,
    role: Literal["viewer", "experimenter", "admin"] = "viewer",
    where: Where = HERE,
) -> int:
    """Make an account, or give one another role and password; the password is read from the first line of standard input.

    Where nothing has run yet, the store is made.

    Parameters
    ----------
    name
        To sign in with.
    role
        viewer looks, experimenter makes offers and experiments, admin makes accounts and keys.
    """
    from getpass import getpass

    from engine.accounts.accounts import Accounts

    password = getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    with where.opened(may_be_new=True) as service:
        accounts = Accounts(service.database)
        if any(a.name == name for a in accounts.list()):
            accounts.change(name, change=UNSIGNED.change(), role=role, password=password, is_active=True)
        else:
            accounts.create(name, role=role, password=password, change=UNSIGNED.change())
    print(f"{name}: {role}")  # noqa: T201
    return 0


@app.command
def plan(
    experiment: str,
    /,
    *,
    planned_subjects: int,
    effect: float,
    primary: Literal["conversion", "kept", "margin", "revenue"] = "conversion",
    looks: int = 5,
    currency: str = "€",
    margin_tolerance: float | None = None,
    visitors_per_day: float | None = None,
    visitors_per_month: float | None = None,
    covariate: str = "",
    cap_quantile: float | None = None,
    where: Where = HERE,
) -> int:
    """Fix what an experiment is judged by; once, and best before it starts.

    Parameters
    ----------
    planned_subjects
        Visitors to follow, all variants together.
    effect
        Smallest change of the primary metric that matters, absolute: 0.01 is one percentage point.
    primary
        What decides.
    looks
        How many times the plan looks, the end included.
    currency
        Sign of the money on the pages.
    margin_tolerance
        Largest loss of margin per visitor that would be accepted.
    visitors_per_day
        Traffic of the experiment, for "days to go".
    visitors_per_month
        Traffic of the site, for "more subscriptions a month".
    covariate
        Feature of the first decision, a number known before (past spending, a propensity score), that metrics are adjusted for.
    cap_quantile
        Share of the buyers, such as 0.99, above whose quantile money is capped.
    """
    from engine.experiments.lifecycle import Experiments
    from engine.experiments.records import Plan

    with where.opened() as service:
        experiments = Experiments(service.database)
        choices = Plan(
            planned_subjects=planned_subjects,
            effect=effect,
            primary=primary,
            n_looks=looks,
            currency=currency,
            margin_tolerance=margin_tolerance,
            visitors_per_day=visitors_per_day,
            visitors_per_month=visitors_per_month,
            covariate=covariate,
            cap_quantile=cap_quantile,
        )
        revision = experiments.get(experiment).revision
        planned = experiments.fix_plan(experiment, choices, revision=revision, change=UNSIGNED.change())
    print(f"{planned.id}: {planned_subjects} visitors, judged by {primary}")  # noqa: T201
    return 0


@app.command(name="test-alert")
def try_channels(*, where: Where = HERE) -> int:
    """Send a message to every channel that is configured, and say what became of it; 1 where one did not take it."""
    from datetime import UTC, datetime

    from api.alerts.channels import channels_of
    from engine.alerts.message import Language, Message, Text
    from policies.errors import ChannelError, InvalidInputError

    channels = channels_of(where.existing())
    if not channels:
        raise InvalidInputError("no channel is configured; give alert_url, alert_email_to or telegram_token")
    texts: dict[Language, Text] = {
        "en": Text("Nextoffer: a test", "News of your experiments will arrive here."),
        "ru": Text("Nextoffer: проверка", "Сюда будут приходить новости об экспериментах."),
    }
    failed = 0
    for channel in channels:
        try:
            channel.send(Message(0, "test", "test", datetime.now(UTC), texts, {}))
            print(f"{channel.name}: taken")  # noqa: T201 - data on stdout
        except ChannelError as error:
            failed += 1
            print(f"{channel.name}: {error}")  # noqa: T201 - data on stdout
    return 1 if failed else 0


def _fill_sample(home: Path) -> None:
    """Fill the sample where there is none, with a bar while it takes."""
    from time import sleep

    from rich.console import Console
    from rich.progress import Progress

    from engine.sample.folder import SampleFolder
    from policies.errors import StateError

    folder = SampleFolder(home)
    folder.begin("en")
    try:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("sample", total=1.0)
            while (filling := folder.state()).state == "filling":
                bar.update(task, completed=filling.share)
                sleep(0.3)
    finally:
        folder.stop()
    if filling.state == "failed":
        raise StateError(f"the sample could not be filled: {filling.text}")

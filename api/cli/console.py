"""``nextoffer console``: the pages for people, and the plan of an experiment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from cyclopts import App

app = App(name="console", help="Pages for the growth team: what runs, what it has shown, what to do")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@app.default
def serve(
    *,
    port: int = 8080,
    host: str = "127.0.0.1",
    home: Path | None = None,
    sandbox: bool | None = None,
    config: Path | None = None,
) -> int:
    """Serve the console over the store of a service, in a process of its own, until it is told to stop.

    Parameters
    ----------
    port
        Port to listen on.
    host
        Address of this machine only: the console has no accounts yet. Put a proxy that asks for a password before it.
    home
        Data folder of the service.
    sandbox
        Say on every page that time and visitors are made up.
    config
        TOML file of settings; NEXTOFFER_* variables override it.
    """
    import uvicorn

    from api.console.app import create_console
    from policies.errors import InvalidInputError

    if host not in _LOOPBACK:
        raise InvalidInputError(
            f"the console would listen on {host!r}, and it has no accounts yet; expected one of {list(_LOOPBACK)}: put a proxy with a password before it"
        )
    settings, database = _open(home, config, sandbox)
    print(f"Nextoffer console on http://{host}:{port}", file=sys.stderr)  # noqa: T201
    uvicorn.run(
        create_console(database, is_sandbox=settings.is_sandbox),
        host=host,
        port=port,
        log_level="warning",
    )
    return 0


@app.command
def plan(
    experiment: str,
    /,
    *,
    planned_subjects: int,
    effect: float,
    primary: Literal["conversion", "kept", "margin"] = "conversion",
    looks: int = 5,
    currency: str = "€",
    margin_tolerance: float | None = None,
    visitors_per_day: float | None = None,
    visitors_per_month: float | None = None,
    home: Path | None = None,
    config: Path | None = None,
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
    home
        Data folder of the service.
    config
        TOML file of settings.
    """
    from datetime import UTC, datetime

    from engine.experiments.lifecycle import Experiments
    from engine.experiments.records import Plan

    _, database = _open(home, config, None)
    experiments = Experiments(database)
    choices = Plan(
        planned_subjects=planned_subjects,
        effect=effect,
        primary=primary,
        n_looks=looks,
        currency=currency,
        margin_tolerance=margin_tolerance,
        visitors_per_day=visitors_per_day,
        visitors_per_month=visitors_per_month,
    )
    revision = experiments.get(experiment).revision
    planned = experiments.fix_plan(experiment, choices, revision=revision, at=datetime.now(UTC), actor="command")
    print(f"{planned.id}: {planned_subjects} visitors, judged by {primary}")  # noqa: T201
    return 0


def _open(home: Path | None, config: Path | None, sandbox: bool | None):  # type: ignore[no-untyped-def]  # settings and database
    from api.settings import load_settings
    from engine.store.database import Database, sqlite_url
    from policies.errors import InvalidInputError

    overrides = {"home": home, "mode": None if sandbox is None else "sandbox" if sandbox else "production"}
    settings = load_settings(config, **{k: v for k, v in overrides.items() if v is not None})
    file = settings.home / "nextoffer.db"
    if settings.database_url is None and not file.exists():
        raise InvalidInputError(f"there is no store at {file}; start the service once, or name its folder with --home")
    return settings, Database(settings.database_url or sqlite_url(file))

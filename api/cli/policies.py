"""``nextoffer policies``: register artefacts as versions, and list what there is."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

app = App(name="policies", help="Register and list policy versions")


@app.command
def register(path: Path, /, *, name: str, home: Path | None = None, config: Path | None = None) -> int:
    """Keep an artefact folder as a version of a policy and print name@version.

    Parameters
    ----------
    path
        Folder of the artefact.
    name
        Under which it is kept.
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    from datetime import UTC, datetime

    from api.cli.opening import opened

    with opened(home, config) as service:
        print(service.policies.register(path, name=name, at=datetime.now(UTC), actor="command"))  # noqa: T201
    return 0


@app.command(name="list")
def list_versions(*, json: bool = False, home: Path | None = None, config: Path | None = None) -> int:
    """List registered versions, oldest first.

    Parameters
    ----------
    json
        As JSON.
    home
        Folder of the service.
    config
        TOML file of settings.
    """
    from api.cli.opening import opened, show

    with opened(home, config) as service:
        rows = [
            {"policy": str(v.ref), "kind": v.kind, "created_at": v.created_at.isoformat()}
            for v in service.policies.versions()
        ]
    show(rows, as_json=json, line="{policy}  {kind}  since {created_at}")
    return 0


@app.command
def kinds() -> int:
    """List the kinds of policy that are installed here."""
    from policies.registry import known_kinds

    print("\n".join(known_kinds()))  # noqa: T201 - data on stdout
    return 0

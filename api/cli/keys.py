"""``nextoffer keys``: make, list, rotate and revoke API keys; a running service follows within a second."""

from __future__ import annotations

import json as json_module
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

from cyclopts import App, Parameter

from api.cli.opening import HERE, Where
from policies.errors import InvalidInputError

app = App(name="keys", help="Make, list and revoke API keys")


@app.command
def create(
    name: str,
    /,
    *,
    scope: Annotated[list[str], Parameter(negative="")],
    placement: Annotated[list[str] | None, Parameter(negative="")] = None,
    public: bool = False,
    rotate: bool = False,
    days: int | None = None,
    new_placement: bool = False,
    where: Where = HERE,
) -> int:
    """Make a key and print it: once, since only its hash is kept.

    Parameters
    ----------
    name
        Who uses it; named in audit rows.
    scope
        What it may do: decide, reward, read, admin. Give it several times for several.
    placement
        Where it may act; everywhere without it.
    public
        For a page's source: only reward, only from the origins in the settings.
    rotate
        A second key of a name that exists; revoke the older one when nothing uses it any more.
    days
        It expires after so many days.
    new_placement
        The placement is not there yet: it is made later, as by the first request of an Azure Personalizer client.
    """
    from api.auth import check_free_name, new_key

    if days is not None and days < 1:
        raise InvalidInputError(f"--days is {days}; expected 1 or more, or leave it out for a key without an end")
    if placement and not new_placement:
        _check_placements(placement, where)
    file = where.keys()
    if not rotate:
        check_free_name(file, name)
    now = datetime.now(UTC)
    text, key = new_key(
        name,
        scopes=scope,  # type: ignore[arg-type]  # checked by the key itself, which names the known ones
        at=now,
        placements=placement or (),
        is_public=public,
        expires_at=None if days is None else now + timedelta(days=days),
    )
    file.add(key)
    print(text)  # noqa: T201 - data on stdout
    print(f"key {name!r} is kept as a hash in {file.path}; this text is shown once", file=sys.stderr)  # noqa: T201
    return 0


@app.command(name="list")
def list_keys(*, json: bool = False, where: Where = HERE) -> int:
    """List keys by name, scopes and the start of their hashes.

    Parameters
    ----------
    json
        As JSON.
    """
    keys = where.keys().read()
    rows = [
        {
            "name": k.name,
            "digest_start": k.digest[:8],
            "scopes": list(k.scopes),
            "placements": list(k.placements),
            "is_public": k.is_public,
            "created_at": k.created_at,
            "expires_at": k.expires_at,
        }
        for k in keys
    ]
    if json:
        print(json_module.dumps(rows))  # noqa: T201 - data on stdout
        return 0
    for row, key in zip(rows, keys, strict=True):
        places = ", ".join(key.placements) or "everywhere"
        until = f"  until {key.expires_at}" if key.expires_at else ""
        public = "  public" if key.is_public else ""
        print(  # noqa: T201 - data on stdout
            f"{key.name}  {row['digest_start']}  {', '.join(key.scopes)}  {places}  since {key.created_at}{until}{public}"
        )
    return 0


@app.command
def revoke(name: str, /, *, digest_start: str = "", where: Where = HERE) -> int:
    """Remove the keys of a name; a running service refuses them within a second.

    Parameters
    ----------
    name
        Of the key.
    digest_start
        Only the one whose hash starts so (``nextoffer keys list`` shows it): the end of a rotation.
    """
    n = where.keys().revoke(name, digest_start=digest_start)
    print(f"revoked {n} key{'s' if n > 1 else ''} of {name!r}", file=sys.stderr)  # noqa: T201
    return 0


def _check_placements(named: list[str], where: Where) -> None:
    """Refuse to bind a key to a placement that is not there: a mistyped one would open nothing."""
    with where.opened() as service:
        known = service.placements()
    for placement in named:
        if placement not in known:
            raise InvalidInputError(
                f"there is no placement {placement!r}; known: {', '.join(known) or 'none'}; for one that is made later add --new-placement"
            )

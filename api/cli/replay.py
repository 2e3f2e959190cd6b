"""``nextoffer replay``: recompute the log, as an audit to the bit or from raw events within a tolerance."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from api.cli.opening import HERE, Where
from policies.errors import InvalidInputError


def replay(
    *,
    audit: bool = False,
    rederive: bool = False,
    secret: Annotated[list[str] | None, Parameter(negative="")] = None,
    tolerance: float | None = None,
    json: bool = False,
    where: Where = HERE,
) -> int:
    """Recompute decisions and snapshots from the log; exit 0 where all comes out as logged, 1 where something does not.

    Works beside a running service, and changes nothing. What cannot be recomputed is named: erased subjects, facts that
    retention moved away, secrets that were not given.

    Parameters
    ----------
    audit
        Every draw and every learner snapshot from what was logged: the largest difference should be 0.0 (the default).
    rederive
        State vectors from raw events, and learned states from raw facts, within a tolerance.
    secret
        An older secret of the draws as VERSION=FILE; several times for several.
    tolerance
        Of a component of a state vector in ``--rederive``; 1e-5 if not given.
    json
        As JSON.
    """
    if audit and rederive:
        raise InvalidInputError("give --audit or --rederive; they are two claims with two answers")
    found = _rederive(where, tolerance) if rederive else _audit(where, secret or [])
    is_clean = bool(found["is_clean"])
    if json:
        print(json_module.dumps(found))  # noqa: T201 - data on stdout
    else:
        for name, value in found.items():
            if isinstance(value, dict):
                for reason, n in value.items():
                    print(f"{name}: {reason}: {n}")  # noqa: T201 - data on stdout
            else:
                print(f"{name}: {value}")  # noqa: T201 - data on stdout
    if not is_clean:
        print("the log does not replay; see above", file=sys.stderr)  # noqa: T201 - words on stderr
    return 0 if is_clean else 1


def _audit(where: Where, older: list[str]) -> dict[str, Any]:
    from engine.learner.audit import audit
    from engine.registry.versions import Registry

    secrets = dict(_secret(text) for text in older)
    with where.stored() as (database, settings):
        if settings.draw_secret is not None:
            secrets[settings.secret_version] = settings.draw_secret.get_secret_value().encode()
        elif (settings.home / "secret").exists():
            secrets[settings.secret_version] = (settings.home / "secret").read_bytes()
        found = audit(database, Registry(database, settings.home / "artifacts"), secret=secrets)
    return {"claim": "audit", "is_clean": found.is_clean, **asdict(found)}


def _rederive(where: Where, tolerance: float | None) -> dict[str, Any]:
    from engine.learner.rederive import VECTOR_TOLERANCE, rederive
    from engine.registry.versions import Registry

    with where.stored() as (database, settings):
        registry = Registry(database, settings.home / "artifacts")
        found = rederive(database, registry, vector_tolerance=VECTOR_TOLERANCE if tolerance is None else tolerance)
    return {"claim": "rederive", "is_clean": found.is_clean, **asdict(found)}


def _secret(text: str) -> tuple[int, bytes]:
    version, _, file = text.partition("=")
    if not version.isdigit() or not Path(file).is_file():
        raise InvalidInputError(
            f"--secret is {text!r}; expected VERSION=FILE of a file that exists, such as 1=old-secret"
        )
    return int(version), Path(file).read_bytes()

"""``nextoffer serve``: run the decision service, and print what the first five minutes need."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path


def serve(
    *,
    port: int | None = None,
    host: str | None = None,
    home: Path | None = None,
    workers: int | None = None,
    sandbox: bool | None = None,
    config: Path | None = None,
    json: bool = False,
) -> int:
    """Run the decision service until it is told to stop (Ctrl-C or SIGTERM).

    Parameters
    ----------
    port
        0 takes a free one and prints it.
    host
        Address to listen on.
    home
        Folder of everything the service writes.
    workers
        Processes that answer on the one port, about one per core; one that dies is started again.
    sandbox
        A place to try it: an example placement, a printed key, injected time. Without settings of any kind this is on.
    config
        TOML file of settings; NEXTOFFER_* variables override it.
    json
        Print address and key as one line of JSON when ready.
    """
    try:
        from api.serving import run_server
    except ImportError as error:
        from policies.errors import MissingExtraError

        raise MissingExtraError(error.name or str(error), "serve") from error
    return run_server(
        port=port,
        host=host,
        home=home,
        workers=workers,
        is_sandbox=sandbox,
        config=config,
        announce=_announcer(as_json=json),
    )


def _announcer(*, as_json: bool):  # type: ignore[no-untyped-def]  # a callback over plain values
    def announce(url: str, key: str | None, placement: str | None) -> None:
        if as_json:
            print(json_module.dumps({"url": url, "key": key, "placement": placement}), flush=True)  # noqa: T201
            return
        print(f"Nextoffer listens on {url}", file=sys.stderr)  # noqa: T201
        if key is not None and placement is not None:
            print(first_calls(url, key, placement), flush=True)  # noqa: T201

    return announce


def first_calls(url: str, key: str, placement: str) -> str:
    """Three calls to copy: decide, report what came of it, look."""
    return f"""sandbox key: {key}

# 1. which offer to show this visitor now
curl -sw '\\n' {url}/v1/placements/{placement}/decisions \\
  -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
  -d '{{"id": "first-1", "subject": "visitor-1", "features": {{"stage": "returning", "visits": 3}}}}'

# 2. the visitor subscribed
curl -sw '\\n' {url}/v1/rewards \\
  -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
  -d '{{"decision": "first-1", "kind": "subscribed"}}'

# 3. what became of it (learning waits 20 s for what else may come of the decision)
curl -sw '\\n' {url}/v1/placements/{placement}/status \\
  -H 'Authorization: Bearer {key}'
"""

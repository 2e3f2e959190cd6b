"""A real server process for tests: started on a free port, asked over HTTP, ended or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class ServerProcess:
    """``nextoffer serve`` in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    key: str
    placement: str
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        """Headers of an authorised request."""
        return {"Authorization": f"Bearer {self.key}"}

    def stop(self) -> int:
        """Ask it to end, and wait."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        """End it without a chance to write anything more."""
        self.process.kill()
        self.process.wait(20)


def start_server(home: Path, *arguments: str, **environment: str) -> ServerProcess:
    """Start a sandbox server over a home folder and wait until it says that it is ready."""
    log = home.parent / f"{home.name}.log"
    with log.open("a") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "api.cli"),
                *("serve", "--port", "0", "--sandbox", "--json", "--home", str(home)),
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()  # it says nothing more there
    assert line, f"the server did not start: {log.read_text()}"
    ready: dict[str, Any] = json.loads(line)
    return ServerProcess(process, ready["url"], ready["key"], ready["placement"], log)

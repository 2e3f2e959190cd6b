"""Several worker processes on one port: a parent that listens, starts them, and starts anew whichever dies.

The parent binds the socket and each worker accepts from it, so that no connection is lost with a worker that has not taken it.
A worker ends when its standard input is closed: also where the parent was killed and could not say so.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from api.settings import Settings, as_plain, from_plain

READY = b"ready\n"
# A worker that dies sooner than this after its start is not started again at once.
SETTLED_S = 2.0
_log = logging.getLogger("nextoffer.workers")


class Supervisor:
    """Keeps as many workers alive as the settings say.

    Parameters
    ----------
    announce
        Called once, when all workers accept connections.
    """

    def __init__(self, settings: Settings, listener: socket.socket, *, announce: Callable[[], None]) -> None:
        self._settings = settings
        self._listener = listener
        self._announce = announce
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._started_at: dict[int, float] = {}
        self._ready: set[int] = set()
        self._is_announced = False
        self._is_stopping = False

    def run(self, *, grace_s: float) -> int:
        """Supervise until SIGTERM or SIGINT; then let workers answer what they have begun."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        shutil.rmtree(metrics_folder(self._settings), ignore_errors=True)
        with selectors.DefaultSelector() as selector:
            for slot in range(self._settings.workers):
                self._start(slot, selector)
            while not self._is_stopping:
                for key, _ in selector.select(timeout=0.2):
                    self._hear(key.data, selector)
                for slot, worker in list(self._workers.items()):
                    if worker.poll() is not None and time.monotonic() - self._started_at[slot] > SETTLED_S:
                        _log.warning("worker %d ended with %d; it is started again", slot, worker.returncode)
                        self._start(slot, selector)
        for worker in self._workers.values():
            worker.terminate()
        deadline = time.monotonic() + grace_s
        for worker in self._workers.values():
            try:
                worker.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        return 0 if self._is_announced else 1

    def _start(self, slot: int, selector: selectors.BaseSelector) -> None:
        worker = subprocess.Popen(
            [sys.executable, "-m", "api.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._listener.fileno()],
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        # Settings hold secrets, which neither a command line nor an environment should show.
        document = {"slot": slot, "socket": self._listener.fileno(), "settings": as_plain(self._settings)}
        try:
            worker.stdin.write(json.dumps(document).encode() + b"\n")
            worker.stdin.flush()  # left open: its end tells the worker that the parent has gone
        except BrokenPipeError:
            _log.warning("worker %d ended before it began", slot)
        self._workers[slot], self._started_at[slot] = worker, time.monotonic()
        selector.register(worker.stdout, selectors.EVENT_READ, slot)

    def _hear(self, slot: int, selector: selectors.BaseSelector) -> None:
        out = self._workers[slot].stdout
        assert out is not None
        said = os.read(out.fileno(), len(READY))
        if said == READY:
            self._ready.add(slot)
            if len(self._ready) == self._settings.workers and not self._is_announced:
                self._is_announced = True
                self._announce()
            return
        selector.unregister(out)
        out.close()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._is_stopping = True


def metrics_folder(settings: Settings) -> Path:
    """Where workers keep their counts, so that each can answer for all."""
    return settings.home / "metrics"


def main() -> int:
    """Run one worker: what to do comes on standard input."""
    import threading

    from api.serving import serve_on

    document = json.loads(sys.stdin.buffer.readline())
    settings = from_plain(document["settings"])

    def ready() -> None:
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()

    def leave_with_parent() -> None:
        while os.read(
            0, 4096
        ):  # not through the buffered reader, which a thread may not hold when the interpreter ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    # A signal of the terminal goes to the whole group: the parent passes it on once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.socket(fileno=document["socket"])
    return serve_on(settings, listener, ready=ready, worker=document["slot"])


if __name__ == "__main__":
    sys.exit(main())

"""Cells of an experiment, one after the other or on Ray; what is there already is not lived again."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from policies.errors import InvalidInputError, MissingExtraError
from simulator.experiments import Cell, live_once

Progress = Callable[[int, int], None]


def run_cells(cells: Sequence[Cell], folder: Path, *, on_done: Progress | None = None) -> int:
    """Live what is left of an experiment in this process; returns how many cells that was."""
    left = [cell for cell in cells if not cell.path(folder).exists()]
    for i, cell in enumerate(left):
        live_once(cell, folder)
        if on_done is not None:
            on_done(i + 1, len(left))
    return len(left)


def run_on_ray(cells: Sequence[Cell], folder: Path, *, address: str = "local", on_done: Progress | None = None) -> int:
    """Live what is left on Ray; returns how many cells that was.

    Parameters
    ----------
    folder
        Seen by every machine of the cluster.
    address
        ``local`` starts Ray here; anything else is a running cluster's address.

    Raises
    ------
    MissingExtraError
        Without Ray.
    InvalidInputError
        If no cluster answers at the address.
    """
    left = [cell for cell in cells if not cell.path(folder).exists()]
    if not left:
        return 0
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "rllib") from error
    started = not ray.is_initialized()
    if started:
        # Ray warns that a later release will hide the accelerators of tasks that ask for none; ours use none.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        is_here = address == "local"
        if not is_here:
            _check_reachable(address)
        try:
            ray.init(
                address=None if is_here else address, include_dashboard=False if is_here else None, log_to_driver=False
            )
        except (ConnectionError, ValueError) as error:
            raise _unreachable(address, error) from error
    try:
        task = ray.remote(num_cpus=1)(_live)
        waiting = [task.remote(cell, str(folder.resolve())) for cell in left]
        n_done = 0
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)
            n_done += len(done)
            if on_done is not None:
                on_done(n_done, len(left))
    finally:
        if started:
            ray.shutdown()
    return len(left)


def _check_reachable(address: str) -> None:
    """Ray itself waits for a minute and then ends the process where nobody listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # "auto": Ray knows where
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}); expected 'local', 'auto' or the address that "
        "`ray start --head` printed, and its token in RAY_AUTH_TOKEN where it asks for one"
    )


def _live(cell: Cell, folder: str) -> None:
    live_once(cell, Path(folder))

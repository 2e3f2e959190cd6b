"""Learners beside a server: what they do while the store is away."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from api.learning import learn_until
from api.settings import Settings


def test_a_learner_waits_for_a_database_that_is_not_there_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Started before its PostgreSQL, it says once that it waits, goes on asking, and ends when it is told to."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # nobody listens there once this block is left
    settings = Settings(home=tmp_path, database_url=f"postgresql://nobody@127.0.0.1:{port}/none")
    looks = iter([False] * 4 + [True] * 9)
    with caplog.at_level(logging.WARNING, logger="nextoffer.learner"):
        assert learn_until(settings, None, lambda: next(looks)) == 0
    (record,) = caplog.records
    assert record.getMessage().startswith("learning waits: the store does not answer")

"""No caller can write a line of the log, or steer the terminal it is read in."""

from __future__ import annotations

import io
import json
import logging
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.logs import OneLine, json_lines, one_line
from engine.decisions.requests import DecisionRequest
from policies.fixed import Uniform
from tests.engine.service_world import START, open_shop, shop


@given(text=st.text())
def test_whatever_the_text_it_is_one_printable_line(text: str) -> None:
    """Nothing that ends a line, and no control character, is left; plain text stays as it is."""
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    assert all(c.isprintable() or c in " \u00a0" or ord(c) > 0x9F for c in shown)
    if text.isprintable() and text.isascii():
        assert shown == text


def test_a_forged_record_stays_inside_its_own() -> None:
    """A line break, an escape sequence and a traceback with user text give lines that cannot be taken for records."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))
    log = logging.Logger("test")
    log.addHandler(handler)
    log.error("placement %s failed", "x\nINFO test: all is well\x1b[2J\u202e")
    try:
        raise ValueError("bad\nINFO test: all is well")
    except ValueError:
        log.exception("request %s failed", "r1")
    lines = stream.getvalue().splitlines()
    assert lines[0] == r"ERROR test: placement x\nINFO test: all is well\x1b[2J\u202e failed"
    assert [line for line in lines if line.startswith("INFO")] == []
    assert all(line.startswith("| ") for line in lines[2:])


def test_json_lines_carry_ids_and_stay_one_line() -> None:
    """A record is one JSON object in ASCII with message, level, logger, time and the ids it is about; a traceback is a field of it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(json_lines())
    log = logging.Logger("nextoffer.test")
    log.addHandler(handler)
    log.warning("policy fault %d: %s", 4, "x\n{}\u202e", extra={"decision": "d1"})
    try:
        raise ValueError("bad\nlines")
    except ValueError:
        log.exception("failed", extra={"request": "r1"})
    lines = stream.getvalue().splitlines()
    assert stream.getvalue().isascii()
    first, second = (json.loads(line) for line in lines)
    assert first["decision"] == "d1"
    assert first["message"] == "policy fault 4: x\n{}\u202e"
    assert (first["level"], first["logger"]) == ("warning", "nextoffer.test")
    assert first["timestamp"].endswith("Z")
    assert second["request"] == "r1"
    assert "ValueError: bad" in second["exception"]


def test_a_policy_that_fails_is_logged_with_its_decision(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The record of a fault names the decision it happened in."""
    with open_shop(tmp_path, placements=(shop(policy=None),)) as service, caplog.at_level(logging.WARNING):
        ref = service.policies.register(Uniform().to_artifact(), name="even", at=START)
        service.put_placement(shop(policy=str(ref)))
        shutil.rmtree(service.policies.folder)
        answer = service.decide(DecisionRequest("shop", "u1"))
    assert answer.decision.rung == "baseline"
    about = [r.__dict__.get("decision") for r in caplog.records if "policy fault" in r.message]
    assert about == [answer.decision.id]

"""No caller can write a line of the log, or steer the terminal it is read in."""

from __future__ import annotations

import io
import logging

from hypothesis import given
from hypothesis import strategies as st

from api.logs import OneLine, one_line


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

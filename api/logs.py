"""Logs of a server: one line a record, whatever a caller has put into a name, an id or an error's text."""

from __future__ import annotations

import logging
import sys
from typing import Literal

Form = Literal["text", "json"]

_SHOWN = {ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r", 0x85: "\\x85", 0x2028: "\\u2028", 0x2029: "\\u2029"}
# C0 and C1 controls (terminals act on them) and marks that turn the direction of writing.
_ESCAPES = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    **{code: f"\\u{code:04x}" for code in (*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    **_SHOWN,
}


def one_line(text: str) -> str:
    """Text without characters that could end a line, forge another one, or steer a terminal."""
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode("utf-8")


class OneLine(logging.Formatter):
    """Escapes the message; the lines of a traceback begin with a bar, so that none can pass for a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging calls
        """Fill in the format with the escaped message."""
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802
        """Format a traceback, each line marked and escaped."""
        text = super().formatException(ei)  # type: ignore[arg-type]  # as logging passes it
        return "\n".join(f"| {one_line(line)}" for line in text.split("\n"))


def set_up(level: str, form: Form = "text") -> None:
    """Log to standard error.

    Parameters
    ----------
    form
        ``json``: one object a record, with the ids of what it is about (``decision``, ``request``, ``placement``, …) as fields.
    """
    handler = logging.StreamHandler(sys.stderr)
    plain = OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(plain if form == "text" else json_lines())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def json_lines() -> logging.Formatter:
    """Formatter of records as JSON, in ASCII: whatever a caller has put into a name stays inside its string."""
    import structlog  # whoever logs text has no use for it

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ],
    )

"""uvicorn's HTTP protocol with a short way for a request whose body is there and an answer that is there as a whole.

The ASGI way hands the body over in a message and takes an answer in two: uvicorn checks each header of the first, writes it, and then
writes the second. That is two system calls, and two wake-ups of a client that waits. What an operation answers is made here
and known whole, so it goes out in one write. Only operations ask for it; everything else is answered in the ASGI way.
"""

from __future__ import annotations

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

EXTENSION = "nextoffer.exchange"


class ExchangeProtocol(HttpToolsProtocol):
    """Offers each request an ``Exchange``, as an extension of its ASGI scope."""

    def on_headers_complete(self) -> None:
        """Begin a request; its task has not run yet, so what is added to the scope is there when it does."""
        super().on_headers_complete()
        self.scope["extensions"] = {EXTENSION: Exchange(self.cycle)}  # type: ignore[dict-item]  # ASGI lets a server name its own


class Exchange:
    """One request and its answer, past ASGI's messages.

    Parameters
    ----------
    cycle
        uvicorn's state of the request, whose answer it may also send in the ordinary way.
    """

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    def body(self) -> bytes | None:
        """Body of the request; None where it has not arrived whole, or the client waits to be told to send it."""
        cycle = self._cycle
        return None if cycle.more_body or cycle.disconnected or cycle.waiting_for_100_continue else bytes(cycle.body)

    def answer(self, status: int, headers: bytes, body: bytes) -> bool:
        """Send a whole answer; False where nothing was sent, since the client does not read fast enough.

        Parameters
        ----------
        headers
            Lines that end with CR LF each, with the body's ``content-length`` and of our own making: they are not checked.
        """
        cycle = self._cycle
        if cycle.disconnected:
            return True
        if cycle.flow.write_paused or cycle.response_started:
            return False
        lines = [STATUS_LINE[status], *(b"%b: %b\r\n" % header for header in cycle.default_headers), headers]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        cycle.transport.write(b"".join((*lines, b"\r\n", body)))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


def take_exchange(scope: Scope) -> Exchange | None:
    """Take the short way of a request out of its scope; None under another server, or where it has been taken.

    Left there it would refer to the scope that holds it: every request would be garbage that only a collector finds, and
    its looks would be the tail of a decision.
    """
    extensions = scope.get("extensions")
    return None if extensions is None else extensions.pop(EXTENSION, None)

"""Nextoffer's client for Python web back ends: one file, no dependencies, safe on the hottest page.

    client = Nextoffer("http://127.0.0.1:8000", key="nxo_…",
                       fallback={"offer_page": [{"id": "monthly", "payload": {"title": "Monthly"}}]})
    choice = client.decide("offer_page", subject="visitor-1", features={"visits": 3})
    show(choice.offer_id, choice.payload)
    client.reward(choice, "subscribed")

``decide`` never raises and never takes longer than its timeout (80 ms by default, name look-up apart). If the service
does not answer in time, the first offer of your own list is shown, and the choice says so (``source == "fallback"``):
it is no exposure, and its rewards are not sent. One client may be shared by all threads.

Retry rule. A request is sent a second time, with the same id, only if the first was refused by the network or answered
502, 503 or 504, and only within the timeout: the service gives the same answer to the same id. After five failures in a
row the service is left alone for two seconds and the fallback is shown at once.
"""

from __future__ import annotations

import http.client
import io
import json
import logging
import socket
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["Choice", "Nextoffer", "Problem"]

_T = TypeVar("_T")
_log = logging.getLogger("nextoffer.client")
_RETRIED = frozenset({502, 503, 504})
_FAILURES_TO_OPEN = 5
_OPEN_S = 2.0
_MAX_IDLE = 64
_MAX_ANSWER = 4 << 20


class Problem(Exception):  # noqa: N818 - handed over as a value, never raised to the caller
    """Why the service gave no usable answer; handed to ``on_problem``, never raised by ``decide``.

    Attributes
    ----------
    status
        HTTP status, or None where there was no answer.
    code
        The service's code for the error, or ``timeout``, ``network``, ``circuit_open``.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str = "network") -> None:
        self.status = status
        self.code = code
        super().__init__(message)


@dataclass(frozen=True)
class Choice:
    """Which offer to show.

    Attributes
    ----------
    source
        ``service``, or ``fallback`` where the local list was used.
    recorded
        Whether the service has it on disk; only then it is an exposure.
    offer_id
        None only where neither the service nor the local list has an offer.
    reason
        Why the fallback was used; "" otherwise.
    """

    id: str
    placement: str
    subject: str
    offer_id: str | None
    payload: Mapping[str, Any] = field(default_factory=dict)
    probability: float | None = None
    variant: str | None = None
    recorded: bool = False
    source: str = "service"
    reason: str = ""


class Nextoffer:
    """A connection to a decision service.

    Parameters
    ----------
    url
        Where it listens.
    key
        A key with the scopes ``decide`` and ``reward``.
    fallback
        For each placement, the offers to show when the service does not answer, best first.
    timeout_s
        Longest time a decision may take, retry included.
    report_timeout_s
        The same for rewards, outcomes and events, which no page waits for.
    on_problem
        Called with each ``Problem``, for metrics; what it raises is ignored.

    Raises
    ------
    ValueError
        If the address is not usable. Nothing else of this class raises.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        fallback: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        timeout_s: float = 0.08,
        report_timeout_s: float = 2.0,
        on_problem: Callable[[Problem], None] | None = None,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {url!r}; expected an address such as http://127.0.0.1:8000")
        self._host, self._port, self._is_tls = parts.hostname, parts.port, parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._fallback = {name: [dict(o) for o in offers] for name, offers in (fallback or {}).items()}
        self._timeout_s, self._report_timeout_s = timeout_s, report_timeout_s
        self._on_problem = on_problem
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()
        self._n_failures = 0
        self._closed_until = 0.0

    def decide(
        self,
        placement: str,
        *,
        subject: str,
        features: Mapping[str, Any] | None = None,
        id: str | None = None,  # noqa: A002 - the service's word
        exclude: Sequence[str] = (),
        activated: bool = True,
        ttl_s: float | None = None,
        user_agent: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Choice:
        """Ask which offer to show; in time, whatever happens.

        Parameters
        ----------
        subject
            Who: the same text for the same visitor, and no personal data.
        features
            Numbers, texts, booleans or None by name.
        id
            Your id of the decision: asked again, the same answer comes back.
        exclude
            Ids of offers not to show this time.
        activated
            False if the page decides later whether the offer is seen; then call ``activate``.
        ttl_s
            A reload within so many seconds gets the same offer, and no second exposure; the service then makes the id.
        user_agent
            The visitor's own, so that known machines are recognised and never learned from.
        """
        body = self._asked(
            subject, features, id=id, exclude=exclude, activated=activated, ttl_s=ttl_s, agent=user_agent
        )
        answer, reason = self._ask(placement, body, headers, lambda found: _choice(placement, subject, found))
        return answer or self._local(placement, subject, exclude, reason)

    def decide_page(
        self,
        placement: str,
        *,
        subject: str,
        slots: Sequence[str],
        features: Mapping[str, Any] | None = None,
        id: str | None = None,  # noqa: A002 - the service's word
        exclude: Sequence[str] = (),
        activated: bool = True,
        ttl_s: float | None = None,
        user_agent: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Choice]:
        """Ask for an offer in each of several places, no offer twice; in time, whatever happens.

        Parameters
        ----------
        slots
            Names of the places, best first. The others are as for ``decide``; each choice has an id of its own.
        """
        body = self._asked(
            subject, features, id=id, exclude=exclude, activated=activated, ttl_s=ttl_s, agent=user_agent
        )
        body["slots"] = [{"id": slot} for slot in slots]

        def page(found: Any) -> dict[str, Choice]:
            return {entry["slot"]: _choice(placement, subject, entry["decision"]) for entry in found["slots"]}

        answer, reason = self._ask(placement, body, headers, page)
        if answer is not None and set(answer) == set(slots):
            return answer
        local: dict[str, Choice] = {}
        for slot in slots:
            shown = [c.offer_id for c in local.values() if c.offer_id is not None]
            local[slot] = self._local(placement, subject, [*exclude, *shown], reason)
        return local

    def _asked(
        self,
        subject: str,
        features: Mapping[str, Any] | None,
        *,
        id: str | None,  # noqa: A002
        exclude: Sequence[str],
        activated: bool,
        ttl_s: float | None,
        agent: str | None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "subject": subject,
            "features": dict(features or {}),
            "exclude": list(exclude),
            "activated": activated,
        }
        if agent is not None:
            body["user_agent"] = agent[:1024]
        if ttl_s is None:
            body["id"] = id or uuid.uuid4().hex
        else:
            body["ttl_s"] = ttl_s
        return body

    def _ask(
        self, placement: str, body: Any, headers: Mapping[str, str] | None, read: Callable[[Any], _T]
    ) -> tuple[_T | None, str]:
        path = f"/v1/placements/{urllib.parse.quote(str(placement), safe='')}/decisions"
        try:
            return read(self._call("POST", path, body, timeout_s=self._timeout_s, headers=headers)), ""
        except Problem as problem:
            self._report(problem)
            return None, str(problem)
        except Exception as error:  # the page must not break, whatever the answer looks like
            self._report(Problem(f"unexpected answer: {error!r}", code="bad_answer"))
            return None, f"unexpected answer: {error!r}"

    def reward(
        self,
        decision: Choice | str,
        kind: str,
        value: float = 1.0,
        *,
        id: str | None = None,  # noqa: A002
        headers: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any] | None:
        """Report what came of a decision; None if it was not taken in (call again: the same reward counts once).

        A fallback choice was no exposure: its reward is not sent, and the answer says ``ignored``.
        """
        if isinstance(decision, Choice):
            if decision.source == "fallback":
                return {"decision": decision.id, "status": "ignored", "joined": False}
            decision = decision.id
        body = {"decision": decision, "kind": kind, "value": value, **({} if id is None else {"id": id})}
        return self._send("/v1/rewards", body, headers)

    def outcome(
        self,
        subject: str,
        kind: str,
        value: float = 1.0,
        *,
        id: str | None = None,  # noqa: A002
        at: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any] | None:
        """Report what became known of a subject, such as billing's news; give it an id, or each call counts."""
        body = {"subject": subject, "kind": kind, "value": value, "id": id or uuid.uuid4().hex}
        return self._send("/v1/outcomes", {**body, **({} if at is None else {"at": at})}, headers)

    def event(
        self,
        subject: str,
        kind: str,
        item: str = "",
        value: float = 0.0,
        *,
        id: str | None = None,  # noqa: A002
        headers: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any] | None:
        """Report what a subject did; the next decision knows it."""
        body = {"subject": subject, "kind": kind, "item": item, "value": value, "id": id or uuid.uuid4().hex}
        return self._send("/v1/events", body, headers)

    def identify(
        self, subject: str, identified_as: str, *, headers: Mapping[str, str] | None = None
    ) -> Mapping[str, Any] | None:
        """Say that a visitor has logged in: both ids are one person from now on."""
        path = f"/v1/subjects/{urllib.parse.quote(str(subject), safe='')}/identify"
        return self._send(path, {"identified_as": identified_as}, headers)

    def activate(
        self, decision: Choice | str, *, shown: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Mapping[str, Any] | None:
        """Say that the offer of a decision made with ``activated=False`` has been seen.

        Parameters
        ----------
        shown
            Id of the offer that the page has really shown, so that the service notices where it is not the one chosen.
        """
        if isinstance(decision, Choice) and decision.source == "fallback":
            return {"decision": decision.id, "activated": False, "first": False}
        decision_id = decision.id if isinstance(decision, Choice) else decision
        body = None if shown is None else {"shown": shown}
        return self._send(f"/v1/decisions/{urllib.parse.quote(decision_id, safe='')}/activation", body, headers)

    def close(self) -> None:
        """Close idle connections; the client can still be used."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> Nextoffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _local(self, placement: str, subject: str, exclude: Sequence[str], reason: str) -> Choice:
        offers = self._fallback.get(placement, ())
        offer: Mapping[str, Any] = next((o for o in offers if o.get("id") not in exclude), {})
        return Choice(
            id=f"fallback-{uuid.uuid4().hex}",
            placement=placement,
            subject=subject,
            offer_id=offer.get("id"),
            payload=offer.get("payload", {}),
            source="fallback",
            reason=reason,
        )

    def _send(self, path: str, body: Any, headers: Mapping[str, str] | None) -> Mapping[str, Any] | None:
        try:
            answer: Mapping[str, Any] = self._call(
                "POST", path, body, timeout_s=self._report_timeout_s, headers=headers
            )
        except Problem as problem:
            self._report(problem)
            return None
        except Exception as error:
            self._report(Problem(f"unexpected answer: {error!r}", code="bad_answer"))
            return None
        return answer

    def _report(self, problem: Problem) -> None:
        _log.warning("%s (%s)", problem, problem.code)
        if self._on_problem is not None:
            try:
                self._on_problem(problem)
            except Exception:
                _log.exception("on_problem failed")

    def _call(self, method: str, path: str, body: Any, *, timeout_s: float, headers: Mapping[str, str] | None) -> Any:
        deadline = time.monotonic() + timeout_s
        if time.monotonic() < self._closed_until:
            raise Problem("the service failed repeatedly and is left alone for a moment", code="circuit_open")
        try:
            content = b"" if body is None else json.dumps(body, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise Problem(
                f"nothing was sent ({error}); features are text, finite numbers, true, false or None",
                code="bad_request",
            ) from error
        sent_headers = {**self._headers, **(headers or {})}
        problem: Problem | None = None
        for attempt in range(2):
            try:
                status, raw = self._exchange(
                    method, path, content, sent_headers, deadline=deadline, is_retry=attempt > 0
                )
            except TimeoutError:
                problem = Problem(f"no answer within {timeout_s * 1000:.0f} ms", code="timeout")
                break
            except (OSError, http.client.HTTPException) as error:
                problem = Problem(f"the service cannot be reached: {error!r}")
                continue
            if status in _RETRIED:
                problem = _problem_of(status, raw)
                continue
            self._n_failures = 0
            if status >= 400:
                raise _problem_of(status, raw)
            return json.loads(raw)
        with self._lock:
            self._n_failures += 1
            if self._n_failures >= _FAILURES_TO_OPEN:
                self._closed_until = time.monotonic() + _OPEN_S
                self._n_failures = _FAILURES_TO_OPEN - 1  # one more failure after the pause opens it again
        assert problem is not None
        raise problem

    def _exchange(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str], *, deadline: float, is_retry: bool
    ) -> tuple[int, bytes]:
        connection = None
        if not is_retry:  # a kept connection may have died meanwhile: the retry takes a new one
            with self._lock:
                connection = self._idle.pop() if self._idle else None
        connection = connection or _Connection(self._host, self._port, is_tls=self._is_tls)
        try:
            status, raw, is_reusable = connection.exchange(
                method, self._prefix + path, content, headers, deadline=deadline
            )
        except BaseException:
            connection.close()
            raise
        if is_reusable:
            with self._lock:
                if len(self._idle) < _MAX_IDLE:
                    self._idle.append(connection)
                    return status, raw
        connection.close()
        return status, raw


def _choice(placement: str, subject: str, answer: Any) -> Choice:
    return Choice(
        id=answer["id"],
        placement=placement,
        subject=subject,
        offer_id=answer["offer"]["id"],
        payload=answer["offer"]["payload"],
        probability=answer["probability"],
        variant=answer["variant"],
        recorded=answer["recorded"],
    )


def _problem_of(status: int, raw: bytes) -> Problem:
    try:
        error = json.loads(raw)["error"]
        return Problem(str(error["message"]), status=status, code=str(error["code"]))
    except (ValueError, KeyError, TypeError):
        return Problem(f"the service answered {status}", status=status, code="http_error")


class _Connection:
    """One kept-alive connection on which every read and write ends by the deadline."""

    def __init__(self, host: str, port: int | None, *, is_tls: bool) -> None:
        kind = http.client.HTTPSConnection if is_tls else http.client.HTTPConnection
        self._http = kind(host, port)
        self._deadline = 0.0
        self._http.response_class = self._response  # type: ignore[assignment]  # a factory is all that is called

    def exchange(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str], *, deadline: float
    ) -> tuple[int, bytes, bool]:
        self._deadline = deadline
        left = self.left()
        if self._http.sock is None:
            self._http.timeout = left
            self._http.connect()
            sock: socket.socket = self._http.sock  # type: ignore[assignment]  # connect() has set it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._http.sock.settimeout(self.left())
        self._http.request(method, path, body=content, headers=dict(headers))
        response = self._http.getresponse()
        raw = response.read(_MAX_ANSWER)
        return response.status, raw, response.isclosed() and not response.will_close

    def left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def close(self) -> None:
        self._http.close()

    def _response(self, sock: socket.socket, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(sock, *args, **kwargs)
        plain = response.fp
        response.fp = io.BufferedReader(_DeadlineReader(sock, self.left))
        plain.close()
        return response


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket; a server that sends a byte at a time does not outlast the deadline."""

    def __init__(self, sock: socket.socket, left: Callable[[], float]) -> None:
        self._sock, self._left = sock, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._left())
        return self._sock.recv_into(buffer)

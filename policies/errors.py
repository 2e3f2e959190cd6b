"""Every failure a caller may want to catch, under one root."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class NextofferError(Exception):
    """Root of all errors raised on purpose; its text says what was found, what was expected and what to do.

    Survives the way back from another process: an error that cannot be rebuilt there takes a whole process pool down.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, self.__dict__)


class InvalidInputError(NextofferError, ValueError):
    """A value from outside does not have the form that was asked for."""


class SchemaError(InvalidInputError):
    """A table or file lacks a column, or a column has the wrong type."""


class DuplicateOfferError(InvalidInputError):
    """Two offers of one set have the same id.

    Attributes
    ----------
    offer_id
        The id that appears more than once.
    """

    def __init__(self, offer_id: str) -> None:
        self.offer_id = offer_id
        super().__init__(
            f"offer id {offer_id!r} appears more than once in one set; ids must be unique: rename or drop one"
        )


class NoEligibleOfferError(NextofferError, LookupError):
    """Nothing may be shown to this subject.

    Attributes
    ----------
    rows
        Positions of the decisions without an eligible offer.
    """

    def __init__(self, rows: list[int], *, subject: str | None = None) -> None:
        self.rows = rows
        who = f"subject {subject!r}" if subject is not None else f"{len(rows)} decision(s), the first at row {rows[0]},"
        super().__init__(
            f"{who} has no eligible offer; add a fallback offer to the catalogue or widen its eligibility rule"
        )


class SupportError(NextofferError, ValueError):
    """A log gives no weight to something that has to be judged (propensity zero or outside (0, 1])."""


class ProbabilityError(NextofferError, ValueError):
    """A policy returned something that is not a distribution over the eligible offers."""


class NotFittedError(NextofferError, RuntimeError):
    """Something has to be fitted or loaded first."""


class ArtifactError(NextofferError, ValueError):
    """A saved artefact is missing, damaged or of an unknown kind."""


class UnknownNameError(NextofferError, LookupError):
    """A name is not known; the text offers the nearest ones that are.

    Attributes
    ----------
    name
        What was asked for.
    known
        What there is.
    """

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = sorted(known)
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(self.known) or 'none'}"
        super().__init__(f"unknown {what} {name!r}; {hint}")


class MissingExtraError(NextofferError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{module} is not installed; pip install 'nextoffer[{extra}]'")


class ConflictError(NextofferError, ValueError):
    """The same id was used before with another content, or a revision moved on meanwhile."""


class StateError(NextofferError, RuntimeError):
    """The operation does not fit the state something is in (a draft, running, stopped)."""


class UnknownDecisionError(NextofferError, LookupError):
    """A reward or an activation names a decision that is not in the log.

    Attributes
    ----------
    decision_id
        The id that was given.
    """

    def __init__(self, decision_id: str) -> None:
        self.decision_id = decision_id
        super().__init__(
            f"decision {decision_id!r} is not in the log; expected the id that a decision was answered with: "
            "send outcomes that name no decision by subject"
        )


class MovedAwayError(UnknownDecisionError):
    """The details of a decision are no longer in the store: retention has moved them to the cold path.

    Attributes
    ----------
    decision_id
        Whose details.
    """

    def __init__(self, decision_id: str) -> None:
        self.decision_id = decision_id
        NextofferError.__init__(
            self,
            f"the details of decision {decision_id!r} are older than the store keeps them; look into the files of the cold path",
        )


class StoreUnavailableError(NextofferError, ConnectionError):
    """The log cannot be written now (disk full, read-only, connection lost); nothing was acknowledged."""


class ChannelError(NextofferError, ConnectionError):
    """A message could not be handed to a mail server, a chat or a webhook; it is tried again later."""


class OverloadedError(NextofferError, RuntimeError):
    """More facts wait for the log than the queue holds; try again after ``retry_after_s``."""

    def __init__(self, n_waiting: int, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{n_waiting} facts wait for the log; expected fewer: retry after {retry_after_s:g} s")


def _rebuilt(kind: type[NextofferError], args: tuple[Any, ...], facts: dict[str, Any]) -> NextofferError:
    """An error as it was, without asking its constructor, which takes other arguments than its text."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error

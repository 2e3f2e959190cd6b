"""Errors keep what they say, wherever they are raised."""

from __future__ import annotations

import pickle

import pytest

from policies.errors import (
    DuplicateOfferError,
    InvalidInputError,
    MissingExtraError,
    MovedAwayError,
    NextofferError,
    NoEligibleOfferError,
    OverloadedError,
    UnknownNameError,
)

ERRORS = [
    InvalidInputError("found this; expected that"),
    DuplicateOfferError("monthly"),
    NoEligibleOfferError([3], subject="u1"),
    UnknownNameError("policy", "linnucb", ["linucb", "lints"]),
    MissingExtraError("ray", "rllib"),
    MovedAwayError("d1"),
    OverloadedError(7, retry_after_s=2.0),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_whole_from_another_process(error: NextofferError) -> None:
    """What pickles on the way back from a worker process is the same error: kind, text and what it knows."""
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), back.__dict__) == (str(error), error.__dict__)

"""The shape of the HTTP interface is a promise: it changes on purpose or not at all."""

from __future__ import annotations

import json

from api.app import OPERATIONS
from tests.api.openapi_shape import GOLDEN, shape


def test_the_shape_is_the_one_that_was_promised() -> None:
    """Paths, parameters, fields, types and statuses equal the golden file."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert shape() == golden, "if the change is meant: python -m tests.api.openapi_shape, and look at the difference"


def test_every_operation_that_runs_is_documented() -> None:
    """Each route has its entry with a summary and a description of what it does."""
    documented = shape()["paths"]
    for operation in OPERATIONS:
        assert f"{operation.method} {operation.path}" in documented
        assert operation.summary
        assert operation.handler.__doc__

"""What all tests share: under CI a skip for a missing tool is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

MISSING_TOOL = "missing tool:"

# No deadline: a shared machine makes a single example slow now and then, and that is no fault of the code.
settings.register_profile("nextoffer", deadline=None)
settings.load_profile("nextoffer")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, None]:
    """Turn a skip whose reason starts with ``missing tool:`` into a failure where ``CI`` is set."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if MISSING_TOOL in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped under CI: {reason}"

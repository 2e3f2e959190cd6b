"""Where a service keeps the reports that were made about it, so that the console can show them."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from offline_eval.report.page import Page

REPORTS = "reports"


def keep_report(home: Path, page: Page, *, kind: str, about: str, at: datetime) -> Path:
    """Write a page and its twin into the home folder, under what made it, what it is about, and when.

    Returns
    -------
    Path
        The page.
    """
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", about).strip("-.") or "report"
    return page.write(home / REPORTS / f"{kind}-{plain}-{at:%Y%m%d-%H%M%S}.html")[0]

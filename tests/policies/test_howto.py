"""What the how-to says, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "choose-a-policy.md"


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
def test_the_snippets_of_the_page_run(snippet: str) -> None:
    """Every Python block of the page runs as it stands, its assertion included."""
    exec(compile(snippet, str(PAGE), "exec"), {})

"""Descriptions of sources."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.sources.description import load_source
from policies.errors import InvalidInputError, SchemaError

EXAMPLES = Path(__file__).parents[3] / "examples" / "sources"

GOOD = """
name = "shop"
[tables.visits]
path = "visits.csv"
format = "csv"
columns = { who = "string", at = "timestamp" }
[points]
snapshots = [2024-03-01]
[label]
name = "came back"
kinds = ["visit"]
window_days = 7
[[events]]
table = "visits"
subject = "who"
at = "at"
kind = "'visit'"
[[split]]
shares = { train = 0.75, test = 0.25 }
"""


def _written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "source.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.stem)
def test_examples_are_valid(path: Path) -> None:
    """Every description that is shipped can be read."""
    assert load_source(path).name == path.stem


def test_days_become_instants(tmp_path: Path) -> None:
    """A day in a description is its midnight in UTC, aware."""
    assert load_source(_written(tmp_path, GOOD)).points.snapshots == (datetime(2024, 3, 1, tzinfo=UTC),)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("window_days = 7", "window_dayz = 7", "unknown key 'window_dayz'; did you mean 'window_days'"),
        ("window_days = 7", "", "the label has no window"),
        ('format = "csv"', 'format = "cvs"', "unknown format 'cvs'; did you mean 'csv'"),
        ('format = "csv"', "", "lacks 'format'; add it"),
        (
            'at = "timestamp" }',
            'at = "timestam" }',
            "column visits.at: unknown type 'timestam'; did you mean 'timestamp'",
        ),
        ('table = "visits"', 'table = "visit"', "[events]: unknown table or view 'visit'; did you mean 'visits'"),
        ("test = 0.25", "test = 0.5", "shares sum to 1.25; expected 1"),
        ("test = 0.25", "tset = 0.25", "unknown split 'tset'; did you mean 'test'"),
        ("snapshots = [2024-03-01]", "", "needs either a table or snapshots"),
        ('name = "came back"', "name = 3", "name is 3; expected str"),
        ("[points]\nsnapshots = [2024-03-01]", "", "lacks 'points'; add it"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A description with one mistake gets one error that names the place and, for a misspelling, what was meant."""
    assert old in GOOD
    with pytest.raises((SchemaError, InvalidInputError), match=re.escape(message)):
        load_source(_written(tmp_path, GOOD.replace(old, new)))


def test_what_is_not_toml_is_refused(tmp_path: Path) -> None:
    """A file that is not TOML, or is not there, is an input error with the file's name."""
    with pytest.raises(InvalidInputError, match="is not TOML"):
        load_source(_written(tmp_path, "name = ["))
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load_source(tmp_path / "missing.toml")

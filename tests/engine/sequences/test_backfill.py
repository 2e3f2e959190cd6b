"""From raw files to the online state: decisions know the past from the first day."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from engine.decisions.backfill import Backfilled, backfill
from engine.decisions.opening import open_service
from engine.sequences.build import register_tables
from engine.sequences.recent import recent_events
from engine.sources.description import load_source
from policies.errors import InvalidInputError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark
START = datetime(2024, 3, 1, tzinfo=UTC)
DESCRIPTION = """
name = "clicks"

[tables.clicks]
path = "clicks.json"
format = "json"
columns = { id = "string", visitor = "string", page = "string", spent = "double", at = "timestamp" }

[[events]]
table = "clicks"
subject = "visitor"
at = "at"
kind = "'click'"
item = "page"
value = "spent"
id = "id"

[points]
snapshots = [2024-04-01]

[label]
name = "clicked within a week"
kinds = ["click"]
window_days = 7

[[split]]
shares = { train = 1.0 }

[sequence]
last_events = 4
"""


def test_the_store_gets_the_newest_events_of_each_subject_once(spark: SparkSession, tmp_path: Path) -> None:
    """Each subject has its last events in the order of the source, ties by id; a second run records nothing and changes nothing."""
    (tmp_path / "clicks.toml").write_text(DESCRIPTION)
    clicks = [
        {
            "id": f"{i:02d}",
            "visitor": f"v{i % 3}",
            "page": f"p{i}",
            "spent": i / 4,
            "at": str(START + timedelta(hours=i // 2)),
        }
        for i in range(17)
    ]
    (tmp_path / "clicks.json").write_text("\n".join(json.dumps(c) for c in reversed(clicks)))
    source = load_source(tmp_path / "clicks.toml")
    register_tables(spark, source, folder=tmp_path, rejected=None)
    recent_events(spark, source).write.parquet(str(tmp_path / "recent"))
    assert pq.read_table(tmp_path / "recent").num_rows == 12
    with open_service(tmp_path / "home", clock=lambda: START + timedelta(days=9)) as service:
        assert backfill(service.event_many, tmp_path / "recent") == Backfilled(12, 0, 3)
        before = service.subjects.recent("v1", as_of=START + timedelta(days=9))
        assert [e.event.item for e in before] == ["p7", "p10", "p13", "p16"]
        assert [e.event.value for e in before] == [7 / 4, 10 / 4, 13 / 4, 16 / 4]
        assert backfill(service.event_many, tmp_path / "recent") == Backfilled(0, 12, 3)
        assert service.subjects.recent("v1", as_of=START + timedelta(days=9)) == before
        with pytest.raises(InvalidInputError, match="holds no Parquet files"):
            backfill(service.event_many, tmp_path)

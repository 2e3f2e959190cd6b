"""One Spark session for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """A bounded local session, set for tables so tiny that planning and compiling them is all the work there is."""
    pytest.importorskip("pyspark", reason="missing tool: pyspark; pip install 'nextoffer[spark]'", exc_type=ImportError)
    from engine.sequences.spark import spark_session

    tiny = {
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    with spark_session(**tiny) as session:
        yield session

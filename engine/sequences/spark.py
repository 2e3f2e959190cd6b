"""One bounded Spark session: the same code runs in ``local[*]`` here and on a cluster through ``spark-submit``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.sequences.java import find_java_home
from policies.errors import MissingExtraError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOCAL = "local[2]"
# What is shuffled within one process crosses no network and is never fetched a second time from another try of a task.
_ONE_PROCESS = {
    "spark.shuffle.compress": "false",
    "spark.shuffle.checksum.enabled": "false",
    "spark.sql.shuffle.orderIndependentChecksum.enabled": "false",
}


def start_spark(
    *,
    master: str | None = None,
    driver_memory: str = "2g",
    shuffle_partitions: int = 8,
    options: Mapping[str, str] | None = None,
) -> SparkSession:
    """Start a session, or return the one of this process.

    Parameters
    ----------
    master
        Where it runs; ``local[2]`` unless ``SPARK_MASTER`` or ``spark-submit`` says otherwise.
    driver_memory
        Heap of local runs; only what a new Java process is started with counts.
    shuffle_partitions
        Of local runs; adaptive execution merges small ones. A cluster has settings of its own.

    Raises
    ------
    JavaNotFoundError
        If no Java is found.
    MissingExtraError
        If pyspark is not installed.
    """
    home = find_java_home()
    if home is not None:
        os.environ["JAVA_HOME"] = home
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    submitted = "SPARK_ENV_LOADED" in os.environ
    where = master or (None if submitted else os.environ.get("SPARK_MASTER", LOCAL))
    is_local = where is not None and where.startswith("local")
    if is_local:
        # Local work needs no name service, and some machines cannot resolve their own name.
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    try:
        with warnings.catch_warnings():
            # pyspark warns about pandas 3, which we do not use through it.
            warnings.simplefilter("ignore", FutureWarning)
            from pyspark.sql import SparkSession
    except ImportError as error:
        raise MissingExtraError("pyspark", "spark") from error
    builder = SparkSession.builder.appName("nextoffer")
    if where is not None:
        builder = builder.master(where)
    local = {
        "spark.driver.memory": driver_memory,
        "spark.sql.shuffle.partitions": str(shuffle_partitions),
        # Few big files would otherwise be dealt out unevenly.
        "spark.sql.files.minPartitionNum": str(shuffle_partitions),
        **_ONE_PROCESS,
    }
    settings = {
        **(local if is_local else {}),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.adaptive.enabled": "true",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        # Planning calls thousands of methods a few times each; compiling all of them took a tenth of a job's processor time.
        "spark.driver.extraJavaOptions": "-Duser.timezone=UTC -XX:CompileThresholdScaling=4",
        **(options or {}),
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    session: SparkSession = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


@contextmanager
def spark_session(**options: str) -> Iterator[SparkSession]:
    """A session that is stopped at the end: for jobs that are processes of their own."""
    session = start_spark(options=options or None)
    try:
        yield session
    finally:
        session.stop()

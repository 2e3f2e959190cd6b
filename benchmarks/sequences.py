"""Event sequences and sessions by Spark against DuckDB and Polars: raw events in Parquet to one row per decision point in Parquet.

Every engine reads the same files and writes the same rows; the rows are compared value by value. Each baseline runs in a process of its
own, in turn with Spark, which is warm (a session lives for the whole of a job). Parts can be chosen:

``ordinary``     subjects of at most 20,000 events, every one by the ordinary path
``heavy``        a fifth of the events belongs to twenty subjects, which go by the path with bounded memory
``sessions``     sessions with a gap of 30 minutes
``growth``       the ordinary part at a tenth of the size
``one-subject``  all events are one subject's
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks._figures import Figure, finish, parser
from benchmarks._sequence_engines import GAP_MINUTES, LAST_EVENTS
from benchmarks._sequence_events import LONGEST, write_world

PARTS = ("ordinary", "heavy", "sessions", "growth", "one-subject")
HEAVY_EVENTS = 50_000
HEAP_MIB = 3_072
Taken = dict[str, float]


class Spark:
    """One warm session and what its Java process has used."""

    def __init__(self) -> None:
        from engine.sequences.spark import start_spark

        self.session = start_spark(driver_memory=f"{HEAP_MIB}m", shuffle_partitions=8)
        self._pid = self.session.sparkContext._gateway.proc.pid

    def timed(self, job: Callable[[Path, Path], None], folder: Path, out: Path) -> Taken:
        """Run a job; seconds of wall and processor time, and the Java process's largest resident size so far."""
        started, cpu = time.monotonic(), self._cpu_seconds()
        job(folder, out)
        taken = {"seconds": time.monotonic() - started, "cpu_seconds": self._cpu_seconds() - cpu}
        status = Path(f"/proc/{self._pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        return {**taken, "peak_mib": peak / 1024}

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100.0

    def histories(self, folder: Path, out: Path) -> None:
        """As ``engine.sequences.build`` does it: words to ids, histories of each point, Parquet."""
        from engine.sequences.histories import PARQUET, histories
        from engine.sources.description import Sequence as Described

        words = {
            name: pq.read_table(folder / "words" / f"{name}.parquet")["word"].to_pylist()
            for name in ("event_type", "item")
        }
        events = self.session.read.parquet(str(folder / "events"))
        points = self.session.read.parquet(str(folder / "points.parquet"))
        described = Described(last_events=LAST_EVENTS, heavy_events=HEAVY_EVENTS)
        rows = histories(events, points, words=words, sequence=described)
        rows.write.mode("overwrite").options(**PARQUET).parquet(str(out))

    def sessions(self, folder: Path, out: Path) -> None:
        """Sessions, Parquet."""
        from engine.sequences.sessions import sessions

        events = self.session.read.parquet(str(folder / "events"))
        sessions(events, gap_minutes=GAP_MINUTES).write.mode("overwrite").parquet(str(out))


def baseline(engine: str, job: str, folder: Path, out: Path) -> Taken:
    """One job of DuckDB or Polars in a process of its own."""
    command = [sys.executable, "-m", "benchmarks._sequence_engines", engine, job, str(folder), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    taken: Taken = json.loads(done.stdout)
    return taken


def differing_rows(ours: Path, theirs: Path, *, job: str) -> int:
    """Rows of either side that the other has not got with the same values."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET threads = 2")
    if job == "sessions":
        columns = "subject, epoch_us(started_at) AS s, epoch_us(ended_at) AS e, n_events, amount"
        left, right = (f"SELECT {columns} FROM read_parquet('{p}')" for p in (f"{ours}/*.parquet", theirs))
    else:
        # Theirs hold instants, ours gaps: the same said twice.
        gaps = "list_prepend(0, list_transform(list_zip(second[2:], second[:-2]), lambda p: (p[1] - p[2])::INTEGER))"
        left = (
            f"SELECT point, event_type, item, value, gap_s, gap_to_as_of_s FROM read_parquet('{ours}/*.parquet') "
            "WHERE len(event_type) > 0"
        )
        right = (
            "SELECT point, event_type::INTEGER[] AS event_type, item::INTEGER[] AS item, value, "
            f"{gaps} AS gap_s, gap_to_as_of_s FROM read_parquet('{theirs}')"
        )
    query = f"SELECT count(*) FROM (({left}) EXCEPT ALL ({right}) UNION ALL ({right}) EXCEPT ALL ({left}))"
    found = connection.execute(query).fetchone()
    assert found is not None
    return int(found[0])


def against(
    spark: Spark, job: str, folder: Path, scratch: Path, *, engines: Sequence[str], runs: int
) -> dict[str, list[Taken]]:
    """Spark and the baselines in turn."""
    run: Callable[[Path, Path], None] = spark.histories if job == "histories" else spark.sessions
    taken: dict[str, list[Taken]] = {engine: [] for engine in ("spark", *engines)}
    for _ in range(runs):
        for engine in engines:
            taken[engine].append(baseline(engine, job, folder, scratch / f"{engine}.parquet"))
        taken["spark"].append(spark.timed(run, folder, scratch / "spark"))
        _say(f"{job}: " + ", ".join(f"{e} {t[-1]['seconds']:.1f} s" for e, t in taken.items()))
    return taken


def ratio_figures(
    name: str, taken: dict[str, list[Taken]], *, must: str, differing: int, about: str, can_judge: bool
) -> list[Figure]:
    """The ratio to the faster baseline of each run (the median judges), and the rows that differ."""
    ours = np.array([t["seconds"] for t in taken["spark"]])
    others = {e: np.array([t["seconds"] for t in rows]) for e, rows in taken.items() if e != "spark"}
    fastest = min(others, key=lambda e: float(np.median(others[e])))
    ratios = ours / np.min(list(others.values()), axis=0)
    middle = int(np.argsort(ratios)[len(ratios) // 2])
    cpu = {e: float(np.median([t["cpu_seconds"] for t in rows])) for e, rows in taken.items()}
    note = about + "; processor seconds: " + ", ".join(f"{e} {c:.1f}" for e, c in cpu.items())
    return [
        Figure(
            name=f"{name}_seconds",
            unit="s",
            ours=float(ours[middle]),
            baseline=(f"{fastest} (the faster)", float(min(o[middle] for o in others.values()))),
            must=must,
            judge_ratio=True,
            can_judge=can_judge,
            runs=len(ours),
            spread=[float(ratios.min()), float(ratios.max())],
            note=note,
        ),
        Figure(name=f"{name}_rows_that_differ", unit="rows", ours=float(differing), must="== 0"),
    ]


def measure(parts: Sequence[str], *, n_events: int, runs: int, seed: int, quick: bool, scratch: Path) -> list[Figure]:
    """Figures of the parts asked for."""
    figures: list[Figure] = []
    spark = Spark()
    small = scratch / "small"
    write_world(small, n_events=n_events // 10, seed=seed)
    spark.timed(spark.histories, small, scratch / "spark")  # Java compiles what it meets often
    engines = {"histories": ("duckdb", "duckdb-whole", "polars"), "sessions": ("duckdb", "polars")}
    usual = scratch / "usual"
    if {"ordinary", "sessions", "growth"} & set(parts):
        size = write_world(usual, n_events=n_events, seed=seed + 1)
        about = f"{size['events']:,} events of {size['subjects']:,} subjects, the longest {size['longest']:,} (at most {LONGEST:,}), {size['points']:,} points"
    if "ordinary" in parts:
        taken = against(spark, "histories", usual, scratch, engines=engines["histories"], runs=runs)
        differing = differing_rows(scratch / "spark", scratch / "duckdb.parquet", job="histories")
        figures += ratio_figures(
            "histories", taken, must="<= 2.5", differing=differing, about=about, can_judge=not quick
        )
    if "growth" in parts:
        whole = [spark.timed(spark.histories, usual, scratch / "spark") for _ in range(runs)]
        tenth = [spark.timed(spark.histories, small, scratch / "spark") for _ in range(runs)]
        figures.append(_growth(whole, tenth, n_events=n_events, can_judge=not quick))
    if "sessions" in parts:
        taken = against(spark, "sessions", usual, scratch, engines=engines["sessions"], runs=runs)
        differing = differing_rows(scratch / "spark", scratch / "duckdb.parquet", job="sessions")
        figures += ratio_figures(
            "sessions", taken, must="<= 8.0", differing=differing, about=about, can_judge=not quick
        )
    if "heavy" in parts:
        figures += _heavy(spark, n_events=n_events, runs=runs, seed=seed, quick=quick, scratch=scratch)
    if "one-subject" in parts:
        figures += _one_subject(spark, n_events=n_events, seed=seed, quick=quick, scratch=scratch)
    spark.session.stop()
    return figures


def _growth(whole: list[Taken], tenth: list[Taken], *, n_events: int, can_judge: bool) -> Figure:
    at_whole, at_tenth = (float(np.median([t["seconds"] for t in rows])) for rows in (whole, tenth))
    return Figure(
        name="histories_growth_tenfold",
        unit="s",
        ours=at_whole,
        baseline=(f"the same with {n_events // 10:,} events", at_tenth),
        must="<= 12.0",
        judge_ratio=True,
        can_judge=can_judge,
        runs=len(whole),
        spread=[min(t["seconds"] for t in whole) / at_tenth, max(t["seconds"] for t in whole) / at_tenth],
    )


def _heavy(spark: Spark, *, n_events: int, runs: int, seed: int, quick: bool, scratch: Path) -> list[Figure]:
    folder = scratch / "uneven"
    n_heavy = max(1, min(20, n_events // 5 // (HEAVY_EVENTS + 10_000)))
    size = write_world(
        folder, n_events=n_events, seed=seed + 2, heavy_subjects=n_heavy, heavy_share=0.2, points_each=10
    )
    taken = against(spark, "histories", folder, scratch, engines=("duckdb", "polars"), runs=runs)
    differing = differing_rows(scratch / "spark", scratch / "duckdb.parquet", job="histories")
    about = (
        f"{size['events']:,} events, a fifth of them of {n_heavy} subjects with {size['longest']:,} each, "
        f"beyond {HEAVY_EVENTS:,} by the bounded path"
    )
    return ratio_figures(
        "histories_uneven", taken, must="<= 4.5", differing=differing, about=about, can_judge=not quick
    )


def _one_subject(spark: Spark, *, n_events: int, seed: int, quick: bool, scratch: Path) -> list[Figure]:
    folder = scratch / "one"
    size = write_world(folder, n_events=n_events, seed=seed + 3, heavy_subjects=1, heavy_share=1.0, points_each=10)
    taken = spark.timed(spark.histories, folder, scratch / "spark")
    baseline("polars", "histories", folder, scratch / "polars.parquet")
    differing = differing_rows(scratch / "spark", scratch / "polars.parquet", job="histories")
    about = f"{size['longest']:,} events of one subject, {size['points']} points, heap {HEAP_MIB} MiB"
    return [
        Figure(name="one_subject_seconds", unit="s", ours=taken["seconds"], note=about),
        # Beyond the heap Java keeps code, threads and buffers; the bound says that nothing grows with the subject.
        Figure(
            name="one_subject_peak_memory",
            unit="MiB",
            ours=taken["peak_mib"],
            must=f"<= {HEAP_MIB + 1_024}",
            can_judge=not quick,
            note="largest resident size of the Java process over all parts run before",
        ),
        Figure(name="one_subject_rows_that_differ", unit="rows", ours=float(differing), must="== 0"),
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Run from the command line."""
    made = parser(__doc__)
    made.add_argument("--parts", default=",".join(PARTS), help=f"among {', '.join(PARTS)}")
    made.add_argument("--events", type=int, help="10,000,000; quick 400,000")
    made.add_argument("--runs", type=int, help="3; quick 1")
    options = made.parse_args()
    parts = [p for p in options.parts.split(",") if p]
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        made.error(f"unknown part {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    n_events = options.events or (400_000 if options.quick else 10_000_000)
    runs = options.runs or (1 if options.quick else 3)
    scratch = Path(tempfile.mkdtemp(prefix="nextoffer-sequences-"))
    try:
        figures = measure(
            parts,
            n_events=n_events,
            runs=runs,
            seed=options.seed,
            quick=options.quick or n_events < 10_000_000,
            scratch=scratch,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return finish("sequences", figures, quick=options.quick, path=options.json, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())

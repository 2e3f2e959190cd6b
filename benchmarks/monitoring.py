"""Monitoring: what a million decisions cost, how often healthy sites ring falsely, and whether each fault rings its own alarm alone.

The ledger is that of a rehearsed site (real service, learner, rewards, outcomes), multiplied by SQL. Beside the cost of taking it into
sums, the cost of only reading and parsing the same decisions in the same run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import orjson

from benchmarks._figures import Figure, finish, parser
from engine.monitoring.faults import FAULTS
from engine.monitoring.fold import CHUNK, refresh, start_anew
from engine.monitoring.health import check_health
from engine.monitoring.rehearsal import PLACEMENT, START, Rehearsal
from engine.store.database import Database

HEALTHY_DAYS = 5
_COPIES = {
    "decisions": "id || '-{r}', placement, subject || '-{r}', at_us + {r}, is_activated, experiment, phase, variant, policy, offer, propensity, body",
    "activations": "decision || '-{r}', at_us + {r}, shown",
    "rewards": "id || '-{r}', decision || '-{r}', kind, value, at_us + {r}",
    "outcomes": "id || '-{r}', subject || '-{r}', kind, value, at_us + {r}",
}


def main() -> int:
    """Measure, print, and return 1 where a rule is broken."""
    made = parser(__doc__)
    made.add_argument(
        "--sites", type=int, help="healthy sites, each with every fault once (default 20; 1 with --quick)"
    )
    options = made.parse_args()
    n_sites = options.sites or (1 if options.quick else 20)
    with tempfile.TemporaryDirectory() as folder:
        figures = _costs(Path(folder), options.seed, times=4 if options.quick else 40)
        figures += _faults(Path(folder), options.seed, n_sites=n_sites, is_quick=options.quick)
    return finish("monitoring", figures, quick=options.quick, path=options.json, seed=options.seed)


def _costs(folder: Path, seed: int, *, times: int) -> list[Figure]:
    site = Rehearsal(folder / "large", seed=seed)
    site.live(HEALTHY_DAYS)
    path = site.service.database.sqlite_path
    site.close()
    with Database(f"sqlite:///{path}") as database:
        _multiply(database, times)
        n = int(database.rows("SELECT count(*) FROM decisions")[0][0])
        ours, plain = [], []
        for _ in range(3):
            plain.append(_cpu_of(lambda: _only_read(database)))
            start_anew(database)
            ours.append(_cpu_of(lambda: refresh(database)))
        as_of = START + timedelta(days=HEALTHY_DAYS)
        read = [_cpu_of(lambda: check_health(database, PLACEMENT, as_of)) for _ in range(5)]
    scale = 1e6 / n
    return [
        Figure(
            "cpu_per_million_decisions", "s", min(ours) * scale, must="<= 432", aim="<= 60",
            baseline=("read and parse them", min(plain) * scale), runs=3, spread=[min(ours) * scale, max(ours) * scale],
            note=f"{n} decisions with activations, rewards and outcomes; 432 s are half a percent of a day of one core",
        ),
        Figure("cpu_per_look", "s", min(read), must="<= 1", runs=5, spread=[min(read), max(read)]),
    ]  # fmt: skip


def _multiply(database: Database, times: int) -> None:
    """Make each fact many, side by side in the ledger: the same days of a site with so many times the visitors."""
    moved = f"(ledger_offset - 1) * {times} + 1"
    with database.writing() as connection:
        run = connection.exec_driver_sql
        for table in (*_COPIES, "fact_keys"):
            run(f"UPDATE {table} SET ledger_offset = -({moved})")
            run(f"UPDATE {table} SET ledger_offset = -ledger_offset")
        for table, columns in _COPIES.items():
            for r in range(1, times):
                chosen = columns.format(r=r)
                run(
                    f"INSERT INTO {table} SELECT ledger_offset + {r}, {chosen} FROM {table} WHERE ledger_offset % {times} = 1"
                )
        for r in range(1, times):
            run(
                f"INSERT INTO fact_keys SELECT kind, id || '-{r}', digest, ledger_offset + {r} FROM fact_keys WHERE ledger_offset % {times} = 1"
            )
        run(f"UPDATE ledger_head SET next_offset = (next_offset - 1) * {times} + 1")


def _only_read(database: Database) -> None:
    for first in range(1, database.head(), CHUNK):
        for (body,) in database.rows(
            "SELECT body FROM decisions WHERE ledger_offset >= :first AND ledger_offset < :end", first=first, end=first + CHUNK
        ):  # fmt: skip
            orjson.loads(body)


def _cpu_of(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _faults(folder: Path, seed: int, *, n_sites: int, is_quick: bool) -> list[Figure]:
    """Every fault on copies of several sites; healthy days are looked at every six hours."""
    right: Counter[str] = Counter()
    n_looks = n_false = n_others = 0
    for i in range(n_sites):
        home = folder / f"site-{i}"
        base = Rehearsal(home, seed=1_000 * seed + i)
        looks = base.live(HEALTHY_DAYS, look_every_h=6)
        base.close()
        for k, fault in enumerate((None, *FAULTS)):
            site = base.copy(folder / f"site-{i}-{k}")
            found = site.live(2 if fault is None else 1, None if fault is None else fault.make(), look_every_h=6)
            site.close()
            if fault is None:
                looks += found
                continue
            right[fault.name] += [c.alarm for c in found[-1].ringing] == [fault.alarm]
            n_others += any(c.alarm != fault.alarm for report in found for c in report.ringing)
        n_looks += len(looks)
        n_false += sum(bool(report.ringing) for report in looks)
        print(f"site {i}: {n_false} of {n_looks} looks false, right {dict(right)}", file=sys.stderr, flush=True)
    rules = [
        Figure(
            f"right_alarm_alone, {fault.name}", "of sites", right[fault.name] / n_sites, must=">= 0.95",
            can_judge=not is_quick, runs=n_sites,
        )
        for fault in FAULTS
    ]  # fmt: skip
    return [
        *rules,
        Figure("another_alarm_on_the_way", "of faulty days", n_others / (n_sites * len(FAULTS)), must="<= 0.02", runs=n_sites),
        Figure(
            "false_alarms", "of looks at healthy sites", n_false / n_looks, must="<= 0.005", can_judge=not is_quick,
            runs=n_looks, note=f"{n_sites} sites of {HEALTHY_DAYS + 2} healthy days, four looks a day",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

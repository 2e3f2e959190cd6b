"""The same sums and the same report on PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from engine.monitoring.episodes import _open, _seen, follow, newest_episodes, open_episodes
from engine.monitoring.faults import AnotherOfferShown
from engine.monitoring.fold import refresh, start_anew
from engine.monitoring.health import check_health
from engine.monitoring.records import Check, HealthReport
from engine.monitoring.rehearsal import PLACEMENT, Rehearsal
from engine.store.database import Database
from engine.store.move import move
from tests.engine.service_world import START
from tests.engine.store.test_postgres import server, url  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow
_CELLS = "SELECT placement, hour, what, key, n, a, b, c FROM health_cells"


def test_both_stores_say_the_same(url: str, tmp_path: Path) -> None:  # noqa: F811
    """A day moved to PostgreSQL gives cell by cell the same sums, the same checks, and keeps its episodes."""
    site = Rehearsal(tmp_path / "home", seed=3, a_day=300)
    site.live(fault=AnotherOfferShown())
    with Database(url) as postgres:
        move(site.service.database, postgres)
        reports = []
        cells = []
        for database in (site.service.database, postgres):
            start_anew(database)
            refresh(database, until_offset=400)
            refresh(database)
            reports.append(check_health(database, PLACEMENT, site.now, registry=site.service.policies))
            cells.append(sorted(database.rows(_CELLS)))
        assert [c[:5] for c in cells[1]] == [c[:5] for c in cells[0]]
        for one, other in zip(*cells, strict=True):
            assert one[5:] == pytest.approx(other[5:], abs=1e-9)
        assert [(c.alarm, c.state, c.sentence) for c in reports[1].checks] == [
            (c.alarm, c.state, c.sentence) for c in reports[0].checks
        ]
        assert [c.alarm for c in reports[1].ringing] == ["shown"]
        follow(postgres, reports[1], quiet=timedelta(hours=1))
        assert [e.alarm for e in open_episodes(postgres, PLACEMENT)] == ["shown"]
    site.close()


def test_two_monitors_open_one_episode(url: str) -> None:  # noqa: F811
    """Of two that find an alarm ringing at once, the second waits for the first one's episode and goes on with it."""
    check = Check("silence", "ringing", "no reward for a day", 1.0, 0.5)
    first = HealthReport("shop", START, (check,), 10)
    second = replace(first, as_of=START + timedelta(seconds=1))
    quiet = timedelta(hours=1)
    with Database(url) as one, Database(url) as other, ThreadPoolExecutor(1) as pool:
        one.upgrade()
        with one.writing() as connection:
            assert _open(connection, "shop") == []
            _seen(connection, first, check.alarm, check.sentence, None)
            waiting = pool.submit(follow, other, second, quiet=quiet)
            with pytest.raises(TimeoutError):
                waiting.result(0.5)
        (lasting,), _ = waiting.result(10)
        assert (lasting.began_at, lasting.seen_at) == (START, second.as_of)
        assert len(newest_episodes(one)) == 1

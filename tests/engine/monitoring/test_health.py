"""Reports: alarms and their pages, what explains what, thresholds, sums that are made once, episodes."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest

from engine.decisions.requests import DecisionRequest, OutcomeRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.monitoring.alarms import ALARMS, alarm_of
from engine.monitoring.checks.integrity import propensity
from engine.monitoring.episodes import follow, newest_episodes, open_episodes
from engine.monitoring.fold import refresh, start_anew
from engine.monitoring.health import check_health
from engine.monitoring.placements import watched
from engine.monitoring.records import Check, HealthReport, ordered_and_explained
from engine.monitoring.thresholds import Thresholds
from engine.monitoring.window import window_of
from engine.store.database import Database
from policies.errors import InvalidInputError, UnknownNameError
from tests.engine.service_world import START, Clock, open_shop, shop

PAGES = Path(__file__).parents[3] / "docs" / "howto" / "alarms"


def test_every_alarm_has_a_page_and_every_page_an_alarm() -> None:
    """A page per alarm says what it means, how to look and what to do; the overview names all with what explains them."""
    assert {p.stem for p in PAGES.glob("*.md")} == {a.name for a in ALARMS} | {"README"}
    overview = (PAGES / "README.md").read_text(encoding="utf-8")
    for alarm in ALARMS:
        page = (PAGES / f"{alarm.name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {alarm.name}: {alarm.title[:1].lower()}{alarm.title[1:]}\n")
        assert all(f"**{part}**" in page for part in ("What it means.", "How to look.", "What to do."))
        row = next(line for line in overview.splitlines() if line.startswith(f"| [{alarm.name}]("))
        said = row.split("|")[3].strip()
        assert set(filter(None, said.split(", "))) == set(alarm.explained_by)


def test_every_threshold_is_named_on_a_page() -> None:
    """What may be set is documented, by name."""
    text = "".join(p.read_text(encoding="utf-8") for p in PAGES.glob("*.md"))
    assert [f.name for f in fields(Thresholds) if f.name not in text] == []


def test_what_another_alarm_explains_does_not_ring() -> None:
    """Doubled facts explain a calibration that is off; a stuck learner explains nothing; what was not looked at is off."""
    said = [Check("duplicates", "ringing", "x"), Check("calibration", "ringing", "y"), Check("learner", "ringing", "z")]
    report = HealthReport("shop", START, ordered_and_explained(said))
    assert [c.alarm for c in report.ringing] == ["duplicates", "learner"]
    assert report.check("calibration").state == "explained"
    assert report.check("calibration").explained_by.startswith("duplicates: ")
    assert report.check("shown").state == "off"
    assert not report.is_integrity_broken
    assert [c.alarm for c in report.checks] == [a.name for a in ALARMS]


def test_only_alarms_that_exist_explain_others() -> None:
    """Every declared cause is an alarm, none explains itself, and no two explain each other."""
    for alarm in ALARMS:
        for cause in alarm.explained_by:
            assert alarm.name not in alarm_of(cause).explained_by
    with pytest.raises(UnknownNameError, match="drift"):
        alarm_of("drfit")


def test_thresholds_are_checked_by_name_and_value() -> None:
    """A misspelt or impossible limit is refused; others stay at their defaults."""
    assert Thresholds.changed({"recent_decisions": 50, "drift_psi": 0.5}) == Thresholds(
        recent_decisions=50, drift_psi=0.5
    )
    with pytest.raises(UnknownNameError, match="drift_psi"):
        Thresholds.changed({"drift_ps": 1})
    with pytest.raises(InvalidInputError, match="above 0"):
        Thresholds.changed({"drift_psi": 0})


def _busy(folder: Path, clock: Clock) -> DecisionService:
    service = open_shop(folder, clock=clock, placements=(shop(explore_share=0.6),))
    requests = [
        DecisionRequest("shop", f"u{i}", {"country": ("de", "at")[i % 2], "n": float(i % 7)}, is_activated=i % 3 > 0)
        for i in range(60)
    ]
    answers = service.decide_many(requests)
    for answer in answers[:4]:
        service.activate(answer.decision.id, shown="c")
    service.reward_many([RewardRequest(a.decision.id, "subscribed", at=clock.now) for a in answers[:9]])
    service.outcome_many([OutcomeRequest(f"u{i}", "refund", 3.0, at=clock.forward(seconds=1)) for i in (1, 2, 99)])
    return service


def _cells(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT placement, hour, what, key, n, a, b, c FROM health_cells ORDER BY 1, 2, 3, 4")


def test_sums_are_the_same_in_one_go_or_in_many(tmp_path: Path) -> None:
    """However the ledger is cut, every fact counts once; reading again adds nothing, starting anew gives the same."""
    with _busy(tmp_path, Clock()) as service:
        database = service.database
        for offset in (7, 40, 41, 70):
            refresh(database, until_offset=offset)
        refresh(database)
        in_parts = _cells(database)
        assert refresh(database) == 0
        start_anew(database)
        assert refresh(database) == database.head() - 1
        assert [row[:5] for row in _cells(database)] == [row[:5] for row in in_parts]
        for one, other in zip(_cells(database), in_parts, strict=True):
            assert one[5:] == pytest.approx(other[5:], abs=1e-9)


def test_sums_are_those_of_the_log(tmp_path: Path) -> None:
    """Draws, probabilities, reports of pages and outcomes without a decision agree with a count by hand."""
    clock = Clock()
    with _busy(tmp_path, clock) as service:
        report = check_health(service.database, "shop", clock.now)
        figures = {(f.name, *sorted(f.labels.values())): f.value for f in report.figures}
        rows = service.database.rows("SELECT offer, count(*) FROM decisions GROUP BY offer")
        policy = service.database.rows("SELECT policy FROM decisions LIMIT 1")[0][0]
        for offer, n in rows:
            assert figures["health_draws", *sorted((policy, offer))] == n
        expected = sum(v for (name, *_), v in figures.items() if name == "health_draws_expected")
        assert expected == pytest.approx(60)
        assert figures["health_pages_reporting",] == 4
        assert figures["health_facts", "subscribed"] == 9
        # Of the subjects 1, 2 and 99 the last has seen nothing; what the second was shown was not said to be seen only by every third.
        assert figures["health_outcomes_unattributed", "refund"] == 1
        assert report.n_decisions == 60


def test_a_log_that_was_changed_rings(tmp_path: Path) -> None:
    """Probabilities that are not those drawn from are found: here every second draw of an offer is rewritten to another."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock, placements=(shop(explore_share=0.9),)) as service:
        service.decide_many([DecisionRequest("shop", f"u{i}") for i in range(600)])
        with service.database.writing() as connection:
            connection.exec_driver_sql(
                "UPDATE decisions SET body = CAST(replace(CAST(body AS TEXT), '\"c\":1', '\"c\":2') AS BLOB) WHERE ledger_offset % 2 = 0"
            )
        report = check_health(service.database, "shop", clock.now)
        assert [c.alarm for c in report.ringing] == ["propensity"]
        assert report.is_integrity_broken
        assert "drew" in report.check("propensity").sentence


def test_an_alarm_has_one_episode_however_often_it_is_read(tmp_path: Path) -> None:
    """It begins once, lasts while it rings or is explained, and ends after it has been quiet long enough."""
    quiet = timedelta(hours=6)

    def report(hour: float, state: str) -> HealthReport:
        check = Check("calibration", state, f"hour {hour}")  # type: ignore[arg-type]  # as written by the test
        return HealthReport("shop", START + timedelta(hours=hour), (check,))

    with open_shop(tmp_path) as service:
        database = service.database
        for hour, state in ((0, "ringing"), (1, "ringing"), (2, "explained"), (3, "ok")):
            lasting, ended = follow(database, report(hour, state), quiet=quiet)
            assert [e.began_at for e in lasting] == [START]
            assert ended == []
        assert [e.sentence for e in open_episodes(database)] == ["hour 2"]
        lasting, ended = follow(database, report(8.5, "ok"), quiet=quiet)
        assert lasting == []
        assert [(e.alarm, e.seen_at) for e in ended] == [("calibration", START + timedelta(hours=2))]
        follow(database, report(9, "ringing"), quiet=quiet)
        assert [e.began_at for e in newest_episodes(database)] == [START + timedelta(hours=9), START]
        assert open_episodes(database, "elsewhere") == []


def test_a_day_of_false_probabilities_is_found_whatever_came_before(tmp_path: Path) -> None:
    """Each day begins a run of its own, so that weeks of true draws do not outweigh one false day."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock, placements=(shop(explore_share=0.9),)) as service:
        service.decide_many([DecisionRequest("shop", f"u{i}") for i in range(400)])
        refresh(service.database)
        rows = service.database.rows("SELECT key, n, a, b FROM health_cells WHERE what = 'offer'")
        hour = service.database.rows("SELECT max(hour) FROM health_cells WHERE what = 'offer'")[0][0]
        with service.database.writing() as connection:
            for key, n, a, b in rows:  # the same true day, fifty times as busy, on each of four days before
                for day in range(1, 5):
                    connection.exec_driver_sql(
                        "INSERT INTO health_cells VALUES ('shop', ?, 'offer', ?, ?, ?, ?, 0)",
                        (hour - 24 * day, key, round(50 * a), 50 * a, 50 * b),
                    )
                connection.exec_driver_sql(
                    "UPDATE health_cells SET a = ? WHERE what = 'offer' AND hour = ? AND key = ?",
                    (n * (0.5 if key.endswith("a") else 1.5), hour, key),
                )
        place = watched(service.database, "shop")["shop"]
        window = window_of(service.database, place, as_of=clock.now, limits=Thresholds())
        assert propensity(window).state == "ringing"

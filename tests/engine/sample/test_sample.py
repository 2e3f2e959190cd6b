"""The sample: real facts of made-up visitors in a folder of its own, repeatable, and gone when it is removed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from engine.decisions.opening import open_service
from engine.decisions.service import DecisionService
from engine.experiments.moments import latest_moment
from engine.experiments.reading import take_reading
from engine.sample.content import TRIALS, catalogue
from engine.sample.fill import SampleConfig, fill
from engine.sample.folder import SampleFolder, write_progress
from engine.store import tables
from policies.errors import StateError

ENDS_AT = datetime(2026, 6, 1, tzinfo=UTC)
CONFIG = SampleConfig(ENDS_AT, scale=0.02)


@pytest.mark.slow
def test_a_sample_is_what_simulated_visitors_left_in_the_log(tmp_path: Path) -> None:
    """Every experiment's visitors are the site's, every decision was drawn and logged by its policy, the last day ends when it should, and a second filling draws the same."""
    told: list[float] = []
    fill(tmp_path / "one", CONFIG, on_progress=lambda share, _: told.append(share))
    fill(tmp_path / "two", replace(CONFIG, has_reports=False))
    assert told == sorted(told)
    assert told[-1] == 1.0
    with open_service(tmp_path / "one") as one, open_service(tmp_path / "two") as two:
        assert _drawn(one) == _drawn(two)
        moment = latest_moment(one.database)
        assert moment is not None
        assert timedelta() < ENDS_AT - moment < timedelta(minutes=1)
        states = {e.id: e.state for e in one.experiments.list()}
        assert states["same-for-both"] == "stopped"
        assert (states["win-back"], states["lower-first-price"]) == ("draft", "scheduled")
        for trial in TRIALS:
            reading = take_reading(one.database, one.experiments.get(trial.id), as_of=moment, in_simulation=True)
            assert 0 < reading.n_subjects <= max(40, round(trial.n_subjects * CONFIG.scale))
        with one.database.reading() as connection:
            deciders = set(connection.execute(select(tables.decisions.c.policy).distinct()).scalars())
        # Nobody was answered by a lower rung: a filling is in no hurry.
        assert {d.partition("@")[0] for d in deciders} == {"incumbent", "personal", "suv_first", "incumbent_again"}
    assert {p.suffix for p in (tmp_path / "one" / "reports").iterdir()} == {".html", ".json"}


def _drawn(service: DecisionService) -> list[tuple[object, ...]]:
    d = tables.decisions
    with service.database.reading() as connection:
        rows = connection.execute(select(d.c.subject, d.c.at_us, d.c.offer, d.c.propensity, d.c.variant).order_by(d.c.ledger_offset)).all()  # fmt: skip
    assert rows
    return [tuple(r) for r in rows]


def test_a_sample_folder_knows_how_it_stands(tmp_path: Path) -> None:
    """Nothing, then whole, then nothing again: the store beside it is never touched."""
    folder = SampleFolder(tmp_path)
    (tmp_path / "nextoffer.db").write_text("one's own")
    assert folder.state().state == "none"
    with pytest.raises(StateError, match="no sample to remove"):
        folder.remove()
    folder.draft.mkdir()
    write_progress(folder.draft, 0.5, "policies")
    (folder.draft / "nextoffer.db").touch()
    folder.draft.rename(folder.path)
    assert folder.state().state == "ready"
    folder.begin("en")  # it is there: nothing is begun again
    folder.remove()
    assert folder.state().state == "none"
    assert [p.name for p in tmp_path.iterdir()] == ["nextoffer.db"]


def test_offers_of_the_sample_carry_a_picture_and_the_simulators_features() -> None:
    """Policies see what the simulator's laws are about; visitors see a title in their language and a drawing without an address."""
    for english, russian in zip(catalogue("en"), catalogue("ru"), strict=True):
        assert english.offer.features == russian.offer.features
        assert english.offer.payload["title"] != russian.offer.payload["title"]
        assert str(english.offer.payload["image"]).startswith("data:image/svg+xml,")

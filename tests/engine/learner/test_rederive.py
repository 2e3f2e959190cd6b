"""Re-derivation: what was logged of subjects and learned comes out of the raw facts again, and what does not is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.decisions.requests import DecisionRequest, EventRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.learner.learner import Learner
from engine.learner.rederive import rederive
from policies.features import FeatureSpace
from policies.linear import LinTS
from policies.records import Context, DecisionTable, Event, SubjectId
from tests.engine.learner.test_learner import HOUR
from tests.engine.service_world import START, Clock, open_shop, shop


@dataclass
class Counts:
    """An encoder that is easy to check by hand: how many events, how many views, minutes since the last one."""

    version: str = "v1"
    width: int = 3

    def encode_events(self, events: Sequence[Event], *, as_of: datetime) -> NDArray[np.float32]:
        """State after the events strictly before ``as_of``."""
        minutes = (as_of - events[-1].at) / timedelta(minutes=1) if events else 0.0
        return np.asarray([len(events), sum(e.kind == "view" for e in events), minutes], dtype=np.float32)


class Lab:
    """A shop whose decisions carry a state vector, and whose policy learns from it."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.service: DecisionService = open_shop(folder, clock=self.clock)
        contexts = [
            Context(SubjectId("u"), {"x": float(i)}, {"sequence": (float(i), 0.5 * i, 1.0 - i)}) for i in range(4)
        ]
        table = DecisionTable.from_contexts(shop().offer_set, contexts)
        policy = LinTS(FeatureSpace.fit(table))
        self.ref = str(self.service.policies.register(policy.to_artifact(), name="lints", at=START))
        self.service.put_placement(shop(policy=self.ref, reward=HOUR))
        self.encoder = Counts()
        self._name_encoder()

    def _name_encoder(self) -> None:
        """The placement names an encoder that only this test knows; what loads it is handed in."""
        placement = shop(policy=self.ref, reward=HOUR, encoder="counts@1")
        with self.service.database.writing() as connection:
            connection.exec_driver_sql(
                "UPDATE placements SET document = ?, revision = 3", (json.dumps(placement.to_json()),)
            )
            connection.exec_driver_sql(
                "INSERT INTO audit (at_us, actor, action, what, document) VALUES (0, '', 'put', 'placement shop', ?)",
                (json.dumps(placement.to_json()),),
            )
            connection.exec_driver_sql("UPDATE ledger_head SET config_revision = config_revision + 1")
        self.service.refresh()
        self.service._pipeline._encoders["counts@1"] = self.encoder

    def day(self) -> None:
        """Visitors browse, are decided for, and sometimes click."""
        for i in range(80):
            self.clock.forward(minutes=1)
            subject = f"u{i % 9}"
            if i % 3:
                self.service.event(EventRequest(subject, "view" if i % 2 else "cart", f"p{i}", id=f"e{i}"))
            self.clock.forward(seconds=30)
            self.service.decide(DecisionRequest("shop", subject, {"x": float(i % 4)}, id=f"d{i}"))
            if i % 4 == 0:
                self.service.reward(RewardRequest(f"d{i}", "click"))
        # A late event: it happened before many decisions, and was not known when they were made.
        self.service.event(EventRequest("u1", "view", "late", id="late", at=START + timedelta(minutes=5)))
        self.clock.forward(hours=2)


def test_vectors_and_states_come_out_of_raw_events_again(tmp_path: Path) -> None:
    """Every logged vector equals the one from raw events up to its cursor, a late event apart; the learned state follows."""
    lab = Lab(tmp_path)
    lab.day()
    learner = Learner(
        lab.service.database, lab.service.policies, placement="shop", definition=HOUR, ref=lab.ref, clock=lab.clock
    )
    learner.tick()
    assert learner.publish() == 1

    found = rederive(lab.service.database, lab.service.policies, load_encoder=lambda _: lab.encoder)
    assert (found.n_vectors, found.largest_vector_difference) == (80, 0.0)
    assert (found.n_states, found.largest_state_difference, found.is_clean) == (1, 0.0, True)
    with lab.service.database.writing() as connection:
        connection.exec_driver_sql("UPDATE events SET kind = 'view' WHERE id = 'e4'")
    changed = rederive(lab.service.database, lab.service.policies, load_encoder=lambda _: lab.encoder)
    assert changed.largest_vector_difference == 1.0
    assert changed.largest_state_difference > 0.0
    assert not changed.is_clean
    assert any(name.startswith("decision d") for name in changed.different)
    lab.service.erase("u4")
    erased = rederive(lab.service.database, lab.service.policies, load_encoder=lambda _: lab.encoder)
    assert erased.n_vectors == 71
    assert any("erased" in reason for reason in erased.not_recomputed)
    lab.service.close()


def test_an_encoder_that_is_gone_is_named(tmp_path: Path) -> None:
    """Nothing is skipped silently: without its encoder a vector counts as not recomputed."""
    lab = Lab(tmp_path)
    lab.day()
    found = rederive(lab.service.database, lab.service.policies)
    assert found.n_vectors == 0
    assert found.not_recomputed == {"the encoder is not in the registry any more": 80}
    lab.service.close()

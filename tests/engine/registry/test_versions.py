"""Registered versions: kept whole, loaded once, served as variants, found by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.decisions.requests import DecisionRequest
from engine.experiments.records import Experiment
from engine.store.changes import Change
from policies.allocation import Variant
from policies.artifact import Artifact, save_artifact
from policies.errors import ArtifactError, InvalidInputError, UnknownNameError
from policies.features import FeatureSpace
from policies.linear import LinTS
from policies.records import Context, DecisionTable, InteractionBatch, SubjectId
from policies.sampling import decide
from tests.engine.service_world import START, open_shop, shop


def contexts_of(n: int) -> DecisionTable:
    """Decisions of the shop with a number and a text."""
    rng = np.random.default_rng(1)
    made = [
        Context(SubjectId(f"u{i}"), {"x": float(rng.normal()), "country": "de" if i % 3 else "at"}) for i in range(n)
    ]
    return DecisionTable.from_contexts(shop().offer_set, made)


def fitted() -> LinTS:
    """A linear Thompson policy that has seen a little of the shop."""
    rng, n, table = np.random.default_rng(2), 60, contexts_of(60)
    policy = LinTS(FeatureSpace.fit(table))
    chosen = rng.integers(0, table.n_offers, n)
    policy.learn(InteractionBatch(table, chosen, np.full(n, 1 / 3), (chosen == 1) * 1.0 * rng.random(n)))
    return policy


def test_a_served_policy_answers_as_it_does_in_a_notebook(tmp_path: Path) -> None:
    """The logged distribution is that of ``decide`` on the same table; the log names version and feature space."""
    policy = fitted()
    with open_shop(tmp_path) as service:
        folder = save_artifact(policy.to_artifact(), tmp_path / "elsewhere")
        ref = service.policies.register(folder, name="lints", at=START)
        service.put_placement(shop(policy=str(ref)))
        decision = service.decide(DecisionRequest("shop", "u1", {"x": 0.5, "country": "at"}, id="d1")).decision
    table = DecisionTable.from_contexts(
        shop().offer_set, [Context(SubjectId("u1"), {"x": 0.5, "country": "at"}, at=START)]
    )
    expected = decide(policy, table, uniforms=np.asarray([decision.uniform]))
    assert decision.rung == "policy"
    assert decision.probabilities == tuple(expected.probabilities[0].tolist())
    assert decision.chosen == expected.chosen[0]
    assert (decision.policy, decision.feature_space) == (ref, FeatureSpace.fit(contexts_of(60)).hash)


def test_variants_are_served_by_their_own_versions(tmp_path: Path) -> None:
    """In an experiment each subject's decision comes from the version of its variant."""
    with open_shop(tmp_path) as service:
        ref = service.policies.register(fitted().to_artifact(), name="lints", at=START)
        variants = (Variant("old", 5_000, "baseline"), Variant("new", 5_000, str(ref)))
        service.experiments.create(Experiment("e1", "shop", variants), change=Change(START))
        service.experiments.start("e1", revision=1, change=Change(START))
        service.refresh()
        decisions = [
            service.decide(DecisionRequest("shop", f"u{i}", {"x": 0.1, "country": "de"})).decision for i in range(20)
        ]
    assert {(d.variant, d.policy.name, d.rung) for d in decisions} == {
        ("old", "baseline", "baseline"),
        ("new", "lints", "policy"),
    }


def test_registering_twice_keeps_one_version_and_a_damaged_file_is_found(tmp_path: Path) -> None:
    """The same content is the same version; a changed byte is refused when it is loaded."""
    with open_shop(tmp_path) as service:
        ref = service.policies.register(fitted().to_artifact(), name="lints", at=START)
        assert service.policies.register(fitted().to_artifact(), name="lints", at=START) == ref
        assert [v.ref for v in service.policies.versions()] == [ref]
        assert service.policies.find("lints").ref == ref
        victim = next((tmp_path / "artifacts" / "lints" / ref.version / "arrays").iterdir())
        victim.write_bytes(victim.read_bytes()[:-1] + b"\x07")
        with pytest.raises(ArtifactError, match="does not match its hash"):
            service.policies.load(str(ref))


def test_what_is_no_policy_is_refused(tmp_path: Path) -> None:
    """Unknown kinds, misspelt names and names that would leave the folder."""
    with open_shop(tmp_path) as service:
        with pytest.raises(ArtifactError, match="'teapot'"):
            service.policies.register(Artifact("teapot"), name="x", at=START)
        for name in ("", "a/b", "a@b", ".hidden", "baseline"):
            with pytest.raises(InvalidInputError, match="name"):
                service.policies.register(fitted().to_artifact(), name=name, at=START)
        service.policies.register(fitted().to_artifact(), name="lints", at=START)
        with pytest.raises(UnknownNameError, match="did you mean"):
            service.policies.load("lint")

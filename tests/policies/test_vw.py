"""The Vowpal Wabbit adapter against VW's own text door, and its guards."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.records import DecisionTable, InteractionBatch, Offer, OfferId, OfferSet
from policies.vw import VowpalWabbit
from tests.policies.worlds import batch, table

SPACE = FeatureSpace.fit(table())


@pytest.mark.parametrize("explorer", ["squarecb", "epsilon", "softmax"])
def test_the_adapter_learns_what_vw_learns_from_text(explorer: str) -> None:
    """The same events as text with numeric feature names, through VW's parser, give the same distribution to 1e-6."""
    vw = pytest.importorskip("vowpal_wabbit_next", reason="missing tool: vowpal_wabbit_next")
    from policies.vw import EXPLORERS

    b, new = batch(150), table(9, seed=5)
    ours = VowpalWabbit(SPACE, explorer=explorer)  # type: ignore[arg-type]
    ours.learn(b)
    native = vw.Workspace(
        ["--cb_explore_adf", *EXPLORERS[explorer], "--cb_type", "mtr", "-q", "co", "-l", "0.5", "-b", "18", "--quiet", "--random_seed", "1"]
    )  # fmt: skip
    parser = vw.TextFormatParser(native)

    def lines(row: int, t: object, label: tuple[int, float, float] | None) -> list[object]:
        contexts, offers = SPACE.encode_contexts(t), SPACE.encode_offers(t.offers)  # type: ignore[arg-type,attr-defined]
        out = [parser.parse_line(f"shared |c {_text(ours._context_hashes, contexts[row])}")]
        for i in np.flatnonzero(t.eligible[row]):  # type: ignore[attr-defined]
            prefix = f"0:{label[1]}:{label[2]} " if label and label[0] == i else ""
            out.append(parser.parse_line(f"{prefix}|o {_text(ours._offer_hashes, offers[i])}"))
        return out

    for row in range(len(b)):
        native.learn_one(lines(row, b.table, (int(b.chosen[row]), -b.reward[row], b.propensity[row])))
    p = ours.probabilities(new)
    for row in range(len(new)):
        allowed = np.flatnonzero(new.eligible[row])
        for position, probability in native.predict_one(lines(row, new, None)):
            assert p[row, allowed[position]] == pytest.approx(probability, abs=1e-6)


def _text(
    hashes: np.ndarray[tuple[int, ...], np.dtype[np.uint64]], x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> str:
    return " ".join(f"{h}:{v!r}" for h, v in zip(hashes.tolist(), x.tolist(), strict=True) if v)


def test_rewards_beyond_reason_change_nothing() -> None:
    """A reward of 1e30 is refused before anything of its batch is learned."""
    policy, b = VowpalWabbit(SPACE), batch()
    policy.learn(b)
    before = policy.probabilities(b.table)
    with pytest.raises(InvalidInputError, match="reward is larger than 1e\\+06 in 1 rows, the first at 40"):
        policy.learn(replace(b, reward=np.append(b.reward[:-1], 1e30)))
    assert np.array_equal(policy.probabilities(b.table), before)


def test_predictions_do_not_change_what_is_learned() -> None:
    """Serving between two batches leaves the model as if nothing had been asked."""
    b, quiet, busy = batch(), VowpalWabbit(SPACE), VowpalWabbit(SPACE)
    for rows in (slice(0, 20), slice(20, 41)):
        quiet.learn(b.take(rows))
        busy.learn(b.take(rows))
        busy.probabilities(b.table)
    assert np.array_equal(quiet.probabilities(b.table), busy.probabilities(b.table))


def test_two_new_offers_alike_in_all_features_are_still_told_apart() -> None:
    """An offer's id is a feature even where the space was fitted without it."""
    t = table(60)
    offers = OfferSet([Offer(OfferId(i), {"kind": "a"}) for i in ("x", "y", "z")])
    twins = replace(t, offers=offers, eligible=np.ones((60, 3), dtype=np.bool_))
    policy = VowpalWabbit(FeatureSpace.fit(twins, identify_offers=False))
    chosen = np.arange(60) % 3
    policy.learn(InteractionBatch(twins, chosen, np.full(60, 1 / 3), (chosen == 1).astype(np.float64)))
    assert policy.probabilities(twins)[:, 1].min() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("--cover", "3"), ("--bag", "3"), ("--rnd", "2"), ("--synthcover",), ("--first", "2")]
)
def test_the_other_explorers_can_be_built_and_learn(arguments: tuple[str, ...]) -> None:
    """What is not first-class still gives distributions through the adapter, in a process of its own."""
    code = (
        "import numpy as np\n"
        "from tests.policies.worlds import batch\nfrom policies.features import FeatureSpace\nfrom policies.vw import VowpalWabbit\n"
        f"b = batch(); p = VowpalWabbit(FeatureSpace.fit(b.table), arguments={arguments!r}); p.learn(b)\n"
        "q = p.probabilities(b.table); assert np.allclose(q.sum(axis=1), 1); assert (q[~b.table.eligible] == 0).all()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_explorers_and_nonsense_parameters_are_refused() -> None:
    """The text lists what there is."""
    with pytest.raises(InvalidInputError, match="expected one of"):
        VowpalWabbit(SPACE, explorer="square")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="bits"):
        VowpalWabbit(SPACE, bits=40)


@pytest.mark.parametrize(
    ("explorer", "cb_type"),
    [
        ("first", "mtr"), ("bag", "mtr"), ("bag", "dm"), ("cover", "mtr"), ("cover", "ips"), ("synthcover", "mtr"), ("rnd", "mtr"),
        ("epsilon", "dr"), ("epsilon", "ips"), ("epsilon", "dm"), ("softmax", "dr"),
    ],
)  # fmt: skip
def test_every_explorer_and_cb_type_learns_and_acts(explorer: str, cb_type: str) -> None:
    """Each can be built, learns, gives a distribution over what is eligible, and prefers the offer that pays."""
    policy = VowpalWabbit(SPACE, explorer=explorer, cb_type=cb_type, bits=14)  # type: ignore[arg-type]
    b = batch(600)
    everyone = replace(b.table, eligible=np.ones_like(b.table.eligible))
    chosen = np.arange(600) % 5
    policy.learn(InteractionBatch(everyone, chosen, np.full(600, 0.2), (chosen == 2).astype(np.float64)))
    p = policy.probabilities(b.table)
    assert p.sum(axis=1) == pytest.approx(1.0)
    assert (p[~b.table.eligible] == 0).all()
    assert policy.probabilities(everyone).mean(axis=0).argmax() == 2


def test_explorers_that_need_a_regression_refuse_others() -> None:
    """SquareCB over importance weights has no meaning in VW: refused, like namespaces that do not exist."""
    with pytest.raises(InvalidInputError, match="'mtr' for squarecb"):
        VowpalWabbit(SPACE, cb_type="dr")
    with pytest.raises(InvalidInputError, match="letters c"):
        VowpalWabbit(SPACE, interactions=("cx",))


def test_interactions_find_what_pairs_decide() -> None:
    """An offer liked where exactly one of two features is high is found with triples, and not with pairs."""
    rng = np.random.default_rng(0)
    n = 6_000
    offers = OfferSet([Offer(OfferId("a")), Offer(OfferId("b"))])
    columns = {"x": rng.choice([-1.0, 1.0], n), "y": rng.choice([-1.0, 1.0], n)}
    t = DecisionTable(offers, np.ones((n, 2), dtype=np.bool_), columns)
    chosen = rng.integers(0, 2, n)
    reward = ((columns["x"] * columns["y"] > 0) == (chosen == 0)).astype(np.float64)
    log, space = InteractionBatch(t, chosen, np.full(n, 0.5), reward), FeatureSpace.fit(t)
    right = []
    for interactions in (("co",), ("co", "cco")):
        policy = VowpalWabbit(space, interactions=interactions, bits=16)
        policy.learn(log)
        p = policy.probabilities(t)
        right.append(float(np.where(columns["x"] * columns["y"] > 0, p[:, 0], p[:, 1]).mean()))
    assert right[0] < 0.75  # what is left is chasing the last rows
    assert right[1] > 0.9


def test_parts_of_a_log_learned_apart_are_merged() -> None:
    """Two copies that learned half each make one policy that earns clearly more than uniform, and has seen everything."""
    from policies.vw import load, merge_trained
    from tests.policies.worlds import success_rate

    base, b = VowpalWabbit(SPACE, explorer="softmax"), batch(4_000, seed=4)
    base.learn(b.take(slice(0, 400)))
    parts = []
    for rows in (slice(400, 2_200), slice(2_200, 4_000)):
        copy = load(base.to_artifact())
        copy.learn(b.take(rows))
        parts.append(copy)
    merged, t = merge_trained(base, parts), table(500, seed=9)
    assert merged.n_seen == 4_000
    rate = success_rate(t)
    earned = [(p.probabilities(t) * rate).sum(axis=1).mean() for p in (base, merged)]
    assert earned[1] > earned[0]
    with pytest.raises(InvalidInputError, match="copy of the base"):
        merge_trained(base, [parts[0], VowpalWabbit(SPACE, explorer="softmax", bits=15)])
    small, careful = VowpalWabbit(SPACE, explorer="softmax", bits=15), VowpalWabbit(SPACE)
    with pytest.raises(InvalidInputError, match="bits 15"):
        merge_trained(small, [small, small])
    with pytest.raises(InvalidInputError, match="counter is lost"):
        merge_trained(careful, [careful, careful])


def _pages(n: int, *, seed: int = 0) -> InteractionBatch:
    """Two slots a page; the first shows "a" in half of the pages, so that the second has it no more. Each slot likes its own."""
    rng = np.random.default_rng(seed)
    offers = OfferSet([Offer(OfferId(o)) for o in "abc"])
    slot = np.asarray(["hero", "side"])[np.arange(n) % 2]
    eligible = np.ones((n, 3), dtype=np.bool_)
    eligible[1::2, 0] = rng.random(n // 2) < 0.5
    t = DecisionTable(offers, eligible, {"slot": slot, "slot.size": rng.normal(size=n), "visits": rng.normal(size=n)})
    chosen = np.asarray([rng.choice(np.flatnonzero(row)) for row in eligible])
    liked = np.where(slot == "hero", 0, 2)
    return InteractionBatch(t, chosen, 1.0 / eligible.sum(axis=1), (chosen == liked).astype(np.float64))


@pytest.mark.parametrize("form", ["cb", "ccb"])
def test_slots_of_a_page_are_told_apart_by_their_features(form: str) -> None:
    """With the slot given and earlier offers taken out, each slot learns its own best offer, in both of VW's forms."""
    log = _pages(4_000)
    slot = log.table.columns["slot"]
    policy = VowpalWabbit(FeatureSpace.fit(log.table), bits=12, form=form)  # type: ignore[arg-type]
    policy.learn(log)
    p = policy.probabilities(log.table)
    assert p[slot == "hero", 0].mean() > 0.9
    assert p[slot == "side", 2].mean() > 0.9


@pytest.mark.parametrize("explorer", ["squarecb", "epsilon"])
def test_slots_are_learned_as_vw_learns_them_from_text(explorer: str) -> None:
    """The same slots as VW's own conditional text, what is placed not among the actions, give the same distribution to 1e-6."""
    vw = pytest.importorskip("vowpal_wabbit_next", reason="missing tool: vowpal_wabbit_next")
    from policies.vw import EXPLORERS

    log, new = _pages(200), _pages(14, seed=5).table
    space = FeatureSpace.fit(log.table)
    ours = VowpalWabbit(space, form="ccb", explorer=explorer)  # type: ignore[arg-type]
    ours.learn(log)
    native = vw.Workspace(
        ["--ccb_explore_adf", *EXPLORERS[explorer], "--cb_type", "mtr", "--interactions", "co", "--interactions", "so", "-l", "0.5",
         "-b", "18", "--quiet", "--random_seed", "1"]
    )  # fmt: skip
    parser = vw.TextFormatParser(native)
    is_slot = np.asarray([n.name.startswith("slot") for n in space.context_names])

    def lines(row: int, t: DecisionTable, label: tuple[int, float, float] | None) -> list[object]:
        x, offers = space.encode_contexts(t)[row], space.encode_offers(t.offers)
        allowed = np.flatnonzero(t.eligible[row]).tolist()
        told = f"{allowed.index(label[0])}:{label[1]}:{label[2]} " if label else ""
        text = [f"ccb shared |c {_text(ours._context_hashes[~is_slot], x[~is_slot])}"]
        text += [f"ccb action |o {_text(ours._offer_hashes, offers[i])}" for i in allowed]
        text.append(f"ccb slot {told}|s {_text(ours._context_hashes[is_slot], x[is_slot])}")
        return [parser.parse_line(line) for line in text]

    for row in range(len(log)):
        native.learn_one(lines(row, log.table, (int(log.chosen[row]), -log.reward[row], log.propensity[row])))
    p = ours.probabilities(new)
    for row in range(len(new)):
        allowed = np.flatnonzero(new.eligible[row])
        for position, probability in native.predict_one(lines(row, new, None))[0]:
            assert p[row, allowed[position]] == pytest.approx(probability, abs=1e-6)


def test_a_slot_asked_alone_gets_what_vw_gives_it_after_the_slots_above() -> None:
    """VW's answer for a second slot, the first fixed to what was shown there, leaves that offer out and sums to one.

    It also shows why a page is not asked for as a whole: with the first slot free, VW draws it itself, and the answer for the
    second is given that draw.
    """
    vw = pytest.importorskip("vowpal_wabbit_next", reason="missing tool: vowpal_wabbit_next")
    native = vw.Workspace(["--ccb_explore_adf", "--epsilon", "0.9", "--quiet", "--random_seed", "1"])
    parser = vw.TextFormatParser(native)

    def page(first: str) -> list[object]:
        text = [
            "ccb shared |c x:1",
            *(f"ccb action |o {o}:1" for o in "abc"),
            f"ccb slot {first}|s hero:1",
            "ccb slot |s side:1",
        ]
        return [parser.parse_line(line) for line in text]

    fixed = native.predict_one(page("1 "))
    assert fixed[0] == [(1, 1.0)]
    assert sorted(action for action, _ in fixed[1]) == [0, 2]
    assert sum(p for _, p in fixed[1]) == pytest.approx(1.0, abs=1e-6)
    free = native.predict_one(page(""))
    assert free[0][0][0] not in {action for action, _ in free[1]}


def test_slots_need_a_slot() -> None:
    """Without a feature that describes the slot, the conditional form has nothing to condition on."""
    with pytest.raises(InvalidInputError, match="needs the slot among the features"):
        VowpalWabbit(SPACE, form="ccb")
    with pytest.raises(InvalidInputError, match=re.escape("expected one of ['cb', 'ccb']")):
        VowpalWabbit(SPACE, form="slates")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="letters c"):
        VowpalWabbit(SPACE, interactions=("so",))


def test_slots_keep_the_contract() -> None:
    """Slots among the rows: learns, resumes from a save, single decisions equal rows, draws match what is logged."""
    from policies.contract import check_learner

    log = _pages(40)
    space = FeatureSpace.fit(log.table)
    check_learner(lambda: VowpalWabbit(space, form="ccb", bits=12), log)

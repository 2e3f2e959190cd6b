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
from policies.records import InteractionBatch, Offer, OfferId, OfferSet
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


def test_an_offer_that_could_not_have_been_shown_is_refused() -> None:
    """A log whose shown offer was not eligible is refused with the row."""
    b = batch()
    eligible = b.table.eligible.copy()
    eligible[3] = True
    eligible[3, b.chosen[3]] = False
    bad = InteractionBatch(replace(b.table, eligible=eligible), b.chosen, b.propensity, b.reward)
    with pytest.raises(InvalidInputError, match=re.escape("was not eligible in 1 rows, the first at 3")):
        VowpalWabbit(SPACE).learn(bad)


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

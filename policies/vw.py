"""Vowpal Wabbit's contextual bandits (ADF) from columns: the only module that imports it.

Features are the named columns of the feature space: namespace ``c`` of the shared example holds the context,
``o`` of each action its offer, crossed by ``-q co``; in VW's conditional form (``form="ccb"``) ``s`` of a slot example holds
the slot. Rewards stay as they are logged and are negated to costs here.

What this adapter guards against: a float32 pmf is renormalised; explorers that give an offer zero are fine
because ``decide`` adds the explore share; every number is checked before VW sees it (one infinite cost leaves
infinities in the weights for good); ``Workspace.weights()`` is never touched (it crashes for some explorers).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policies.artifact import Artifact
from policies.errors import InvalidInputError, MissingExtraError
from policies.features import FeatureSpace
from policies.protocols import PolicyTraits
from policies.records import BoolArray, DecisionOfOne, DecisionTable, FloatArray, IntArray, InteractionBatch, OfferSet

Explorer = Literal["squarecb", "epsilon", "softmax", "regcb", "first", "bag", "cover", "synthcover", "rnd"]
CbType = Literal["mtr", "dr", "ips", "dm"]
Form = Literal["cb", "ccb"]
_Row = NDArray[np.float32]
EXPLORERS: dict[str, tuple[str, ...]] = {
    "squarecb": ("--squarecb",),
    "epsilon": ("--epsilon", "0.05"),
    "softmax": ("--softmax", "--lambda", "10"),
    "regcb": ("--regcb",),
    # Constructible and tested to learn and to act, no more: 5 to 20 times dearer, and ``rnd`` does not go on from a save to
    # the bit.
    "first": ("--first", "200"),
    "bag": ("--bag", "5"),
    "cover": ("--cover", "4"),
    "synthcover": ("--synthcover",),
    "rnd": ("--rnd", "3"),
}
CB_TYPES: tuple[CbType, ...] = ("mtr", "dr", "ips", "dm")
# Explorers whose bounds are made for a regression of costs on the offer shown.
_MTR_ONLY = ("squarecb", "regcb")
_CONTEXT, _OFFER, _SLOT = ord("c"), ord("o"), ord("s")
_DOORS = {"cb": "--cb_explore_adf", "ccb": "--ccb_explore_adf"}
_CROSSED: dict[str, tuple[str, ...]] = {"cb": ("co",), "ccb": ("co", "so")}
_SLOT_COLUMN = "slot"  # and "slot.…": what a page's decisions carry (engine.decisions.pages)
_MAX_REWARD = 1e6
_MAX_CACHED = 256
_MERGED_BITS = 18


class VowpalWabbit:
    """A VW contextual bandit as a policy and an online learner.

    Not thread-safe, and VW holds the interpreter's lock: scale by processes.

    Parameters
    ----------
    form
        ``cb``: every decision alone. ``ccb``: VW's conditional contextual bandit for the slots of a page; features called ``slot`` or
        ``slot.…`` describe the slot, all others the page.
    explorer
        ``squarecb`` (default), ``epsilon``, ``softmax`` or ``regcb`` (VW's RegCB-elim: 6 to 8 times slower); ``first``, ``bag``,
        ``cover``, ``synthcover`` and ``rnd`` for comparison.
    cb_type
        How VW learns from what was not shown: ``mtr`` (default), ``dr``, ``ips`` or ``dm``; ``squarecb`` and ``regcb`` take ``mtr``.
    interactions
        Namespaces to cross, by letter: ``c`` context, ``o`` offer, ``s`` slot; ``("co", "cco")`` adds pairs of context features per
        offer. None: ``("co",)``, and ``("co", "so")`` for slots.
    learning_rate
        Of VW; 0.5 is its own default.
    bits
        Size of the hashed weight table, log2.
    arguments
        Further VW arguments in place of the explorer's own, for other explorers: ``("--cover", "4")``.
    reward_range
        Smallest and largest reward; RegCB's confidence bounds need it, the others do not look at it.
    model
        A serialised model to go on from.

    Raises
    ------
    InvalidInputError
        If a parameter makes no sense, or ``form`` is ``ccb`` and the feature space has no slot.

    Notes
    -----
    Asked for a whole page, VW draws the first slot itself before it says anything of the second, and draws anew each time: what it
    says of the second slot is given a choice that nobody logged. So each slot is asked alone, with what is placed already left
    out: its distribution is the one that ``decide`` draws from, and learning gets that propensity. What is lost is VW's own
    feature for the place of a slot on the page, which ``slot`` says as well.
    """

    name = "vw"
    traits = PolicyTraits()

    def __init__(
        self,
        space: FeatureSpace,
        *,
        form: Form = "cb",
        explorer: Explorer = "squarecb",
        cb_type: CbType = "mtr",
        interactions: Sequence[str] | None = None,
        learning_rate: float = 0.5,
        bits: int = 18,
        arguments: Sequence[str] = (),
        reward_range: tuple[float, float] = (0.0, 1.0),
        model: bytes | None = None,
        n_seen: int = 0,
    ) -> None:
        if explorer not in EXPLORERS:
            raise InvalidInputError(f"explorer {explorer!r} is unknown; expected one of {sorted(EXPLORERS)}")
        if cb_type not in CB_TYPES or (cb_type != "mtr" and explorer in _MTR_ONLY and not arguments):
            raise InvalidInputError(
                f"cb_type {cb_type!r} with explorer {explorer!r}; expected one of {list(CB_TYPES)}, and 'mtr' for {' and '.join(_MTR_ONLY)}"
            )
        if form not in _DOORS:
            raise InvalidInputError(f"form is {form!r}; expected one of {sorted(_DOORS)}")
        interactions = _CROSSED[form] if interactions is None else tuple(interactions)
        letters = set("co") if form == "cb" else set("cos")
        if any(not 2 <= len(i) <= 4 or set(i) - letters for i in interactions):
            raise InvalidInputError(
                f"interactions are {list(interactions)}; expected two to four of the letters c (context), o (offer) "
                "and, for slots, s each"
            )
        if not 0 < learning_rate <= 100 or not 8 <= bits <= 28:
            raise InvalidInputError(
                f"learning_rate {learning_rate}, bits {bits}; expected above 0 and at most 100, and 8 to 28"
            )
        self.space, self.explorer, self.learning_rate, self.bits = space, explorer, learning_rate, bits
        self.form, self.cb_type, self.interactions = form, cb_type, interactions
        if not reward_range[0] < reward_range[1]:
            raise InvalidInputError(
                f"reward_range is {reward_range}; expected the smallest and then the largest reward"
            )
        self.arguments, self.n_seen = tuple(arguments), n_seen
        self.reward_range = (float(reward_range[0]), float(reward_range[1]))
        vw = _import_vw()
        self._vw = vw
        command = [
            _DOORS[form], *(self.arguments or EXPLORERS[explorer]), "--cb_type", cb_type,
            *(word for crossed in self.interactions for word in ("--interactions", crossed)),
            "-l", repr(learning_rate), "-b", str(bits), "--quiet", "--random_seed", "1",
        ]  # fmt: skip
        if explorer == "regcb" and not self.arguments:
            # Costs are negated rewards: with VW's own range of [0, 1] nothing would ever be eliminated.
            command += ["--cb_min_cost", repr(-self.reward_range[1]), "--cb_max_cost", repr(-self.reward_range[0])]
        self._workspace = vw.Workspace(command) if model is None else vw.Workspace(["--quiet"], model_data=model)
        # The wrapper checks the label type of every example of every call, which costs as much as VW's learning; what
        # goes in here was built here, so the calls go to the core.
        self._core = self._workspace._workspace
        self._is_slot = np.zeros(space.context_width, dtype=np.bool_)
        if form == "cb":
            self._shared_label, self._no_label = vw.CBLabel(shared=True), vw.CBLabel()
        else:
            # Labels made here weigh nothing, and an action that weighs nothing is never learned from; what the parser makes weighs 1.
            read = vw.TextFormatParser(self._workspace).parse_line
            self._shared_label, self._no_label = (read(f"ccb {kind} |").get_label() for kind in ("shared", "action"))
            self._is_slot = _slot_columns(space)
        self._context_hashes = _hashes([n.name for n in space.context_names], namespace="c")
        self._context_hashes_list: list[int] = self._context_hashes.tolist()
        self._offer_hashes = _hashes([n.name for n in space.offer_names], namespace="o")
        self._actions: dict[str, list[Any]] = {}
        self._shared = vw.Example()._example  # of single decisions, filled anew for each
        self._shared._set_label(self._shared_label)
        self._shared_features = self._shared[_CONTEXT]

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """VW's distribution over the eligible offers, renormalised, shape ``(n, k)``."""
        actions = self._action_examples(table.offers)
        contexts = self.space.encode_contexts(table)
        out = np.zeros(table.eligible.shape)
        predict = self._core.predict_multi_ex_one
        for row in range(len(table)):
            allowed = np.flatnonzero(table.eligible[row])
            asked = [self._shared_example(contexts[row]), *(actions[i] for i in allowed)]
            if self.form == "ccb":
                asked.append(self._slot_example(contexts[row]))
            answer = predict(asked)
            for position, p in answer if self.form == "cb" else answer[0]:
                out[row, allowed[position]] = p
        return np.asarray(out / np.cumsum(out, axis=1)[:, -1:], dtype=np.float64)

    def probabilities_of_one(self, table: DecisionOfOne) -> list[float]:
        """``probabilities`` of a single decision, equal to the bit: one example is filled anew, numpy has no part in it."""
        if self.form == "ccb":
            row: list[float] = self.probabilities(table)[0].tolist()
            return row
        actions, allowed = self._action_examples(table.offers), table.allowed
        positions, values = self.space.sparse_row(table)
        features, hashes = self._shared_features, self._context_hashes_list
        features.truncate_to(0)
        push = features.push_feature
        for position, value in zip(positions, values, strict=True):
            push(hashes[position], value)
        shown = actions if allowed is None else [a for a, ok in zip(actions, allowed, strict=True) if ok]
        out = [0.0] * len(shown)
        for position, p in self._core.predict_multi_ex_one([self._shared, *shown]):
            out[position] = p
        if allowed is not None:
            given = iter(out)
            out = [next(given) if ok else 0.0 for ok in allowed]
        total = list(accumulate(out))[-1]
        return [p / total for p in out]

    def learn(self, batch: InteractionBatch) -> None:
        """One VW step per row, in order.

        Raises
        ------
        InvalidInputError
            Before anything is learned, if a reward is larger than 1e6 in size.
        """
        table = batch.table
        bad = np.abs(batch.reward) > _MAX_REWARD
        if bad.any():
            raise InvalidInputError(
                f"reward is larger than {_MAX_REWARD:g} in {int(bad.sum())} rows, the first at {int(np.argmax(bad))}; "
                "one such number would spoil the model for good: rescale the reward"
            )
        actions = self._action_examples(table.offers)
        contexts = self.space.encode_contexts(table)
        all_allowed = np.asarray(table.eligible.all(axis=1)).tolist()
        learn = self._learn_one if self.form == "cb" else self._learn_slot
        for row, (chosen, cost, propensity) in enumerate(
            zip(batch.chosen.tolist(), (-batch.reward).tolist(), batch.propensity.tolist(), strict=True)
        ):
            allowed = None if all_allowed[row] else np.flatnonzero(table.eligible[row])
            learn(contexts[row], actions, allowed, chosen, cost, propensity)
        self.n_seen += len(batch)

    def _learn_one(
        self, x: _Row, actions: list[Any], allowed: IntArray | None, chosen: int, cost: float, propensity: float
    ) -> None:
        shown = actions if allowed is None else [actions[i] for i in allowed]
        actions[chosen]._set_label(self._vw.CBLabel(label=(cost, propensity)))
        try:
            self._core.learn_multi_ex_one([self._shared_example(x), *shown])
        finally:
            actions[chosen]._set_label(self._no_label)

    def _learn_slot(
        self, x: _Row, actions: list[Any], allowed: IntArray | None, chosen: int, cost: float, propensity: float
    ) -> None:
        place = chosen if allowed is None else int(np.searchsorted(allowed, chosen))
        shown = actions if allowed is None else [actions[i] for i in allowed]
        slot = self._slot_example(x, outcome=(cost, [(place, propensity)]))
        self._core.learn_multi_ex_one([self._shared_example(x), *shown, slot])

    def _shared_example(self, x: _Row) -> Any:
        example = self._vw.Example()._example
        present = (x if self.form == "cb" else np.where(self._is_slot, 0.0, x)).nonzero()[0]
        example[_CONTEXT].push_many_features(self._context_hashes[present], x[present])
        example._set_label(self._shared_label)
        return example

    def _slot_example(self, x: _Row, *, outcome: tuple[float, list[tuple[int, float]]] | None = None) -> Any:
        example = self._vw.Example()._example
        present = np.where(self._is_slot, x, 0.0).nonzero()[0]
        example[_SLOT].push_many_features(self._context_hashes[present], x[present])
        example._set_label(self._vw.CCBLabel(self._vw.CCBExampleType.Slot, outcome=outcome))
        return example

    def _action_examples(self, offers: OfferSet) -> list[Any]:
        found = self._actions.get(offers.revision)
        if found is not None:
            return found
        made = []
        for offer, z in zip(offers, self.space.encode_offers(offers), strict=True):
            example = self._vw.Example()._example
            present = np.flatnonzero(z)
            hashes, values = self._offer_hashes[present], z[present]
            # The id is always a feature: two offers alike in everything else are still two offers.
            own = _hashes([f"id={offer.id}"], namespace="o")
            if f"id={offer.id}" not in {n.name for n in self.space.offer_names}:
                hashes, values = np.append(hashes, own), np.append(values, np.float32(1.0))
            example[_OFFER].push_many_features(hashes, values.astype(np.float32))
            example._set_label(self._no_label)
            made.append(example)
        if len(self._actions) >= _MAX_CACHED:
            self._actions.clear()
        self._actions[offers.revision] = made
        return made

    def to_artifact(self) -> Artifact:
        """Feature space, arguments and the serialised model, from which training goes on exactly."""
        return Artifact(
            self.name,
            {
                "space": self.space.to_manifest(),
                "space_hash": self.space.hash,
                "form": self.form,
                "explorer": self.explorer,
                "cb_type": self.cb_type,
                "interactions": list(self.interactions),
                "learning_rate": self.learning_rate,
                "bits": self.bits,
                "arguments": list(self.arguments),
                "reward_range": list(self.reward_range),
                "n_seen": self.n_seen,
            },
            blobs={"model.vw": bytes(self._workspace.serialize())},
        )


def merge_trained(base: VowpalWabbit, parts: Sequence[VowpalWabbit]) -> VowpalWabbit:
    """One policy from copies of ``base`` that each learned a part of a log, on several processors or machines.

    Differences from the base are averaged by VW, weighted by what each saw; that is not what learning the parts one after the
    other gives, and it lags behind where parts are small. Make copies with ``load(base.to_artifact())``.

    Raises
    ------
    InvalidInputError
        If there are fewer than two parts, a part was made with other settings than the base, the weight table is not of 18 bits
        (VW's merging refuses any other size), or the explorer is ``squarecb`` or ``regcb`` (its counter is no weight, and is lost:
        what comes out explores as if it had seen nothing).
    """
    settings = [{k: v for k, v in p.to_artifact().manifest.items() if k != "n_seen"} for p in (base, *parts)]
    if len(parts) < 2 or any(s != settings[0] for s in settings[1:]):
        raise InvalidInputError(f"{len(parts)} parts cannot be merged; expected two at least, each a copy of the base")
    if base.explorer in _MTR_ONLY:
        raise InvalidInputError(
            f"explorer {base.explorer!r} cannot be merged: its counter is lost; expected 'epsilon' or 'softmax'"
        )
    if base.bits != _MERGED_BITS:
        raise InvalidInputError(
            f"the policies have bits {base.bits}; expected {_MERGED_BITS}: VW merges no other size of table"
        )
    vw = _import_vw()
    deltas = [vw.calculate_delta(base._workspace, part._workspace) for part in parts]
    merged = vw.apply_delta(base._workspace, vw.merge_deltas(deltas))
    made = load(base.to_artifact())
    seen = base.n_seen + sum(part.n_seen - base.n_seen for part in parts)
    m = settings[0]
    return VowpalWabbit(
        made.space, form=m["form"], explorer=m["explorer"], cb_type=m["cb_type"], interactions=m["interactions"], learning_rate=m["learning_rate"],
        bits=m["bits"], arguments=m["arguments"], reward_range=tuple(m["reward_range"]), model=bytes(merged.serialize()), n_seen=seen,
    )  # fmt: skip


def _slot_columns(space: FeatureSpace) -> BoolArray:
    """Which context columns describe the slot, shape ``(context_width,)``."""
    out: list[bool] = []
    for spec in (*space.context, *space.blocks):
        out += [spec.name == _SLOT_COLUMN or spec.name.startswith(f"{_SLOT_COLUMN}.")] * spec.width
    if not any(out):
        raise InvalidInputError(
            f"form 'ccb' needs the slot among the features; expected one called {_SLOT_COLUMN!r} or {_SLOT_COLUMN}.… in the space: "
            "decide with slots, or take form 'cb'"
        )
    return np.asarray(out, dtype=np.bool_)


def _import_vw() -> Any:
    try:
        import vowpal_wabbit_next
    except ImportError as error:
        raise MissingExtraError("vowpal_wabbit_next", "serve") from error
    return vowpal_wabbit_next


def _hashes(names: Sequence[str], *, namespace: str) -> NDArray[np.uint64]:
    """Stable 32-bit hash of each feature name; VW cuts it to its table's size."""
    return np.asarray([zlib.crc32(f"{namespace}\x00{n}".encode()) for n in names], dtype=np.uint64)


def load(artifact: Artifact) -> VowpalWabbit:
    """Entry point of kind ``vw``."""
    m = artifact.manifest
    return VowpalWabbit(
        FeatureSpace.from_manifest(m["space"]),
        form=m.get("form", "cb"),
        explorer=m["explorer"],
        cb_type=m.get("cb_type", "mtr"),
        interactions=m.get("interactions", ["co"]),
        learning_rate=m["learning_rate"],
        bits=m["bits"],
        arguments=m["arguments"],
        reward_range=tuple(m["reward_range"]),
        model=artifact.blobs["model.vw"],
        n_seen=m["n_seen"],
    )

"""The site as gymnasium environments: one visitor an episode, one visit a step.

Observation: ``concat(mask, features)`` as one float32 Box, where the mask says which offers are eligible and
the features are ``FeatureSpace.encode_contexts`` of the very table the service would see, so that a network
trained here can be served. Reward: a stated combination, its parts in ``info``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from policies.errors import InvalidInputError, UnknownNameError
from policies.features import FeatureSpace
from policies.records import IntArray
from simulator.kernel import VisitKernel, supports
from simulator.scenarios.car_subscription import Scenario, reference
from simulator.scenarios.named import world_named
from simulator.spaces import reference_space
from simulator.world import STAGES

ENV_ID = "nextoffer/CarSubscription-v0"
_OBS_LIMIT = 10.0
# Over which days visitors arrive where a calendar gives the date a meaning and nobody says otherwise.
_VISIT_DAYS = 60


@dataclass(frozen=True, slots=True)
class RewardWeights:
    """The scalar reward as a stated combination of what became of the visitor."""

    click: float = 0.0
    subscribed: float = 0.3
    kept_30d: float = 1.0
    margin_eur: float = 0.0
    discount_cost_eur: float = 0.0


def _observation_space(scenario: Scenario, space: FeatureSpace) -> gymnasium.spaces.Box:
    k = len(scenario.offers)
    low = np.concatenate([np.zeros(k), np.full(space.context_width, -_OBS_LIMIT)]).astype(np.float32)
    high = np.concatenate([np.ones(k), np.full(space.context_width, _OBS_LIMIT)]).astype(np.float32)
    return gymnasium.spaces.Box(low, high, dtype=np.float32)


class CarSubscriptionEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One visitor an episode. Terminates when the visitor is gone, has cancelled or was kept 30 days.

    Parameters
    ----------
    scenario
        The site, or its name (``simulator.scenarios.named.WORLDS``); default: the reference site.
    space
        Feature space of observations; default: one fitted on a uniform rollout.
    weights
        The scalar reward.
    visit_days, experiment_days
        As of ``CarSubscriptionVectorEnv``.
    render_mode
        ``ansi``: ``render`` tells the present visit in words.

    Raises
    ------
    InvalidInputError
        If a rule of the scenario reads more than the stage (eligibility has to be a table here), or it is of another family of laws.
    UnknownNameError
        If there is no scenario of that name.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - gymnasium's own way

    def __init__(
        self,
        *,
        scenario: Scenario | str | None = None,
        space: FeatureSpace | None = None,
        weights: RewardWeights | None = None,
        visit_days: int | None = None,
        experiment_days: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UnknownNameError("render mode", str(render_mode), self.metadata["render_modes"])
        self.render_mode = render_mode
        self._slots = CarSubscriptionVectorEnv(
            1, scenario=scenario, space=space, weights=weights, visit_days=visit_days, experiment_days=experiment_days
        )
        self.scenario, self.space, self.weights = self._slots.scenario, self._slots.space, self._slots.weights
        self.observation_space = self._slots.single_observation_space
        self.action_space = self._slots.single_action_space
        self._is_running = False
        self._last = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A new visitor arrives; there are no options."""
        super().reset(seed=seed)
        obs, info = self._slots.reset(seed=seed, options=options)
        self._is_running, self._last = True, ""
        return obs[0], {"action_mask": info["action_mask"][0]}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Show one offer; the next observation is the visitor's next visit.

        An offer that may not be shown is replaced by the first that may, and ``info["shown"]`` says which one was.
        """
        if not self._is_running:
            raise InvalidInputError("step was called before reset, or after the episode ended; call reset first")
        obs, reward, terminated, truncated, parts = self._slots.step(np.asarray([action]))
        self._is_running = not (terminated[0] or truncated[0])
        info: dict[str, Any] = {name: v[0].item() for name, v in parts.items() if name != "action_mask"}
        info["action_mask"] = parts["action_mask"][0]
        came = [name for name in ("clicked", "subscribed", "kept_30d") if info[name]]
        self._last = f"; before: {self.scenario.offers.ids[info['shown']]}, {', '.join(came) or 'nothing'}"
        if not self._is_running:
            self._last += "; the episode is over"
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which offers may be shown now, shape ``(k,)``: the name that trainers with masks ask for.

        Raises
        ------
        InvalidInputError
            Before the first reset.
        """
        return np.asarray(self._kernel().mask()[0], dtype=np.bool_)

    def render(self) -> str | None:  # type: ignore[override]
        """The present visit in words, and what came of the one before; None without a render mode."""
        if self.render_mode is None:
            return None
        kernel = self._kernel()
        may = [o for o, is_allowed in zip(self.scenario.offers.ids, self.action_masks(), strict=True) if is_allowed]
        return f"visit {kernel.n_visits[0] + 1} on day {kernel.day[0]}, {STAGES[kernel.stage[0]]}; may be shown: {', '.join(may)}{self._last}"

    def _kernel(self) -> VisitKernel:
        if self._slots.kernel is None:
            raise InvalidInputError("nobody has come yet; call reset first")
        return self._slots.kernel


class CarSubscriptionVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """Many visitors at once with arrays inside; a finished slot gets its new visitor in the next step.

    Parameters
    ----------
    num_envs
        Slots: visitors side by side.
    scenario, space, weights
        As of ``CarSubscriptionEnv``.
    is_copied
        Whether each answer has an observation of its own; without it all share one buffer, valid until the next step.
    visit_days
        Visitors arrive uniformly over these days of the scenario's calendar, where it has one; default: 60, or as long as the
        experiment lasts.
    experiment_days
        Day of the calendar on which the experiment ends: whoever would visit on it or later is cut short (truncated), and what happens
        on it or later is not seen. None: every story is told to its end.

    Raises
    ------
    InvalidInputError
        If a rule of the scenario reads more than the stage (eligibility has to be a table here), it is of another family of laws, or
        visitors would arrive after the end of the experiment.
    UnknownNameError
        If there is no scenario of that name.

    Notes
    -----
    Autoreset is ``NEXT_STEP``: the observation of the last step is the visitor's last, the next step ignores the action, brings the
    new visitor and has reward 0 and ``info["shown"]`` -1. ``info`` holds for all slots ``clicked``, ``subscribed``, ``kept_30d``,
    ``margin_eur`` and ``discount_cost_eur`` (the reward as a vector), ``shown`` and ``action_mask``, each with the slots first.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012 - gymnasium's own way

    def __init__(
        self,
        num_envs: int = 1,
        *,
        scenario: Scenario | str | None = None,
        space: FeatureSpace | None = None,
        weights: RewardWeights | None = None,
        is_copied: bool = True,
        visit_days: int | None = None,
        experiment_days: int | None = None,
    ) -> None:
        self.num_envs, self.is_copied, self.experiment_days = num_envs, is_copied, experiment_days
        self.scenario = _site(scenario)
        if not supports(self.scenario):
            raise InvalidInputError(
                f"scenario {self.scenario.name!r} has an eligibility rule on more than the stage; expected rules on stage "
                "only: let a rollout choose for others"
            )
        self.visit_days = _visit_days(self.scenario, visit_days, experiment_days)
        self.space = space or reference_space(self.scenario)
        self.weights = weights or RewardWeights()
        self.single_observation_space = _observation_space(self.scenario, self.space)
        self.single_action_space = gymnasium.spaces.Discrete(len(self.scenario.offers))
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.kernel: VisitKernel | None = None
        self._next_id = 0
        self._done = np.zeros(num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """All slots get new visitors; there are no options.

        Parameters
        ----------
        seed
            One number for all that happens. A list, as vectors of single environments take it, is one seed made of all its numbers:
            slots share one stream of visitors here.
        """
        if options:
            raise InvalidInputError(f"reset got the options {', '.join(map(repr, options))}; this environment has none")
        one = _joined(seed, self.num_envs) if isinstance(seed, Sequence) else seed
        super().reset(seed=one)
        if self.kernel is None or one is not None:
            own = int(self.np_random.integers(2**31))
            self.kernel = VisitKernel(
                self.scenario,
                self.space,
                n=self.num_envs,
                seed=own,
                visit_days=self.visit_days,
                end_day=self.experiment_days,
            )
            self._next_id = 0
        self._done = np.zeros(self.num_envs, dtype=np.bool_)
        self._renew(self.kernel, np.arange(self.num_envs))
        return self._seen(self.kernel, {})

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Show one offer to each; slots that ended in the step before only get their new visitor.

        An offer that may not be shown is replaced by the first that may, and ``info["shown"]`` says which one was.

        Raises
        ------
        InvalidInputError
            Before the first reset, or if the actions are not one offer for each slot.
        """
        if self.kernel is None:
            raise InvalidInputError("step was called before reset; call reset first")
        ended = np.flatnonzero(self._done)
        made = self.kernel.step(self._checked(actions))
        parts = {"clicked": made.clicked, "subscribed": made.subscribed, "kept_30d": made.kept_30d,
                 "margin_eur": made.margin_eur, "discount_cost_eur": made.discount_cost_eur}  # fmt: skip
        if len(ended):
            self._renew(self.kernel, ended)
            for part in parts.values():
                part[ended] = 0.0
            made.is_over[ended] = False
            made.shown[ended] = -1
        # Every visitor's story ends by itself (market window, signing, 30 days) unless the experiment ends before.
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        if self.experiment_days is not None:
            truncated = ~made.is_over & (self.kernel.calendar_day() >= self.experiment_days)
            truncated[ended] = False
        self._done = made.is_over | truncated
        w = self.weights
        reward = np.zeros(self.num_envs, dtype=np.float32)
        for name, weight in (
            ("clicked", w.click),
            ("subscribed", w.subscribed),
            ("kept_30d", w.kept_30d),
            ("margin_eur", w.margin_eur),
            ("discount_cost_eur", w.discount_cost_eur),
        ):
            if weight:
                reward += np.float32(weight) * parts[name]
        obs, info = self._seen(self.kernel, {**parts, "shown": made.shown})
        return obs, reward, made.is_over.copy(), truncated, info

    def _checked(self, actions: NDArray[np.int64]) -> IntArray:
        """A copy of the actions: what is told of a step is not changed with the caller's array."""
        given, k = np.asarray(actions), len(self.scenario.offers)
        if given.shape != (self.num_envs,) or given.dtype.kind not in "iu":
            raise InvalidInputError(
                f"actions have shape {given.shape} and type {given.dtype}; expected ({self.num_envs},) integers, one offer a slot"
            )
        chosen = given.astype(np.int64)
        if chosen.view(np.uint64).max() >= k:  # a negative one is a large one here: one look instead of two
            raise InvalidInputError(
                f"actions lie in {given.min()}..{given.max()}; expected 0..{k - 1}, positions of offers"
            )
        return chosen

    def _renew(self, kernel: VisitKernel, rows: IntArray) -> None:
        kernel.renew(rows, np.arange(self._next_id, self._next_id + len(rows), dtype=np.int64))
        self._next_id += len(rows)

    def _seen(self, kernel: VisitKernel, info: dict[str, Any]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        obs = kernel.observation.copy() if self.is_copied else kernel.observation
        return obs, {**info, "action_mask": kernel.mask()}


def _site(scenario: Scenario | str | None) -> Scenario:
    if scenario is None:
        return reference()
    site = world_named(scenario) if isinstance(scenario, str) else scenario
    if not isinstance(site, Scenario):
        raise InvalidInputError(
            f"world {site.name!r} follows other laws than the compiled ones; expected one of the first family, such as reference: "
            "let a rollout choose in this one"
        )
    return site


def _visit_days(scenario: Scenario, visit_days: int | None, experiment_days: int | None) -> int:
    end = np.inf if experiment_days is None else experiment_days
    days = int(min(_VISIT_DAYS, end)) if visit_days is None else visit_days
    if not 1 <= days <= end:
        raise InvalidInputError(
            f"visitors arrive over {days} days of an experiment of {experiment_days}; expected at least one day, and no arrivals "
            "after the end"
        )
    return 1 if scenario.calendar is None else days


def _joined(seeds: Sequence[int | None], n: int) -> int | None:
    """One seed from a list of them: equal lists give equal lives, and no number of it is ignored."""
    if len(seeds) != n:
        raise InvalidInputError(f"got {len(seeds)} seeds for {n} slots; expected one number, or one a slot")
    known = [int(s) for s in seeds if s is not None]
    if not known:
        return None
    if len(known) < n:
        raise InvalidInputError(
            "some slots have a seed and some have none; slots share one stream: expected all or none"
        )
    return int(np.random.SeedSequence(known).generate_state(1, np.uint64)[0])


def register() -> None:
    """Make the environment known to gymnasium (importing ``simulator.env``, or asking for ``simulator.env:ID``, does it)."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(
            ENV_ID,
            entry_point="simulator.env:CarSubscriptionEnv",
            vector_entry_point="simulator.env:CarSubscriptionVectorEnv",
        )


register()

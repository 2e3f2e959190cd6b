"""Bodies of the Personalizer contract, in its own spelling; unknown fields are let through, as its service did."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from api.fields import Id, Number

FeatureObjects = tuple[dict[str, Any], ...]
LearningMode = Literal["Online", "Apprentice", "LoggingOnly"]


class Contract(BaseModel):
    """A body of the foreign contract."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, populate_by_name=True)


class Action(Contract):
    """Something that may be shown."""

    id: Id
    features: FeatureObjects = ()


Actions = Annotated[tuple[Action, ...], Field(min_length=1, max_length=50)]


class RankRequest(Contract):
    """Which action first."""

    context_features: FeatureObjects | None = Field(default=None, alias="contextFeatures")
    actions: Actions
    excluded_actions: tuple[Id, ...] | None = Field(default=None, alias="excludedActions")
    event_id: Annotated[str, Field(max_length=256)] | None = Field(default=None, alias="eventId")
    defer_activation: bool | None = Field(default=None, alias="deferActivation")


class RewardValue(Contract):
    """What came of an event."""

    value: Annotated[float, Field(ge=-1, le=1)]


class Slot(Contract):
    """A place in a multi-slot request; its SDK calls the features ``positionFeatures``."""

    id: Id
    features: FeatureObjects | None = Field(default=None, validation_alias=AliasChoices("features", "positionFeatures"))
    excluded_actions: tuple[Id, ...] | None = Field(default=None, alias="excludedActions")
    baseline_action: Id = Field(alias="baselineAction")


class MultiSlotRankRequest(Contract):
    """Which action in which slot."""

    context_features: FeatureObjects | None = Field(default=None, alias="contextFeatures")
    actions: Actions
    slots: Annotated[tuple[Slot, ...], Field(min_length=1, max_length=50)]
    event_id: Annotated[str, Field(max_length=128)] | None = Field(default=None, alias="eventId")
    defer_activation: bool | None = Field(default=None, alias="deferActivation")


class SlotReward(Contract):
    """What came of one slot."""

    slot_id: Id = Field(alias="slotId")
    value: Annotated[float, Field(ge=-1, le=1)]


class MultiSlotReward(Contract):
    """What came of a multi-slot event."""

    reward: Annotated[tuple[SlotReward, ...], Field(min_length=1, max_length=50)]


class ServiceConfiguration(Contract):
    """How the loop behaves, as Personalizer names it."""

    reward_wait_time: timedelta = Field(default=timedelta(minutes=10), alias="rewardWaitTime")
    default_reward: Number = Field(default=0.0, alias="defaultReward")
    reward_aggregation: Literal["earliest", "sum"] = Field(default="earliest", alias="rewardAggregation")
    exploration_percentage: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.2, alias="explorationPercentage")
    learning_mode: LearningMode = Field(default="Online", alias="learningMode")
    # Kept and given back: snapshots are published every second here, and the log is kept as the operator says.
    model_export_frequency: Any = Field(default="PT1M", alias="modelExportFrequency")
    model_retrain_days: int = Field(default=0, alias="modelRetrainDays")
    log_retention_days: int = Field(default=-1, alias="logRetentionDays")
    # What asks for something that is not here, to be refused with a sentence.
    is_auto_optimization_enabled: bool = Field(default=False, alias="isAutoOptimizationEnabled")
    log_mirror_enabled: bool = Field(default=False, alias="logMirrorEnabled")


class PolicyConfiguration(Contract):
    """Which policy decides: the ``name`` of a registered one. Other names, and the arguments, are kept and given back."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: Annotated[str, Field(max_length=4096)] = ""

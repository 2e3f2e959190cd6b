"""The propensity models that can be trained, by name; building one imports its framework and no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from engine.models.propensity import PropensityModel
from policies.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model by import string.

    Parameters
    ----------
    module, model, config
        Where the class and its config dataclass are.
    framework
        What a process that trains it must not share with another.
    reads_sequence
        Whether it reads events in order (and not only summaries of them).
    quick, fixed
        Config values of a quick run, and of every run.
    exports_encoder
        Whether its artefacts hold a ``sequence_encoder`` that a server can run.
    """

    module: str
    model: str
    config: str
    framework: str
    reads_sequence: bool = False
    quick: tuple[tuple[str, Any], ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()
    exports_encoder: bool = False


CANDIDATES: dict[str, Candidate] = {
    # The same regression under a second name, for a reference that is kept from newer columns.
    "reference": Candidate("engine.models.linear", "RidgeLogistic", "LogisticConfig", "numpy"),
    "logistic": Candidate("engine.models.linear", "RidgeLogistic", "LogisticConfig", "numpy"),
    "lightgbm": Candidate(
        "engine.models.boosting", "LightGBMModel", "BoostingConfig", "lightgbm", quick=(("seeds", (0,)),)
    ),
    "dnn": Candidate("engine.models.keras_dnn", "KerasDNN", "DNNConfig", "tensorflow", quick=(("max_epochs", 12),)),
    "cnn": Candidate(
        "engine.models.keras_cnn",
        "KerasCNN",
        "CNNConfig",
        "tensorflow",
        reads_sequence=True,
        quick=(("max_epochs", 6), ("last_events", 64)),
    ),
    "mllib": Candidate("engine.models.mllib", "MLlibLogistic", "MLlibConfig", "spark"),
    "mllib-gbt": Candidate(
        "engine.models.mllib_boosting", "MLlibBoosting", "MLlibBoostingConfig", "spark", quick=(("max_trees", 10),)
    ),
    "gru": Candidate(
        "engine.models.torch_sequence",
        "TorchGRU",
        "GRUConfig",
        "torch",
        reads_sequence=True,
        exports_encoder=True,
        quick=(("max_epochs", 6), ("last_events", 64)),
    ),
    **{
        # The same network under each way of handling a rare label, to be compared; none of them is trained by default.
        f"gru-{how.replace('_', '-')}": Candidate(
            "engine.models.torch_sequence",
            "TorchGRU",
            "GRUConfig",
            "torch",
            reads_sequence=True,
            quick=(("max_epochs", 6), ("last_events", 64)),
            fixed=(("imbalance", how),),
        )
        for how in ("class_weights", "oversampling", "focal", "logit_adjustment")
    },
    "transformer": Candidate(
        "engine.models.torch_transformer",
        "TorchTransformer",
        "TransformerConfig",
        "torch",
        reads_sequence=True,
        quick=(("max_epochs", 6), ("last_events", 64)),
    ),
}


def build_model(
    name: str,
    *,
    seed: int,
    quick: bool = False,
    ignore: tuple[str, ...] = (),
    progress: Callable[[str], None] | None = None,
) -> PropensityModel:
    """Make an unfitted model.

    Raises
    ------
    UnknownNameError
        If there is no model of that name; the text offers the nearest.
    """
    candidate = known_candidate(name)
    module = import_module(candidate.module)
    config_type = getattr(module, candidate.config)
    allowed = {field.name for field in dataclasses.fields(config_type)}
    values: dict[str, Any] = {"ignore": ignore, **dict(candidate.fixed), **(dict(candidate.quick) if quick else {})}
    if "seed" in allowed:
        values["seed"] = seed
    elif "seeds" in allowed:
        values["seeds"] = tuple(seed + s for s in values.get("seeds", config_type().seeds))
    model = getattr(module, candidate.model)
    config = config_type(**values)
    shows_progress = "progress" in model.__init__.__kwdefaults__ if model.__init__.__kwdefaults__ else False
    return cast(PropensityModel, model(config, progress=progress) if shows_progress else model(config))


def known_candidate(name: str) -> Candidate:
    """Candidate of a name, or an error that offers the nearest names."""
    if name not in CANDIDATES:
        raise UnknownNameError("propensity model", name, CANDIDATES)
    return CANDIDATES[name]

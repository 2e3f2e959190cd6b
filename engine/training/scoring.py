"""Score decision points with what a training run chose: the folds' exported models, their blend and the calibrator, by ONNX Runtime and numpy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from engine.models.calibration import from_manifest
from engine.models.dataset import SequenceDataset
from engine.models.metrics import expit, logit
from engine.models.served import ServedPropensity
from policies.artifact import Artifact, load_artifact
from policies.errors import InvalidInputError
from policies.records import FloatArray


class RunScorer:
    """The chosen model of a run, for rows it has never seen.

    Holds artefacts, not sessions, until it first scores: so it can be sent to the workers of a cluster.

    Parameters
    ----------
    members
        Per model of the blend (one, where no blend was chosen) the artefacts of its folds.
    calibration
        Manifest of the calibrator.
    digests
        Of the vocabularies that ids of events come from, as ``words_digests`` makes them.
    """

    def __init__(
        self,
        name: str,
        members: Mapping[str, Sequence[Artifact]],
        *,
        calibration: Mapping[str, Any],
        digests: Mapping[str, str],
    ) -> None:
        self.name = name
        self._members = {model: tuple(folds) for model, folds in members.items()}
        self._calibration = dict(calibration)
        self._digests = dict(digests)
        self._loaded: list[list[ServedPropensity]] | None = None

    @classmethod
    def of_run(cls, run: Path) -> Self:
        """Read the choice of ``train propensity --out RUN``.

        Raises
        ------
        InvalidInputError
            If the folder holds no finished run, or one from before models were exported.
        """
        path = run / "comparison.json"
        if not path.is_file():
            raise InvalidInputError(f"{run} holds no finished run; train with `nextoffer train propensity --out {run}`")
        comparison = json.loads(path.read_text())
        chosen = comparison["chosen"]
        members = {}
        for model in comparison["models"][chosen].get("members", [chosen]):
            folds = sorted((run / "models" / model / "served").glob("*"), key=lambda p: int(p.name))
            if not folds:
                raise InvalidInputError(
                    f"{run} has no exported {model!r}; it was trained by an earlier version: train again"
                )
            members[model] = [load_artifact(fold) for fold in folds]
        return cls(
            chosen,
            members,
            calibration=comparison["models"][chosen]["calibration"],
            digests=comparison["vocabularies"],
        )

    def check_words(self, manifest: Mapping[str, Any]) -> None:
        """Refuse decision points whose ids mean other words than in training.

        Raises
        ------
        InvalidInputError
            If a vocabulary differs.
        """
        found = words_digests(manifest)
        for name, digest in self._digests.items():
            if found.get(name) != digest:
                raise InvalidInputError(
                    f"the decision points number other words of {name!r} than those the run was trained on; "
                    "build them with `nextoffer sequences build --words FOLDER`, FOLDER being the decision points of the training"
                )

    def probability(self, data: SequenceDataset) -> FloatArray:
        """Calibrated probability of the label for each row, matured or not, shape ``(n,)``."""
        if self._loaded is None:
            self._loaded = [[ServedPropensity(fold) for fold in folds] for folds in self._members.values()]
        # As in training: log odds are averaged over folds, then over the members of a blend.
        scores = [np.mean([logit(fold.predict(data)) for fold in folds], axis=0) for folds in self._loaded]
        return from_manifest(self._calibration)(expit(np.mean(scores, axis=0)))

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the sessions, which stay in their process."""
        return {**self.__dict__, "_loaded": None}


def words_digests(manifest: Mapping[str, Any]) -> dict[str, str]:
    """One digest a vocabulary of decision points: ids mean the same words where it is the same."""
    words = manifest.get("vocabularies", {})
    return {name: hashlib.sha256(json.dumps(list(words[name])).encode()).hexdigest() for name in sorted(words)}

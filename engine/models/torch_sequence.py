"""PyTorch: a GRU over the sequence with time-gap encoding, beside it the offer, the customer and aggregates.

Imports torch at module level: only training jobs import this module. What is served is the ONNX graph of the
encoder (``engine.models.encoder``), never this.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.models.batches import bucketed_batches
from engine.models.dataset import SequenceDataset
from engine.models.encoder import KIND, n_gap_buckets
from engine.models.epochs import Stopping, fit_epochs
from engine.models.imbalance import GAMMA, Imbalance, checked_imbalance, corrected, oversampled, positive_weight
from engine.models.linear import best_ridge_logistic
from engine.models.metrics import log_loss, logit
from engine.models.onnx_graphs import GRUWeights, encoder_graph, step_graph
from engine.models.onnx_propensity import gru_graph
from engine.models.propensity import FitReport
from engine.models.served import served_artifact
from engine.models.tabular import TabularEncoder
from policies.artifact import Artifact
from policies.errors import NotFittedError
from policies.records import FloatArray, IntArray

# Ways under which the network's own score is at a rate of one half.
_SHIFTED = ("class_weights", "oversampling", "logit_adjustment")


@dataclass(frozen=True, slots=True)
class TorchConfig:
    """What a fit of any torch sequence model is decided by.

    Parameters
    ----------
    last_events
        How many last events of a row are read.
    batching
        ``buckets``: batches of near-equal length, padded to their own longest row; ``tokens``: the same number of batches, each
        with about the same number of events, so that short rows come in larger ones (fastest on very uneven lengths);
        ``padded``: batches at random, padded
        to ``last_events`` (what a benchmark compares with).
    rows_per_batch
        Rows in one batch; batches hold rows of near-equal length.
    imbalance
        How a rare label is made to be seen: ``none``, ``class_weights``, ``oversampling``, ``focal`` or ``logit_adjustment``; the level is corrected
        for it in ``predict`` (``engine.models.imbalance``).
    kept_weight
        Weight of the second target (kept, among rows with the label) in the loss, where the decision points have one.
    max_epochs, patience
        Most epochs, and epochs without a better validation log loss before the fit stops.
    ignore
        Columns not to use (names, or prefixes ending in ``*``).
    """

    event_width: int = 6
    item_width: int = 8
    gap_width: int = 4
    head: int = 24
    dropout: float = 0.3
    learning_rate: float = 4e-3
    weight_decay: float = 3e-2
    rows_per_batch: int = 64
    max_epochs: int = 30
    patience: int = 4
    last_events: int = 128
    batching: Literal["buckets", "tokens", "padded"] = "buckets"
    imbalance: Imbalance = "none"
    kept_weight: float = 0.5
    ignore: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class GRUConfig(TorchConfig):
    """A GRU.

    Parameters
    ----------
    hidden
        Width of the state that is exported.
    """

    hidden: int = 24


class EventInputs(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """An event as numbers: embeddings of type, item and log-bucketed gap, the log gap itself and the amount."""

    def __init__(
        self, *, n_event_types: int, n_items: int, value_mean: float, value_scale: float, config: TorchConfig
    ) -> None:
        super().__init__()
        self.event = nn.Embedding(n_event_types, config.event_width)
        self.item = nn.Embedding(n_items, config.item_width)
        self.gap = nn.Embedding(n_gap_buckets(), config.gap_width)
        self.width = config.event_width + config.item_width + config.gap_width + 2
        self.value_mean, self.value_scale = value_mean, value_scale

    def forward(
        self, event_type: torch.Tensor, item: torch.Tensor, gap_s: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """(n, t) ids and amounts -> (n, t, width)."""
        log_gap = torch.log1p(gap_s.clamp(min=0.0))
        bucket = log_gap.floor().clamp(max=float(n_gap_buckets() - 1)).long()
        amount = torch.sign(value) * torch.log1p(value.abs())
        numbers = torch.stack([log_gap / 10.0, (amount - self.value_mean) / self.value_scale], dim=-1)
        return torch.cat([self.event(event_type), self.item(item), self.gap(bucket), numbers], dim=-1)


class SequenceEncoderNet(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Events to a state vector by a GRU."""

    def __init__(self, *, config: GRUConfig, **sizes: Any) -> None:
        super().__init__()
        self.inputs = EventInputs(config=config, **sizes)
        self.gru = nn.GRU(self.inputs.width, config.hidden, batch_first=True)

    def forward(
        self,
        event_type: torch.Tensor,
        item: torch.Tensor,
        gap_s: torch.Tensor,
        value: torch.Tensor,
        lengths: torch.Tensor,
    ) -> torch.Tensor:
        """State after the last event of each row, (n, hidden); zeros for a row without events."""
        states, _ = self.gru(self.inputs(event_type, item, gap_s, value))  # (n, t, hidden)
        last = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, states.shape[2])
        return states.gather(1, last).squeeze(1) * (lengths > 0).unsqueeze(1).to(states.dtype)


class PropensityNet(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """The encoder's state beside the row's own columns; a linear path keeps what a plain logistic would find.

    A second head on the same hidden layer gives the log odds of being kept *given* the label, so that P(kept) = P(label) P(kept | label)
    can never exceed P(label).
    """

    def __init__(self, encoder: SequenceEncoderNet, *, n_columns: int, config: GRUConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.wide = nn.Linear(n_columns, 1)
        self.deep = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden + 2 + n_columns, config.head),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.head, 1),
        )
        self.kept = nn.Linear(config.head, 1)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Log odds of the label and of being kept given it, (n, 2)."""
        state = self.encoder(batch["event_type"], batch["item"], batch["gap_s"], batch["value"], batch["lengths"])
        joined = torch.cat([state, recency_inputs(batch), batch["columns"]], dim=1)
        return two_heads(self, joined, batch["columns"])


def two_heads(net: Any, joined: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Log odds of the label and of being kept given it, (n, 2), from one hidden layer."""
    hidden = net.deep[:-1](joined)
    return torch.cat([net.wide(columns) + net.deep[-1](hidden), net.kept(hidden)], dim=1)


def recency_inputs(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Log time since the last event and whether there is one, (n, 2)."""
    recency = torch.log1p(batch["gap_to_as_of_s"].clamp(min=0.0))[:, None] / 10.0
    has_events = (batch["lengths"] > 0).float()[:, None]
    return torch.cat([recency * has_events, has_events], dim=1)


class TorchSequenceModel(ABC):
    """Training and scoring that all torch sequence models share; a subclass says what network is built."""

    name = "torch"

    def __init__(self, config: TorchConfig, *, progress: Callable[[str], None] | None = None) -> None:
        self.config = config
        self._progress = progress or (lambda _line: None)
        self._net: Any = None
        self._columns: TabularEncoder | None = None
        self._vocabularies: Mapping[str, Any] = {}
        self._has_kept = False
        self._rate = 0.5
        checked_imbalance(config.imbalance)

    def fit(self, train: SequenceDataset, validation: SequenceDataset) -> FitReport:
        """Fit with early stopping on the validation log loss; the best epoch is kept."""
        started = time.monotonic()
        config = self.config
        rng = np.random.default_rng(config.seed)
        self._begin(train, start_from=(train, validation))
        net, _ = self._fitted()
        optimiser = self._optimiser()
        losses: list[float] = []
        taken: list[float] = []

        def pass_over() -> None:
            begun = time.process_time()
            losses.append(self._pass_over(train, optimiser, rng))
            taken.append(time.process_time() - begun)

        weights, best_epoch, held = fit_epochs(
            self.name,
            Stopping(config.max_epochs, config.patience),
            pass_over=pass_over,
            held_loss=lambda: log_loss(validation.label, self.predict(validation)),
            weights=lambda: copy.deepcopy(net.state_dict()),
            progress=self._progress,
        )
        net.load_state_dict(weights)
        return FitReport(
            n_rows=len(train),
            n_positives=int(train.label.sum()),
            history={
                "train_log_loss": tuple(losses),
                "validation_log_loss": held,
                "train_cpu_seconds": tuple(taken),
            },
            best_step=best_epoch,
            seconds=time.monotonic() - started,
        )

    def refit(
        self, rows: SequenceDataset, *, start_from: tuple[SequenceDataset, SequenceDataset], n_epochs: int
    ) -> None:
        """Fit on all rows for as many epochs as folds found best: what is served then knows every row that was there to learn from.

        Parameters
        ----------
        start_from
            Rows that the logistic regression under the network is fitted on, and rows that choose its penalty.
        """
        rng = np.random.default_rng(self.config.seed)
        self._begin(rows, start_from=start_from)
        optimiser = self._optimiser()
        for epoch in range(1, n_epochs + 1):
            loss = self._pass_over(rows, optimiser, rng)
            self._progress(f"{self.name}: refit, epoch {epoch} of {n_epochs}, {loss:.4f}")

    def _begin(self, train: SequenceDataset, *, start_from: tuple[SequenceDataset, SequenceDataset]) -> None:
        torch.manual_seed(self.config.seed)
        self._columns = TabularEncoder.fit(train, ignore=self.config.ignore)
        self._vocabularies = dict(train.manifest.get("vocabularies", {}))
        self._has_kept = _kept_given_label(train) is not None
        self._rate = float(train.label.mean())
        self._net = self._build(train)
        self._start_from_logistic(self._net, *start_from)

    def _optimiser(self) -> torch.optim.Optimizer:
        """The linear path was fitted with its own penalty: it moves slowly and is not decayed."""
        net, _ = self._fitted()
        wide = {id(p) for p in net.wide.parameters()}
        rate = self.config.learning_rate
        return torch.optim.AdamW(
            [
                {"params": [p for p in net.parameters() if id(p) not in wide]},
                {"params": list(net.wide.parameters()), "lr": rate / 20, "weight_decay": 0.0},
            ],
            lr=rate,
            weight_decay=self.config.weight_decay,
        )

    def _pass_over(self, train: SequenceDataset, optimiser: torch.optim.Optimizer, rng: np.random.Generator) -> float:
        """One epoch; mean loss of a row."""
        net, encoder = self._fitted()
        config = self.config
        if config.imbalance == "oversampling":
            train = train.take(oversampled(train.label, rng))
        columns = encoder.encode(train)
        label = torch.from_numpy(train.label.astype(np.float32))
        kept = _kept_given_label(train)
        loss_of = _loss_under(config.imbalance, train.label)
        padded_to = config.last_events if config.batching == "padded" else None
        net.train()
        total = 0.0
        for rows in self._batches(train, rng):
            optimiser.zero_grad(set_to_none=True)
            batch = tensors(train, columns, rows, last_events=config.last_events, padded_to=padded_to)
            scores = net(batch)
            # Every row weighs the same, whatever the size of the batch it came in.
            loss = loss_of(scores[:, 0], label[rows]) * (len(rows) / config.rows_per_batch)
            if kept is not None:
                loss = loss + config.kept_weight * _kept_loss(scores[:, 1], kept[rows]) / config.rows_per_batch
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            total += float(loss.detach()) * config.rows_per_batch
        return total / len(train)

    def _batches(self, train: SequenceDataset, rng: np.random.Generator) -> Iterator[IntArray]:
        size = self.config.rows_per_batch
        if self.config.batching != "padded":
            lengths = np.minimum(train.lengths, self.config.last_events)
            return bucketed_batches(
                lengths, rows_per_batch=size, rng=rng, equal_tokens=self.config.batching == "tokens"
            )
        order = rng.permutation(len(train))
        return (order[i : i + size] for i in range(0, len(order), size))

    def _start_from_logistic(self, net: Any, train: SequenceDataset, validation: SequenceDataset) -> None:
        """Begin at the ridge logistic regression on the columns; what the sequence adds is learned on top of it.

        On small data a network that starts from nothing spends its rows on finding what the logistic knows.
        """
        assert self._columns is not None
        beta, _, _ = best_ridge_logistic(
            self._columns.encode(train), train.label, self._columns.encode(validation), validation.label
        )
        # Where the loss is to see another rate, the start is at that rate too.
        shift = float(logit(np.array([train.label.mean()]))[0]) if self.config.imbalance in _SHIFTED else 0.0
        with torch.no_grad():
            net.wide.weight.copy_(torch.from_numpy(beta[None, :-1].astype(np.float32)))
            net.wide.bias.fill_(float(beta[-1]) - shift)
            last = net.deep[-1]
            last.weight.zero_()
            last.bias.zero_()

    @abstractmethod
    def _build(self, train: SequenceDataset) -> Any:
        """The untrained network for this data."""

    def _input_sizes(self, train: SequenceDataset) -> dict[str, Any]:
        """Vocabulary sizes and the scale of amounts, as the networks take them."""
        amount = np.sign(train.value) * np.log1p(np.abs(train.value))
        return {
            "n_event_types": _vocabulary_size(self._vocabularies, "event_type", train.event_type),
            "n_items": _vocabulary_size(self._vocabularies, "item", train.item),
            "value_mean": float(amount.mean()) if len(amount) else 0.0,
            "value_scale": max(float(amount.std()), 1e-3) if len(amount) else 1.0,
        }

    def predict(self, data: SequenceDataset) -> FloatArray:
        """Probability of the label for each row, shape ``(n,)``."""
        return corrected(self._probabilities(data)[:, 0], how=self.config.imbalance, rate=self._rate)

    def predict_kept(self, data: SequenceDataset) -> FloatArray | None:
        """Probability of being kept for each row, ``(n,)``, never above that of the label; None where the fit had no such target."""
        if not self._has_kept:
            return None
        return self.predict(data) * self._probabilities(data)[:, 1]

    def _probabilities(self, data: SequenceDataset) -> FloatArray:
        """Of the label, and of being kept given it, (n, 2)."""
        net, encoder = self._fitted()
        columns = encoder.encode(data)
        out = np.zeros((len(data), 2))
        net.eval()
        with torch.inference_mode():
            for rows in bucketed_batches(data.lengths, rows_per_batch=1024, rng=None):
                scores = net(self._known_ids(tensors(data, columns, rows, last_events=self.config.last_events)))
                out[rows] = torch.sigmoid(scores.double()).numpy()
        return out

    def _known_ids(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Ids beyond the vocabulary of the fit are unknown (0)."""
        net, _ = self._fitted()
        for name, table in (("event_type", net.encoder.inputs.event), ("item", net.encoder.inputs.item)):
            ids = batch[name]
            batch[name] = torch.where(ids < table.num_embeddings, ids, torch.zeros_like(ids))
        return batch

    def _fitted(self) -> tuple[Any, TabularEncoder]:
        if self._net is None or self._columns is None:
            raise NotFittedError(f"the model {self.name!r} is not fitted; call fit first")
        return self._net, self._columns

    def to_artifacts(self) -> Mapping[str, Artifact]:
        """The whole network as an ONNX graph, servable through ONNX Runtime."""
        net, columns = self._fitted()
        served = served_artifact(
            self._graph({name: _array(block) for name, block in net.state_dict().items()}),
            name=self.name,
            columns=columns,
            events={
                "last_events": self.config.last_events,
                "n_event_types": net.encoder.inputs.event.num_embeddings,
                "n_items": net.encoder.inputs.item.num_embeddings,
            },
            imbalance=self.config.imbalance,
            rate=self._rate,
            has_kept=self._has_kept,
        )
        return {"served": served}

    @abstractmethod
    def _graph(self, weights: dict[str, NDArray[np.float32]]) -> bytes:
        """Events and columns to ``score`` (n, 2)."""


class TorchGRU(TorchSequenceModel):
    """``PropensityModel`` of a GRU; see ``GRUConfig``."""

    name = "gru"
    config: GRUConfig

    def __init__(self, config: GRUConfig | None = None, *, progress: Callable[[str], None] | None = None) -> None:
        super().__init__(config or GRUConfig(), progress=progress)

    def _build(self, train: SequenceDataset) -> PropensityNet:
        assert self._columns is not None
        encoder = SequenceEncoderNet(config=self.config, **self._input_sizes(train))
        return PropensityNet(encoder, n_columns=self._columns.width, config=self.config)

    def to_artifacts(self) -> Mapping[str, Artifact]:
        """The encoder beside the whole network."""
        net, _ = self._fitted()
        encoder = export_encoder(net.encoder, config=self.config, vocabularies=self._vocabularies)
        return {"sequence_encoder": encoder, **super().to_artifacts()}

    def _graph(self, weights: dict[str, NDArray[np.float32]]) -> bytes:
        net, _ = self._fitted()
        return gru_graph(_gru_weights(net.encoder), weights)


def export_encoder(encoder: SequenceEncoderNet, *, config: GRUConfig, vocabularies: Mapping[str, Any]) -> Artifact:
    """Write the encoder and its step cell as ONNX graphs under kind ``sequence_encoder``."""
    weights = _gru_weights(encoder)
    return Artifact(
        kind=KIND,
        manifest={
            "width": config.hidden,
            "last_events": config.last_events,
            "n_event_types": encoder.inputs.event.num_embeddings,
            "n_items": encoder.inputs.item.num_embeddings,
            "vocabularies": dict(vocabularies),
            "config": {**asdict(config), "ignore": list(config.ignore)},
        },
        blobs={"encoder.onnx": encoder_graph(weights), "step.onnx": step_graph(weights)},
    )


def _gru_weights(encoder: SequenceEncoderNet) -> GRUWeights:
    return GRUWeights(
        **event_weights(encoder.inputs),
        input_weight=_array(encoder.gru.weight_ih_l0),
        state_weight=_array(encoder.gru.weight_hh_l0),
        input_bias=_array(encoder.gru.bias_ih_l0),
        state_bias=_array(encoder.gru.bias_hh_l0),
    )


def event_weights(inputs: EventInputs) -> dict[str, Any]:
    """Fields of ``onnx_graphs.EventWeights``."""
    return {
        "event": _array(inputs.event.weight),
        "item": _array(inputs.item.weight),
        "gap": _array(inputs.gap.weight),
        "value_mean": inputs.value_mean,
        "value_scale": inputs.value_scale,
    }


def _array(parameter: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(parameter.detach().numpy(), dtype=np.float32)


def tensors(
    data: SequenceDataset,
    columns: NDArray[np.float32],
    rows: IntArray,
    *,
    last_events: int,
    padded_to: int | None = None,
) -> dict[str, torch.Tensor]:
    """One batch; padded to its longest row, or to ``padded_to``."""
    padded = data.padded(rows, length=last_events)
    extra = 0 if padded_to is None else padded_to - padded["gap_s"].shape[1]
    if extra > 0:
        padded = {n: b if b.ndim == 1 else np.pad(b, ((0, 0), (0, extra))) for n, b in padded.items()}
    return {
        "event_type": torch.from_numpy(padded["event_type"].astype(np.int64)),
        "item": torch.from_numpy(padded["item"].astype(np.int64)),
        "gap_s": torch.from_numpy(padded["gap_s"].astype(np.float32)),
        "value": torch.from_numpy(padded["value"]),
        "lengths": torch.from_numpy(padded["lengths"]),
        "gap_to_as_of_s": torch.from_numpy(data.gap_to_as_of_s[rows].astype(np.float32)),
        "columns": torch.from_numpy(columns[rows]),
    }


def _loss_under(how: Imbalance, label: FloatArray) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Mean loss of a batch, from log odds and labels."""
    if how == "class_weights":
        heavier = torch.tensor(positive_weight(label), dtype=torch.float32)
        return nn.BCEWithLogitsLoss(pos_weight=heavier)  # type: ignore[no-any-return]  # torch is not followed by mypy
    if how == "logit_adjustment":
        prior = float(logit(np.array([label.mean()]))[0])
        plain = nn.BCEWithLogitsLoss()
        return lambda score, target: plain(score + prior, target)
    if how == "focal":

        def focal(score: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            losses = nn.functional.binary_cross_entropy_with_logits(score, target, reduction="none")
            return (losses * (1.0 - torch.exp(-losses)) ** GAMMA).mean()

        return focal
    return nn.BCEWithLogitsLoss()  # type: ignore[no-any-return]  # torch is not followed by mypy


def _kept_given_label(train: SequenceDataset) -> torch.Tensor | None:
    """The second target among rows with the label, nan elsewhere, (n,); None where it has not both outcomes."""
    if train.kept is None:
        return None
    kept = np.where(train.label == 1.0, train.kept, np.nan)
    known = kept[np.isfinite(kept)]
    if not len(known) or known.min() == known.max():
        return None
    return torch.from_numpy(kept.astype(np.float32))


def _kept_loss(score: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Summed log loss over the rows whose second target is known."""
    known = torch.isfinite(kept)
    return nn.functional.binary_cross_entropy_with_logits(score[known], kept[known], reduction="sum")


def _vocabulary_size(vocabularies: Mapping[str, Any], name: str, ids: NDArray[np.int32]) -> int:
    return max(len(vocabularies.get(name, ())) + 1, int(ids.max(initial=0)) + 1)

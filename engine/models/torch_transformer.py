"""PyTorch: a Transformer over events in continuous time, read by attention that the offer asks.

Each event knows how long before the decision it happened (not only its place in the list); the row's own columns, the
offer's among them, form the query that weighs the events (target attention), so that two offers may look at different
parts of one history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.models.dataset import SequenceDataset
from engine.models.onnx_graphs import EventWeights
from engine.models.onnx_propensity import transformer_graph
from engine.models.torch_sequence import (
    EventInputs,
    TorchConfig,
    TorchSequenceModel,
    event_weights,
    recency_inputs,
    two_heads,
)


@dataclass(frozen=True, slots=True)
class TransformerConfig(TorchConfig):
    """A Transformer with target attention.

    Parameters
    ----------
    width, heads, layers
        Size of the blocks; ``width`` is a multiple of ``heads``.
    """

    # Attention costs the square of the length: long rows in small batches, short rows in large ones.
    batching: Literal["buckets", "tokens", "padded"] = "tokens"
    width: int = 24
    heads: int = 2
    layers: int = 1


class Block(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Self-attention and a small dense layer, each added to what came in (pre-norm)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, width = config.heads, config.width
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """``x`` is (n, t, width), ``visible`` (n, 1, 1, t)."""
        n, t, width = x.shape
        q, k, v = self.qkv(self.first(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(n, t, width)))
        return x + self.dropout(self.dense(self.second(x)))


class EventTransformer(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Events to states; a learned first token is always visible, so that a row without events has something to look at."""

    def __init__(self, *, config: TransformerConfig, **sizes: Any) -> None:
        super().__init__()
        self.inputs = EventInputs(config=config, **sizes)
        self.project = nn.Linear(self.inputs.width + 2, config.width)
        self.start = nn.Parameter(torch.zeros(config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    def forward(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """States (n, 1 + t, width) and which of them are visible (n, 1 + t)."""
        events = self.inputs(batch["event_type"], batch["item"], batch["gap_s"], batch["value"])
        n, t = events.shape[:2]
        inside = torch.arange(t)[None, :] < batch["lengths"][:, None]
        # Seconds before the decision: what is still to come of the gaps, plus the last gap. Padding has gap 0.
        gaps = batch["gap_s"] * inside
        before = gaps.sum(dim=1, keepdim=True) - gaps.cumsum(dim=1) + batch["gap_to_as_of_s"][:, None]
        age = torch.log1p(before.clamp(min=0.0)) / 10.0
        place = (batch["lengths"][:, None] - 1 - torch.arange(t)[None, :]).clamp(min=0).float()
        x = self.project(torch.cat([events, age[..., None], torch.log1p(place)[..., None] / 3.0], dim=-1))
        x = torch.cat([self.start.expand(n, 1, -1), x], dim=1)
        visible = torch.cat([torch.ones(n, 1, dtype=torch.bool), inside], dim=1)
        for block in self.blocks:
            x = block(x, visible[:, None, None, :])
        return x, visible


class TargetAttentionNet(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """The row's columns ask, the events answer; a linear path keeps what a plain logistic would find."""

    def __init__(self, encoder: EventTransformer, *, n_columns: int, config: TransformerConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.query = nn.Linear(n_columns, config.width)
        self.wide = nn.Linear(n_columns, 1)
        self.deep = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(config.width + 2 + n_columns, config.head),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.head, 1),
        )
        self.kept = nn.Linear(config.head, 1)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Log odds of the label and of being kept given it, (n, 2)."""
        states, visible = self.encoder(batch)
        query = self.query(batch["columns"])[:, None, :]
        read = nn.functional.scaled_dot_product_attention(query, states, states, attn_mask=visible[:, None, :])
        joined = torch.cat([read.squeeze(1), recency_inputs(batch), batch["columns"]], dim=1)
        return two_heads(self, joined, batch["columns"])


class TorchTransformer(TorchSequenceModel):
    """``PropensityModel`` of a Transformer; see ``TransformerConfig``."""

    name = "transformer"
    config: TransformerConfig

    def __init__(
        self, config: TransformerConfig | None = None, *, progress: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(config or TransformerConfig(), progress=progress)

    def _build(self, train: SequenceDataset) -> TargetAttentionNet:
        assert self._columns is not None
        encoder = EventTransformer(config=self.config, **self._input_sizes(train))
        return TargetAttentionNet(encoder, n_columns=self._columns.width, config=self.config)

    def _graph(self, weights: dict[str, NDArray[np.float32]]) -> bytes:
        net, _ = self._fitted()
        events = EventWeights(**event_weights(net.encoder.inputs))
        return transformer_graph(events, weights, heads=self.config.heads, layers=self.config.layers)

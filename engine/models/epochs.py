"""Epochs with early stopping, the same for every network whatever its framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a fit ends.

    Parameters
    ----------
    max_epochs, patience
        Most epochs, and epochs without a better validation log loss before the fit stops.
    """

    max_epochs: int
    patience: int


def fit_epochs(
    name: str,
    stopping: Stopping,
    *,
    pass_over: Callable[[], Any],
    held_loss: Callable[[], float],
    weights: Callable[[], Any],
    progress: Callable[[str], None],
) -> tuple[Any, int, tuple[float, ...]]:
    """Pass over the training rows until the validation loss gets no better.

    Parameters
    ----------
    pass_over
        One epoch.
    held_loss
        Validation log loss as the network is now.
    weights
        A copy of the network's weights.

    Returns
    -------
    tuple
        Weights of the best epoch, its number (0: the start was best), and the validation loss at the start and after each epoch.
    """
    losses = [held_loss()]
    best, best_epoch, kept = losses[0], 0, weights()
    for epoch in range(1, stopping.max_epochs + 1):
        pass_over()
        losses.append(held_loss())
        progress(f"{name}: epoch {epoch}, validation {losses[-1]:.4f}")
        if losses[-1] < best - 1e-5:
            best, best_epoch, kept = losses[-1], epoch, weights()
        elif epoch - best_epoch >= stopping.patience:
            break
    return kept, best_epoch, tuple(losses)

"""What the benchmark of the loop says, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks._loop import Lived, LoopSettings
from benchmarks.loop import _decisions_until, _recovered


def _lived(clicked: list[float]) -> Lived:
    return Lived(np.asarray(clicked), np.full(len(clicked), 100), (), 0)


def test_recovered_is_the_share_of_the_loss_that_was_won_back() -> None:
    """Shock on day 1: two days at half of the way, then all of it; 80 % is reached with the third and fourth day."""
    settings = LoopSettings(n_days=6, shock_day=1)
    lives = {
        "loop": _lived([0.5, 0.2, 0.2, 0.3, 0.3, 0.3]),
        "frozen": _lived([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]),
        "knew": _lived([0.5, 0.3, 0.3, 0.3, 0.3, 0.3]),
    }
    share = _recovered(lives, settings)  # type: ignore[arg-type]  # names of lives
    assert share == pytest.approx([0.5, 0.75, 1.0, 1.0])
    assert _decisions_until(share, lives["loop"], settings) == 400
    assert _decisions_until(np.zeros(4), lives["loop"], settings) == 500

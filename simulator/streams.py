"""Random numbers that belong to a subject, not to a batch.

Each number is a hash of (seed, subject, purpose, counter), so that two policies meet the same luck and a
subject's fate does not depend on how subjects are grouped, split over processes or ordered.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from policies.records import FloatArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


class Purpose(IntEnum):
    """What a number is for: streams of different purposes are independent."""

    ARRIVAL = 1
    TRAITS = 2
    TASTE = 3
    RETURN = 4
    TIME_OF_DAY = 5
    CLICK = 6
    CONVERT = 7
    DELAY = 8
    CANCEL = 9
    DRAW = 10


def uniforms(seed: int, subjects: NDArray[np.int64], purpose: Purpose, counter: NDArray[np.int64] | int) -> FloatArray:
    """One number in (0, 1) per subject, shape ``(n,)``, from a 64-bit mix (splitmix64's finaliser, twice).

    References
    ----------
    Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators"; Salmon et al. (2011),
    "Parallel random numbers: as easy as 1, 2, 3" for the idea of counters instead of state.
    """
    with np.errstate(over="ignore"):
        key = _mix(np.uint64(seed % 2**64) * _GOLDEN + np.uint64(int(purpose)))
        x = _mix(subjects.astype(np.uint64) * _GOLDEN + key)
        x = _mix(x + np.asarray(counter, dtype=np.uint64) * _M1)
    return (np.asarray(x >> np.uint64(11), dtype=np.float64) + 0.5) * 2.0**-53


def normals(seed: int, subjects: NDArray[np.int64], purpose: Purpose, counter: NDArray[np.int64] | int) -> FloatArray:
    """One standard normal per subject, by Box and Muller from two counters (``2 c`` and ``2 c + 1``)."""
    first = uniforms(seed, subjects, purpose, 2 * np.asarray(counter) + 1000)
    second = uniforms(seed, subjects, purpose, 2 * np.asarray(counter) + 1001)
    return np.asarray(np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second), dtype=np.float64)


def _mix(x: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    x = np.asarray(x, dtype=np.uint64) + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return np.asarray(x ^ (x >> np.uint64(31)))

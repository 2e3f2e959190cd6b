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
# What one step of the counter adds to a key: keeping ``key + counter * COUNTER_STEP`` saves a product a number.
COUNTER_STEP = np.uint64(0x8CB92BA72F3D8DD7)


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
    DRIFT = 11


def subject_keys(seed: int, subjects: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One key per subject, shape ``(n,)``: two scrambles of seed and id, worth keeping where many numbers are drawn."""
    base = _mix(np.asarray([seed % 2**64], dtype=np.uint64))
    return _mix(_mix(subjects.astype(np.uint64) * _GOLDEN) ^ base)


def words(
    keys: NDArray[np.uint64], purpose: Purpose, counter: NDArray[np.int64] | NDArray[np.int32] | int
) -> NDArray[np.uint64]:
    """64 random bits per key for one purpose and counter, shape ``(n,)``.

    References
    ----------
    Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators" for the mix; Salmon et al. (2011),
    "Parallel random numbers: as easy as 1, 2, 3" for the idea of counters instead of state.
    """
    if isinstance(counter, int):
        return _mix(keys + _offset(purpose, counter))
    return _mix(keys + (counter.astype(np.uint64) * COUNTER_STEP + _offset(purpose, 0)))


def offsets(*streams: tuple[Purpose, int]) -> NDArray[np.uint64]:
    """What pairs of purpose and counter add to a key, for ``many_words``."""
    return np.asarray([_offset(*stream) for stream in streams])


def many_words(keys: NDArray[np.uint64], added: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """``words`` of each key for several ``offsets`` at once, shape ``(len(added), n)``."""
    return _mix(added[:, None] + keys)


def _offset(purpose: Purpose, counter: int) -> np.uint64:
    return np.uint64((int(purpose) * 0xD1B54A32D192ED03 + counter * int(COUNTER_STEP)) % 2**64)


def uniforms(seed: int, subjects: NDArray[np.int64], purpose: Purpose, counter: NDArray[np.int64] | int) -> FloatArray:
    """One number in (0, 1) per subject, shape ``(n,)``, with 53 bits."""
    return unit(words(subject_keys(seed, subjects), purpose, counter))


def unit(bits: NDArray[np.uint64]) -> FloatArray:
    """Numbers in (0, 1) from the upper 53 bits of words."""
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def unit32(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Numbers in (0, 1) from the upper 23 bits of words: ``unit`` rounded to what float32 holds exactly."""
    return ((bits >> np.uint64(41)).astype(np.int32).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def normals(seed: int, subjects: NDArray[np.int64], purpose: Purpose, counter: NDArray[np.int64] | int) -> FloatArray:
    """One standard normal per subject, by Box and Muller from the two halves of one word."""
    return normal(words(subject_keys(seed, subjects), purpose, counter)).astype(np.float64)


def normal(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Standard normals from words; float32 on purpose (the simulator's one form), largest size 6.7."""
    first = ((bits >> np.uint64(32)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    second = (bits & np.uint64(0xFFFFFFFF)).astype(np.float32) * np.float32(2.0**-32 * 2.0 * np.pi)
    np.log(first, out=first)
    first *= np.float32(-2.0)
    # Rounding can lift the largest word to 1 and its logarithm to 0, never above.
    np.sqrt(np.maximum(first, 0, out=first), out=first)
    first *= np.cos(second, out=second)
    return first


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's step and finaliser; wraps around on purpose (array arithmetic does so silently)."""
    x = x + _GOLDEN
    x ^= x >> np.uint64(30)
    x *= _M1
    x ^= x >> np.uint64(27)
    x *= _M2
    x ^= x >> np.uint64(31)
    return x

"""Counter-based random streams: every number is a hash of (seed, subject, counter, purpose).

Nothing is consumed, so a subject's luck depends neither on who else is in the batch nor on what was drawn
for other purposes: two policies that meet the same subject meet the same luck.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_PURPOSE = np.uint64(0xD1B54A32D192ED03)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S32, _S11, _S40, _S8 = (np.uint64(s) for s in (30, 27, 31, 32, 11, 40, 8))
_MASK24 = np.uint64(0xFFFFFF)
_TO_UNIT24 = np.float32(2.0**-24)


class Purpose(IntEnum):
    """What a number is for; one stream each."""

    SUBJECT = 1
    ROW = 2
    DEVICE = 3
    CHANNEL = 4
    STAGE = 5
    TASTE_SIZE = 6
    TASTE_ELECTRIC = 7
    PRICE = 8
    SURVIVAL = 9
    ARRIVAL = 10
    RESPONSE = 11
    RETURN = 12
    TIME_OF_DAY = 13
    DECISION = 14
    EXTRA = 15


def mix(words: UInt64Array) -> UInt64Array:
    """Scramble 64-bit words in place so that every input bit reaches every output bit (SplitMix64's finaliser).

    References
    ----------
    Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators".
    """
    words ^= words >> _S30
    words *= _MULTIPLY_1
    words ^= words >> _S27
    words *= _MULTIPLY_2
    words ^= words >> _S31
    return words


def subject_keys(seed: int, subjects: NDArray[Any]) -> UInt64Array:
    """One key per subject number, shape ``(n,)``."""
    base = mix(np.asarray([seed], dtype=np.int64).astype(np.uint64) * _GOLDEN + _PURPOSE)
    return mix(mix(subjects.astype(np.uint64) + _GOLDEN) ^ base)


def words(keys: UInt64Array, counter: NDArray[Any] | int, purpose: Purpose) -> UInt64Array:
    """64 random bits per key for one counter and purpose."""
    count = np.uint64(counter) if isinstance(counter, int) else counter.astype(np.uint64)
    with np.errstate(over="ignore"):
        return mix(keys + count * _GOLDEN + np.uint64(purpose) * _PURPOSE)


def uniforms(keys: UInt64Array, counter: NDArray[Any] | int, purpose: Purpose) -> NDArray[np.float64]:
    """One number in [0, 1) per key, with 53 bits."""
    return np.asarray((words(keys, counter, purpose) >> _S11).astype(np.float64) * 2.0**-53)


def uniform_pair(
    keys: UInt64Array, counter: NDArray[Any] | int, purpose: Purpose
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two independent float32 numbers in [0, 1) per key from one word, 24 bits each."""
    bits = words(keys, counter, purpose)
    high = (bits >> _S40).astype(np.uint32).astype(np.float32)
    low = ((bits >> _S8) & _MASK24).astype(np.uint32).astype(np.float32)
    return high * _TO_UNIT24, low * _TO_UNIT24

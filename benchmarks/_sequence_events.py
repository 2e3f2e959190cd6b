"""Raw events to measure the sequence builder on: many subjects of uneven length, optionally a few enormous ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

KINDS = ("view", "search", "cart", "checkout", "buy", "support")
N_ITEMS = 2_000
START_US = 1_700_000_000_000_000
DAY_US = 86_400_000_000
SPAN_DAYS = 180
ROWS_PER_FILE = 1_000_000
MEAN_LENGTH = 50
# No ordinary subject is longer than this; the builder's bounded path begins well above.
LONGEST = 20_000


def write_world(
    folder: Path, *, n_events: int, seed: int, heavy_subjects: int = 0, heavy_share: float = 0.0, points_each: int = 1
) -> dict[str, int]:
    """Write ``events/*.parquet`` (in the order of time), ``points.parquet`` and ``words/*.parquet``.

    Lengths of ordinary subjects are log-normal (sigma 1.2), cut at 20,000; ``heavy_share`` of the events belongs to
    ``heavy_subjects`` subjects in equal parts. Each subject is looked at once at the end, every fifth also once before, and
    heavy ones ``points_each`` times.

    Returns
    -------
    dict
        Numbers of events, subjects and points, and the length of the longest subject.
    """
    rng = np.random.default_rng(seed)
    (folder / "events").mkdir(parents=True)
    (folder / "words").mkdir()
    subject = _subjects(rng, n_events, heavy_subjects=heavy_subjects, heavy_share=heavy_share)
    # Whole seconds for a part of the events, so that many share an instant and the order by id decides.
    at = START_US + rng.integers(0, SPAN_DAYS * DAY_US, size=n_events)
    at = np.sort(np.where(rng.random(n_events) < 0.2, at // 1_000_000 * 1_000_000, at))
    columns: dict[str, Any] = {
        "subject": _name("s", subject),
        "at": pa.array(at, pa.timestamp("us", tz="UTC")),
        "kind": pa.DictionaryArray.from_arrays(rng.integers(0, len(KINDS), n_events).astype(np.int32), list(KINDS)),
        "item": _name("item-", np.minimum(rng.zipf(1.3, n_events), N_ITEMS).astype(np.int64)),
        "value": pa.array(np.round(rng.gamma(2.0, 20.0, n_events) * 4) / 4),
        "id": _name("", rng.permutation(n_events).astype(np.int64)),
    }
    columns["kind"] = columns["kind"].cast(pa.string())
    events = pa.table(columns)
    for start in range(0, n_events, ROWS_PER_FILE):
        part = events.slice(start, ROWS_PER_FILE)
        pq.write_table(part, folder / "events" / f"{start:010d}.parquet", compression="zstd")
    n_subjects = int(subject.max()) + 1
    n_points = _write_points(folder, rng, n_subjects, heavy_subjects=heavy_subjects, points_each=points_each)
    # The last kind and every item beyond the thousand most frequent stay unknown words.
    _write_words(folder, "event_type", list(KINDS[:-1]))
    _write_words(folder, "item", [f"item-{i}" for i in range(1, N_ITEMS // 2 + 1)])
    longest = int(np.bincount(subject).max())
    return {"events": n_events, "subjects": n_subjects, "points": n_points, "longest": longest}


def _subjects(rng: np.random.Generator, n_events: int, *, heavy_subjects: int, heavy_share: float) -> NDArray[np.int64]:
    """Whose each event is, in random order; heavy subjects have the lowest numbers."""
    n_heavy = round(n_events * heavy_share)
    heavy = np.arange(n_heavy) % max(heavy_subjects, 1)
    n_light = n_events - n_heavy
    n_subjects = max(1, n_light // MEAN_LENGTH)
    lengths = np.clip(rng.lognormal(0.0, 1.2, n_subjects), None, LONGEST / 10)
    light = heavy_subjects + np.repeat(np.arange(n_subjects), rng.multinomial(n_light, lengths / lengths.sum()))
    return rng.permutation(np.concatenate([heavy, light])).astype(np.int64)


def _write_points(
    folder: Path, rng: np.random.Generator, n_subjects: int, *, heavy_subjects: int, points_each: int
) -> int:
    at_end = np.arange(n_subjects)
    earlier = at_end[at_end % 5 == 0]
    more = np.repeat(np.arange(heavy_subjects), max(0, points_each - 1))
    subject = np.concatenate([at_end, earlier, more])
    days = np.concatenate([np.full(n_subjects, SPAN_DAYS), rng.integers(60, SPAN_DAYS, len(earlier) + len(more))])
    points = pa.table(
        {
            "point": pa.array(np.arange(len(subject)), pa.int64()),
            "subject": _name("s", subject),
            "as_of": pa.array(START_US + days * DAY_US, pa.timestamp("us", tz="UTC")),
        }
    )
    pq.write_table(points, folder / "points.parquet")
    return len(subject)


def _write_words(folder: Path, name: str, words: list[str]) -> None:
    numbers = pa.array(np.arange(1, len(words) + 1), pa.int32())
    pq.write_table(pa.table({"word": words, "number": numbers}), folder / "words" / f"{name}.parquet")


def _name(prefix: str, numbers: NDArray[np.int64]) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pc.cast(pa.array(numbers), pa.string()), "")

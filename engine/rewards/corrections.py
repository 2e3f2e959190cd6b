"""Late truth: what became known of decisions after they were exported is put into the files, and the difference is told.

A reward that was reported late, an outcome that was attributed anew because two ids turned out to be one person, a decision that was
seen late or taken back, a subject that was erased: each touches decisions that lie in a file already. Those files are joined again
from the ledger as it is now; all others stay as they are.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import select

from engine.rewards.definition import RewardDefinition
from engine.rewards.export import union_of_offers
from engine.rewards.files import Manifest, parquet_table
from engine.rewards.joined import MICROSECONDS, Stretch, join
from engine.store import tables
from engine.store.cold import write_whole
from engine.store.database import Database, in_parts
from engine.store.facts import DECISION, to_us
from engine.store.retention import oldest_offset
from engine.subjects.erasure import pseudonyms
from engine.subjects.links import people_of
from policies.errors import InvalidInputError
from policies.records import OfferSet

# Facts that name a decision; its offset comes from the table of keys.
_BY_DECISION = (
    "SELECT k.ledger_offset FROM {table} f JOIN fact_keys k ON k.kind = :kind AND k.id = f.decision "
    "WHERE f.ledger_offset >= :since AND f.ledger_offset < :known AND k.ledger_offset < :exported"
)


@dataclass(frozen=True, slots=True)
class LateTruth:
    """What was believed of exported decisions, and what is true now.

    Parameters
    ----------
    n_rows
        Decisions that were exported before.
    n_changed, n_added, n_dropped
        Decisions whose reward is another now, that count now and did not, and the other way round.
    mean_before, mean_now
        Mean reward of all of them, as believed then and as known now.
    n_files
        Files that were written anew.
    n_frozen
        Files that late facts touch but whose decisions retention has moved to the cold path: they stay as they were.
    """

    n_rows: int
    n_changed: int
    n_added: int
    n_dropped: int
    mean_before: float
    mean_now: float
    n_files: int
    n_frozen: int = 0

    @property
    def is_any(self) -> bool:
        """Whether anything is other than it was believed."""
        return bool(self.n_changed or self.n_added or self.n_dropped)

    def sentence(self) -> str:
        """In words."""
        if not self.is_any:
            return f"Nothing that was believed of {self.n_rows:,} decisions has changed."
        return (
            f"Of {self.n_rows:,} decisions that were known before, {self.n_changed:,} have another reward now, {self.n_added:,} came "
            f"to them and {self.n_dropped:,} fell away; their mean reward is {self.mean_now:.5g}, not {self.mean_before:.5g}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "sentence": self.sentence()}


def correct_files(database: Database, folder: Path, *, as_of: datetime) -> LateTruth:
    """Bring an export of ``export_files`` (Parquet) up to what is known now of the decisions in it.

    Parameters
    ----------
    as_of
        Facts up to this moment count.
    """
    document: dict[str, Any] = orjson.loads((folder / "_manifest.json").read_bytes())
    if document["form"] != "parquet":
        raise InvalidInputError(f"{folder} is an export as {document['form']}; only Parquet is corrected")
    manifest = Manifest(folder, document)
    known, as_of_us = database.head(), to_us(as_of)
    definition = RewardDefinition.from_json(document["definition"])
    entries: list[dict[str, Any]] = list(document["files"])
    before = [_rewards(folder / e["path"]) for e in entries]
    n_rows = sum(map(len, before))
    total = sum(sum(b.values()) for b in before)
    n_erasures = len(pseudonyms(database))
    touched = (
        set(range(len(entries)))
        if n_erasures != document["n_erasures"]
        else _touched(database, document, entries, known=known, window_us=round(definition.window_s * MICROSECONDS))
    )
    changed = added = dropped = n_files = n_frozen = 0
    oldest = oldest_offset(database)
    now_total, now_rows = total, n_rows
    kept = list(entries)
    for i in sorted(touched, reverse=True):
        stretch = Stretch(_start(entries, i), _end(document, entries, i), known, as_of_us)
        if _offset_of(entries[i]) < oldest:
            n_frozen += 1
            _forget_erased(database, folder / entries[i]["path"], stretch)
            continue
        is_other, after = _write_again(database, document, manifest, definition, folder, entries[i], stretch)
        if not is_other:
            continue
        n_files += 1
        old = before[i]
        changed += sum(1 for d, r in after.items() if d in old and old[d] != r)
        added += len(after.keys() - old.keys())
        dropped += len(old.keys() - after.keys())
        now_total += sum(after.values()) - sum(old.values())
        now_rows += len(after) - len(old)
        if after:
            kept[i] = {**entries[i], "n_rows": len(after), "corrected_at": known}
        else:
            del kept[i]
    document["files"] = kept
    document["n_rows"] = sum(e["n_rows"] for e in kept)
    document["known_offset"], document["n_erasures"] = known, n_erasures
    manifest.write()
    for path in {e["path"] for e in entries} - {e["path"] for e in kept}:
        (folder / path).unlink(missing_ok=True)
    return LateTruth(
        n_rows,
        changed,
        added,
        dropped,
        total / n_rows if n_rows else 0.0,
        now_total / now_rows if now_rows else 0.0,
        n_files,
    )


def _forget_erased(database: Database, path: Path, stretch: Stretch) -> None:
    """Take subjects out of a file whose decisions nobody can join again."""
    table = tables.decisions
    query = select(table.c.subject).where(
        table.c.ledger_offset >= stretch.first_offset, table.c.ledger_offset < stretch.end_offset
    )
    with database.reading() as connection:
        there = pa.array(sorted(set(connection.execute(query).scalars())), pa.string())
    found = pq.read_table(path)
    kept = found.filter(pc.is_in(found["subject"], value_set=there))
    if kept.num_rows < found.num_rows:
        write_whole(kept, path)


def _offset_of(entry: dict[str, Any]) -> int:
    return int(Path(entry["path"]).name.partition(".")[0])


def _start(entries: list[dict[str, Any]], i: int) -> int:
    """A file also answers for what lies between it and the one before: decisions that did not count may count now."""
    return 1 if i == 0 else _offset_of(entries[i])


def _end(document: dict[str, Any], entries: list[dict[str, Any]], i: int) -> int:
    return int(document["next_offset"]) if i + 1 == len(entries) else _offset_of(entries[i + 1])


def _rewards(path: Path) -> dict[str, float]:
    table = pq.read_table(path, columns=["decision_id", "reward"])
    return dict(zip(table["decision_id"].to_pylist(), table["reward"].to_pylist(), strict=True))


def _touched(
    database: Database, document: dict[str, Any], entries: list[dict[str, Any]], *, known: int, window_us: int
) -> set[int]:
    """Which files hold decisions that a fact has come for since the last look."""
    if not entries:
        return set()
    values = {"since": document["known_offset"], "known": known, "exported": document["next_offset"]}
    offsets: set[int] = set()
    for table in ("rewards", "activations", "voids"):
        sql = _BY_DECISION.format(table=table)
        offsets.update(int(r[0]) for r in database.rows(sql, kind=DECISION, **values))
    moved = sorted(offsets) if offsets else []
    offsets |= _of_subjects(database, document["placement"], values, moved, window_us=window_us)
    starts = [_start(entries, i) for i in range(len(entries))]
    return {max(bisect_right(starts, offset) - 1, 0) for offset in offsets}


def _of_subjects(
    database: Database, placement: str, values: dict[str, Any], moved: list[int], *, window_us: int
) -> set[int]:
    """Decisions of persons to whom an outcome came, who turned out to be one person, or of whom a decision was seen or voided."""
    outcomes, links, decisions = tables.outcomes, tables.links, tables.decisions
    since, known = values["since"], values["known"]
    with database.reading() as connection:
        came = connection.execute(
            select(outcomes.c.subject, outcomes.c.at_us).where(
                outcomes.c.ledger_offset >= since, outcomes.c.ledger_offset < known
            )
        ).all()
        linked = connection.execute(
            select(links.c.subject, links.c.identified_as).where(
                links.c.ledger_offset >= since, links.c.ledger_offset < known
            )
        ).all()
        earliest: dict[str, int] = {}
        for subject, at_us in came:
            earliest[subject] = min(earliest.get(subject, at_us), at_us)
        for pair in linked:
            for subject in pair:
                earliest[subject] = 0
        for start in range(0, len(moved), 400):
            seen = select(decisions.c.subject, decisions.c.at_us).where(
                decisions.c.ledger_offset.in_(moved[start : start + 400])
            )
            for subject, at_us in connection.execute(seen):
                earliest[subject] = min(earliest.get(subject, at_us), at_us)
        names = people_of(connection, earliest)
        of_person: dict[str, int] = {}
        for subject, at_us in earliest.items():
            name = names[subject]
            of_person[name] = min(of_person.get(name, at_us), at_us)
        from_us_of = {subject: of_person[name] - window_us for subject, name in names.items() if name in of_person}
        out: set[int] = set()
        for part in in_parts(sorted(from_us_of)):
            query = select(decisions.c.ledger_offset, decisions.c.subject, decisions.c.at_us).where(
                decisions.c.subject.in_(part),
                decisions.c.placement == placement,
                decisions.c.ledger_offset < values["exported"],
            )
            out.update(row.ledger_offset for row in connection.execute(query) if row.at_us >= from_us_of[row.subject])
    return out


def _write_again(
    database: Database,
    document: dict[str, Any],
    manifest: Manifest,
    definition: RewardDefinition,
    folder: Path,
    entry: dict[str, Any],
    stretch: Stretch,
) -> tuple[bool, dict[str, float]]:
    """Join a file's stretch as it is known now; whether it came out otherwise, and its rewards by decision."""
    rows = join(database, document["placement"], definition, stretch)
    after = dict(zip(rows.ids, rows.rewards, strict=True))
    path = folder / entry["path"]
    if not after:
        return True, after
    bodies = [orjson.loads(b) for b in rows.bodies]
    sets: dict[str, OfferSet] = {}
    with database.reading() as connection:
        for revision in dict.fromkeys(b["r"] for b in bodies):
            sets[revision] = union_of_offers(connection, [revision])
    made = parquet_table(rows, bodies, range(len(rows)), sets, manifest)
    if made.equals(pq.read_table(path)):
        return False, after
    write_whole(made, path)
    return True, after

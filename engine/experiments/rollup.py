"""What became of each exposed subject, kept up to date fact by fact, and the hourly sums that a results page reads.

``exposures`` has a row per subject that has *seen* something of an experiment: the time is that of its first activated decision
(of the activation, where that came later), and a decision that was taken back is none. ``experiment_cells`` is its sum by phase,
variant, hour and segment, ``experiment_values`` the same by size of the money, ``experiment_stays`` counts subscribers by how long they
stayed. All are derived: a subject that a new fact speaks of is worked out again from all its facts, so that the order in which facts
come changes nothing, and a rebuild gives the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import TextClause

from engine.experiments.parts import (
    DERIVED,
    Row,
    Sums,
    cells_sql,
    stays_sql,
    told_sql,
    values_sql,
)
from engine.experiments.records import Experiment
from engine.rewards.seen import COUNTS
from engine.store import facts, tables
from engine.store.database import Database
from engine.subjects.links import everybody, people_of

# Facts looked at in one transaction: a few milliseconds of a SQLite store's one writer.
CHUNK = 4_000
# From so many facts behind, PostgreSQL works everything out anew by one statement.
REBUILD_AFTER = 200_000

SEPARATOR = "\x1f"
_KEY = "exposures_pkey"
_SUBJECTS = 400
# Of a rebuild's transaction on PostgreSQL only: hashes and sorts of millions of subjects, by several processes; a row's way from
# one to another costs little beside its sort.
_SETTINGS = (
    "work_mem = '256MB'",
    "maintenance_work_mem = '256MB'",
    "statement_timeout = 0",
    "parallel_tuple_cost = 0.01",
)

# Ids are ordered byte by byte, as in ``exposures``: sorts of millions of ids cost half of what a language's rules do, and no plan
# goes through the index of subjects, which reads a ledger in an order that it does not lie in.
_BYTE = ' COLLATE "C"'
_PEOPLE = "CREATE TEMP TABLE people (id TEXT{byte} PRIMARY KEY, name TEXT{byte} NOT NULL)"
# A join and not a query for each row, which would cost more than all the rest by the planner's reckoning and blind it for that.
# Several activations of a decision give it several rows, of which the first one counts.
_SEEN = f"""
decisions d LEFT JOIN activations a ON a.decision = CASE WHEN NOT d.is_activated THEN d.id END
  {{join}} WHERE d.experiment = :experiment AND (d.is_activated OR a.decision IS NOT NULL) AND {COUNTS} {{decisions}}
"""
_SEEN_US = "CASE WHEN d.is_activated THEN d.at_us ELSE a.at_us END"
# Whoever is one id has one variant, or something is wrong.
_SEEN_ALONE = f"""
SELECT d.subject{{byte}} AS subject, d.subject{{byte}} AS id, MIN(d.phase) AS phase,
  CASE WHEN MIN(d.variant) = MAX(d.variant) THEN MIN(d.variant) ELSE '' END AS variant, MIN({_SEEN_US}) AS exposed_us
FROM {_SEEN.replace("{join}", "")} GROUP BY d.subject{{byte}}
"""
# Ids that are one person share a name and may have crossed over before the login: the person has the phase, variant and time of
# the first that any of them saw.
_SEEN_LINKED = f"""
SELECT * FROM ({_SEEN_ALONE}) alone WHERE id NOT IN (SELECT id FROM people)
UNION ALL SELECT name, id, phase, variant, seen_us FROM (
  SELECT p.name, d.subject{{byte}} AS id, d.phase, d.variant, {_SEEN_US} AS seen_us,
    ROW_NUMBER() OVER (PARTITION BY p.name ORDER BY {_SEEN_US}, d.ledger_offset) AS place
  FROM {_SEEN.replace("{join}", "JOIN people p ON p.id = d.subject{byte}")}
) ranked WHERE place = 1
"""
_CAME = """
SELECT s.subject AS subject,
  MIN(CASE WHEN o.kind = :subscribed AND o.value > 0 AND o.at_us <= s.exposed_us + :conversion_us THEN o.at_us END) AS subscribed_us,
  MAX(CASE WHEN o.kind = :kept AND o.value > 0 THEN 1 ELSE 0 END) AS kept,
  SUM(CASE WHEN o.kind = :margin THEN o.value ELSE 0 END) AS margin,
  SUM(CASE WHEN o.kind = :revenue THEN o.value ELSE 0 END) AS revenue
FROM ({told}) o JOIN seen s ON s.subject = o.subject
WHERE o.at_us >= s.exposed_us AND o.at_us <= s.exposed_us + :kept_us
GROUP BY s.subject
"""
# How long somebody stays has no window: it is known until the last day that is over.
_GONE = """
SELECT c.subject AS subject, MIN(o.at_us) AS left_us
FROM ({gone}) o JOIN came c ON c.subject = o.subject
WHERE o.at_us >= c.subscribed_us GROUP BY c.subject
"""
_TOLD_ALONE = """
SELECT q.subject{byte} AS subject, q.kind, q.value, q.at_us FROM outcomes q WHERE q.kind IN ({kinds}) {outcomes}
"""
_TOLD_LINKED = """
SELECT COALESCE(p.name, q.subject{byte}) AS subject, q.kind, q.value, q.at_us
FROM outcomes q LEFT JOIN people p ON p.id = q.subject{byte} WHERE q.kind IN ({kinds}) {outcomes}
"""
_ROWS = """
SELECT s.subject, s.phase, s.variant, s.exposed_us, CASE WHEN c.subscribed_us IS NULL THEN 0 ELSE 1 END AS subscribed,
  CASE WHEN c.subscribed_us IS NULL THEN 0 ELSE c.kept END AS kept, COALESCE(c.margin, 0) AS margin,
  COALESCE(c.revenue, 0) AS revenue, {covariate} AS covariate, c.subscribed_us, g.left_us, {segments} AS segments
FROM seen s LEFT JOIN came c ON c.subject = s.subject LEFT JOIN gone g ON g.subject = c.subject {join}
"""
_FIRST = """
LEFT JOIN assignments f ON f.experiment = :experiment AND f.subject = {id}
LEFT JOIN fact_keys k ON k.kind = 1 AND k.id = f.decision
LEFT JOIN decisions b ON b.ledger_offset = k.ledger_offset
"""
# Subjects whose exposure a stretch of the ledger may have changed, and those of whom it tells an outcome.
_SEEN_ANEW = """
SELECT d.subject FROM decisions d
WHERE d.ledger_offset >= :first AND d.ledger_offset < :end AND d.experiment = :experiment
UNION SELECT d.subject FROM activations a JOIN fact_keys k ON k.kind = 1 AND k.id = a.decision
  JOIN decisions d ON d.ledger_offset = k.ledger_offset
WHERE a.ledger_offset >= :first AND a.ledger_offset < :end AND d.experiment = :experiment
UNION SELECT d.subject FROM voids v JOIN fact_keys k ON k.kind = 1 AND k.id = v.decision
  JOIN decisions d ON d.ledger_offset = k.ledger_offset
WHERE v.ledger_offset >= :first AND v.ledger_offset < :end AND d.experiment = :experiment
UNION SELECT l.subject FROM links l WHERE l.ledger_offset >= :first AND l.ledger_offset < :end
"""
_TOLD_OF = """
SELECT DISTINCT o.subject FROM outcomes o
WHERE o.ledger_offset >= :first AND o.ledger_offset < :end AND o.kind IN (:subscribed, :kept, :margin, :revenue, :cancelled)
"""
_COUNTED = ":subscribed, :kept, :margin, :revenue"
_KINDS = ("subscribed", "kept", "margin", "revenue", "cancelled")
_COLUMNS = "experiment, subject, phase, variant, exposed_us, subscribed, kept, margin, revenue, covariate, subscribed_us, left_us, segments"


def refresh(database: Database, experiment: Experiment) -> None:
    """Take in the facts that came since the last time."""
    if experiment.started_at is None:
        return
    while True:
        with database.writing() as connection:
            first = _cursor(connection, experiment)
            head = int(connection.execute(select(tables.ledger_head.c.next_offset)).scalar_one())
            if first < 0 or (not database.is_sqlite and head - first > REBUILD_AFTER):
                if database.is_sqlite and first < 0:
                    _clear(connection, experiment.id)
                    first = _first_fact(connection, experiment)
                else:
                    _rebuild(connection, experiment, is_sqlite=False)
                    _move(connection, experiment, head)
                    return
            if first >= head:
                return
            end = min(head, first + CHUNK)
            _fold(connection, experiment, first, end, is_sqlite=database.is_sqlite)
            _move(connection, experiment, end)


def rebuild(database: Database, experiment: Experiment) -> None:
    """Work everything out anew from the facts."""
    with database.writing() as connection:
        _cursor(connection, experiment)
        head = int(connection.execute(select(tables.ledger_head.c.next_offset)).scalar_one())
        _rebuild(connection, experiment, is_sqlite=database.is_sqlite)
        _move(connection, experiment, head)


def rules_of(experiment: Experiment) -> str:
    """What a rollup was made by; another text makes it anew."""
    rules = {
        "counting": asdict(experiment.counting),
        "segments": experiment.segments,
        "covariate": experiment.covariate,
    }
    return json.dumps(rules, sort_keys=True)


def _cursor(connection: Connection, experiment: Experiment) -> int:
    """Offset up to which facts are in, locked until the end of the transaction; -1 where it has to be made anew."""
    table = tables.rollups
    connection.execute(
        text("INSERT INTO rollups (experiment, next_offset, rules) VALUES (:id, -1, '') ON CONFLICT DO NOTHING"),
        {"id": experiment.id},
    )
    row = connection.execute(select(table).where(table.c.experiment == experiment.id).with_for_update()).one()
    return int(row.next_offset) if row.rules == rules_of(experiment) else -1


def _move(connection: Connection, experiment: Experiment, offset: int) -> None:
    table = tables.rollups
    connection.execute(
        update(table).where(table.c.experiment == experiment.id).values(next_offset=offset, rules=rules_of(experiment))
    )


def _clear(connection: Connection, experiment_id: str) -> None:
    for table in (tables.exposures, *DERIVED):
        connection.execute(delete(table).where(table.c.experiment == experiment_id))


def _first_fact(connection: Connection, experiment: Experiment) -> int:
    """Offset of the first decision that can be of an experiment: facts of earlier times are passed over at once."""
    table = tables.decisions
    started_us = facts.to_us(experiment.started_at) if experiment.started_at else 0
    query = select(table.c.ledger_offset).where(
        table.c.placement == experiment.placement, table.c.at_us >= started_us, table.c.experiment == experiment.id
    )
    found = connection.execute(query.order_by(table.c.ledger_offset).limit(1)).scalar()
    if found is not None:
        return int(found)
    return int(connection.execute(select(tables.ledger_head.c.next_offset)).scalar_one())


def _fold(connection: Connection, experiment: Experiment, first: int, end: int, *, is_sqlite: bool) -> None:
    groups = _touched(connection, experiment, first, end)
    changes = Sums()
    people = {i: name for name, ids in groups.items() if len(ids) > 1 for i in ids}
    if people:
        _name_people(connection, people, is_sqlite=is_sqlite)
    part: list[str] = []
    for position, ids in enumerate(groups.values(), start=1):
        part += ids
        if len(part) >= _SUBJECTS or position == len(groups):
            _work_out(connection, experiment, part, changes, is_linked=bool(people), is_sqlite=is_sqlite)
            part = []
    changes.write(connection, experiment.id)


def _touched(connection: Connection, experiment: Experiment, first: int, end: int) -> dict[str, list[str]]:
    """Ids of each person to be worked out again, by the person's name."""
    values = _values(experiment)
    span = {"first": first, "end": end}
    seen = set(connection.execute(text(_SEEN_ANEW), {"experiment": experiment.id, **span}).scalars())
    kinds = {k: values[k] for k in _KINDS}
    told = set(connection.execute(text(_TOLD_OF), {**kinds, **span}).scalars()) - seen
    names = people_of(connection, seen | told)
    groups: dict[str, list[str]] = {}
    for id_, name in sorted(names.items()):
        groups.setdefault(name, []).append(id_)
    table, known = tables.exposures, {names[s] for s in seen}
    unknown = sorted(groups.keys() - known)
    for start in range(0, len(unknown), _SUBJECTS):
        part = [id_ for name in unknown[start : start + _SUBJECTS] for id_ in groups[name]]
        exposed = select(table.c.subject).where(table.c.experiment == experiment.id, table.c.subject.in_(part))
        known |= {names[s] for s in connection.execute(exposed).scalars()}
    return {name: ids for name, ids in groups.items() if name in known}


def _name_people(connection: Connection, names: Mapping[str, str], *, is_sqlite: bool) -> None:
    """Say for the statements that follow which ids are one person."""
    connection.execute(text("DROP TABLE IF EXISTS people"))
    connection.execute(text(_bound(_PEOPLE, is_sqlite=is_sqlite) + ("" if is_sqlite else " ON COMMIT DROP")))
    if names:
        rows = [{"id": i, "name": n} for i, n in names.items()]
        connection.execute(text("INSERT INTO people (id, name) VALUES (:id, :name)"), rows)


def _work_out(
    connection: Connection,
    experiment: Experiment,
    subjects: Sequence[str],
    changes: Sums,
    *,
    is_linked: bool,
    is_sqlite: bool,
) -> None:
    """Replace the rows of some subjects, and note what that changes in the sums."""
    table = tables.exposures
    mine = (table.c.experiment == experiment.id, table.c.subject.in_(subjects))
    columns = [table.c[name] for name in Row._fields]
    before = [Row(*r) for r in connection.execute(select(*columns).where(*mine))]
    query = _query(experiment, only="AND {}.subject IN :subjects", is_linked=is_linked, is_sqlite=is_sqlite)
    query = query.bindparams(bindparam("subjects", expanding=True))
    found = connection.execute(query, {**_values(experiment), "subjects": list(subjects)})
    after = [Row(*r) for r in found]
    known = {r.subject: r for r in before}
    after = [_with_known_features(r, known.get(r.subject)) for r in after]
    same = set(before) & set(after)
    changes.add((r for r in before if r not in same), -1)
    changes.add((r for r in after if r not in same), 1)
    gone = [r.subject for r in before if r not in same]
    if gone:
        connection.execute(delete(table).where(table.c.experiment == experiment.id, table.c.subject.in_(gone)))
    fresh = [r for r in after if r not in same]
    if fresh:
        connection.execute(insert(table), [{"experiment": experiment.id, **r._asdict()} for r in fresh])


def _with_known_features(row: Row, before: Row | None) -> Row:
    """The row, with the segments and the covariate it had where the body that they came from is gone."""
    if before is None or before.exposed_us != row.exposed_us or row.segments.strip(SEPARATOR) or row.covariate:
        return row
    return row._replace(segments=before.segments, covariate=before.covariate)


def _rebuild(connection: Connection, experiment: Experiment, *, is_sqlite: bool) -> None:
    people = everybody(connection)
    _name_people(connection, people, is_sqlite=is_sqlite)
    values = _values(experiment)
    is_alone = False
    if is_sqlite:
        _clear(connection, experiment.id)
    else:
        for setting in _SETTINGS:
            connection.execute(text(f"SET LOCAL {setting}"))
        is_alone = _clear_whole(connection, experiment.id)
    seen, came, gone, rows = _parts(is_linked=bool(people))
    for name, query in (("seen", seen), ("came", came), ("gone", gone)):
        connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
        ending = "" if is_sqlite else " ON COMMIT DROP"
        connection.execute(text(f"CREATE TEMP TABLE {name}{ending} AS {_bound(query, is_sqlite=is_sqlite)}"), values)
        connection.execute(text(f"CREATE INDEX came_{name} ON {name} (subject)" if is_sqlite else f"ANALYZE {name}"))
    target = f"INSERT INTO exposures ({_COLUMNS})"
    query = _segmented(rows, experiment, is_sqlite=is_sqlite)
    # An index grows fastest in the order of its key; where it is made afterwards the order does not matter.
    order = "" if is_sqlite or is_alone else " ORDER BY r.subject"
    connection.execute(text(f"{target} SELECT CAST(:experiment AS TEXT), r.* FROM ({query}) r{order}"), values)
    if not is_sqlite:
        # The planner takes hours for as many as moments, and would sort all subjects for what a small table of sums holds.
        connection.execute(text("SET LOCAL enable_sort = off"))
    connection.execute(text("DROP TABLE IF EXISTS told"))
    ending = "" if is_sqlite else " ON COMMIT DROP"
    connection.execute(text(f"CREATE TEMP TABLE told{ending} AS {told_sql()}"), {"experiment": experiment.id})
    for statement in (
        cells_sql(has_covariate=bool(experiment.covariate)),
        *values_sql("told"),
        stays_sql("told"),
    ):
        connection.execute(text(statement), {"experiment": experiment.id})
    if is_alone:
        connection.execute(text(f"ALTER TABLE exposures ADD CONSTRAINT {_KEY} PRIMARY KEY (experiment, subject)"))
    for name in ("seen", "came", "gone", "told"):
        connection.execute(text(f"DROP TABLE {name}"))


def _clear_whole(connection: Connection, experiment_id: str) -> bool:
    """Empty the rows of an experiment; True where there were no others, and the key waits until the rows are in."""
    if not _has_table_alone(connection, experiment_id):
        _clear(connection, experiment_id)
        return False
    for derived in DERIVED:
        connection.execute(delete(derived).where(derived.c.experiment == experiment_id))
    connection.execute(text("TRUNCATE exposures"))
    connection.execute(text(f"ALTER TABLE exposures DROP CONSTRAINT {_KEY}"))
    return True


def _has_table_alone(connection: Connection, experiment_id: str) -> bool:
    """Whether nobody else has rows among the exposures, is writing some, or reads; if so the table is locked from now on.

    Without the lock, what another experiment has not committed yet would be invisible here and emptied with the rest.
    """
    column = tables.exposures.c.experiment
    others = select(func.min(column), func.max(column))  # both from the ends of the key
    mine = {None, experiment_id}
    if set(connection.execute(others).one()) - mine:
        return False
    attempt = connection.begin_nested()
    try:
        connection.execute(text("LOCK TABLE exposures IN ACCESS EXCLUSIVE MODE NOWAIT"))
        is_alone = not set(connection.execute(others).one()) - mine
    except DBAPIError:
        is_alone = False
    if is_alone:
        attempt.commit()
    else:
        attempt.rollback()  # lets go of the lock too
    return is_alone


def _query(experiment: Experiment, *, only: str, is_linked: bool, is_sqlite: bool) -> TextClause:
    """Rows of some subjects, in one statement."""
    seen, came, gone, rows = _parts(is_linked=is_linked)
    shown = _segmented(rows, experiment, is_sqlite=is_sqlite)
    parts = f"WITH seen AS MATERIALIZED ({seen}), came AS MATERIALIZED ({came}), gone AS MATERIALIZED ({gone}) {shown}"
    return text(_bound(parts, is_sqlite=is_sqlite, decisions=only.format("d"), outcomes=only.format("q")))


def _parts(*, is_linked: bool) -> tuple[str, str, str, str]:
    """Who saw something, what came of them, when they left, and all together."""
    told = _TOLD_LINKED if is_linked else _TOLD_ALONE
    came = _CAME.replace("{told}", told.replace("{kinds}", _COUNTED))
    gone = _GONE.replace("{gone}", told.replace("{kinds}", ":cancelled"))
    return (_SEEN_LINKED if is_linked else _SEEN_ALONE), came, gone, _ROWS


def _bound(query: str, *, is_sqlite: bool, decisions: str = "", outcomes: str = "") -> str:
    return query.format(byte="" if is_sqlite else _BYTE, decisions=decisions, outcomes=outcomes)


def _segmented(rows: str, experiment: Experiment, *, is_sqlite: bool) -> str:
    parts = [_feature(i, is_sqlite=is_sqlite) for i in range(len(experiment.segments))]
    segments = f" || '{SEPARATOR}' || ".join(parts) or "''"
    covariate = _number(is_sqlite=is_sqlite) if experiment.covariate else "0"
    rows = rows.replace("{segments}", segments).replace("{covariate}", covariate)
    # The key of assignments is in the order of the database.
    first = _FIRST.replace("{id}", "s.id" if is_sqlite else 's.id COLLATE "default"')
    return rows.replace("{join}", first if parts or experiment.covariate else "")


def _feature(i: int, *, is_sqlite: bool) -> str:
    """Value of a feature in the stored body of the first decision, as text."""
    value = (
        f"json_extract(CAST(b.body AS TEXT), :path_{i})"
        if is_sqlite
        else f"convert_from(b.body, 'UTF8')::json -> 'x' ->> CAST(:name_{i} AS TEXT)"
    )
    # Old bodies move to the cold path and leave nothing to read a feature from.
    return f"COALESCE(CAST(CASE WHEN length(b.body) > 2 THEN {value} END AS TEXT), '')"


def _number(*, is_sqlite: bool) -> str:
    """Value of the covariate in the stored body of the first decision; 0 where it is no number, or nobody knows it."""
    if is_sqlite:
        body, path = "CAST(b.body AS TEXT)", ":path_covariate"
        value = f"CASE WHEN json_type({body}, {path}) IN ('integer', 'real') THEN CAST(json_extract({body}, {path}) AS REAL) END"
    else:
        field = "convert_from(b.body, 'UTF8')::json -> 'x' -> CAST(:name_covariate AS TEXT)"
        value = f"CASE WHEN json_typeof({field}) = 'number' THEN CAST(({field})::text AS double precision) END"
    return f"COALESCE(CASE WHEN length(b.body) > 2 THEN {value} END, 0)"


def _values(experiment: Experiment) -> dict[str, Any]:
    counting = experiment.counting
    features = {str(i): name for i, name in enumerate(experiment.segments)} | {"covariate": experiment.covariate}
    names = {f"name_{i}": name for i, name in features.items()}
    paths = {f"path_{i}": '$.x."' + name.replace('"', '""') + '"' for i, name in features.items()}
    return {
        "experiment": experiment.id,
        "subscribed": counting.subscribed,
        "kept": counting.kept,
        "margin": counting.margin,
        "revenue": counting.revenue,
        "cancelled": counting.cancelled,
        "conversion_us": round(counting.conversion_window_s * 1e6),
        "kept_us": round(counting.kept_window_s * 1e6),
        **names,
        **paths,
    }

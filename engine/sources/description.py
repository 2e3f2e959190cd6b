"""A source described in one TOML file: where its tables lie, what is wrong with them, what is asked of them.

A new source needs a description and no code. Expressions (``views``, ``drop``, ``fix`` and mappings that are not a bare column) are
Spark SQL; everything else is plain names. Unknown keys are refused, so that a misspelling is not a silent default.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from policies.errors import InvalidInputError, SchemaError, UnknownNameError

Format = Literal["parquet", "csv", "json", "jdbc", "sqlite"]
SplitName = Literal["train", "validation", "calibration", "test"]
# What a column of a table may be declared as, besides any Spark SQL type written out ("array<struct<...>>").
TIME_TYPES = ("timestamp", "date", "day_end", "epoch_s", "epoch_ms", "epoch_us")
PLAIN_TYPES = ("string", "long", "double", "boolean")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Drop:
    """Rows that are set aside, by a rule with a name.

    Parameters
    ----------
    name
        Of the rule, in the cleaning report and as the name of the side folder.
    where
        Spark SQL condition over the typed columns of the table.
    max_share
        Share of rows it may drop before the run stops; where missing, that of the table.
    """

    name: str
    where: str
    max_share: float | None = None


@dataclass(frozen=True, slots=True)
class Fix:
    """A column that is set to another value where a condition holds (a currency, a spelling)."""

    name: str
    column: str
    to: str
    where: str = "true"


@dataclass(frozen=True, slots=True)
class Note:
    """Rows that are counted and kept: late arrivals, missing values, whatever a reader of the report should know.

    Parameters
    ----------
    where
        Spark SQL condition over the typed columns, or a number of things per row (``int(a IS NULL) + int(b IS NULL)``).
    """

    name: str
    where: str


@dataclass(frozen=True, slots=True)
class Table:
    """A raw table.

    Parameters
    ----------
    path
        File, folder or glob, relative to the data folder; ``${NAME}`` is an environment variable. For ``jdbc`` and ``sqlite``
        the database (a URL or a file).
    format
        Of the files; ``json`` is one object a line.
    columns
        Column to type: ``string``, ``long``, ``double``, ``boolean``, a time (``timestamp``; ``date``, midnight of that day;
        ``day_end``, its last microsecond, when a fact known only by its day is surely over; ``epoch_s``, ``epoch_ms``,
        ``epoch_us``) or a Spark SQL type.
    required
        Columns that may not be empty: such rows are set aside.
    unique
        Columns that together name a row once; later copies are set aside. ``["*"]`` compares whole rows.
    drop, fix, note
        Rules of its own, in order: fixes first; what is noted is counted among the rows that stay.
    max_drop_share
        Share of rows a single rule may set aside before the run stops and says which rule and shows rows.
    rename
        Column of the file to the name it is read under.
    table
        Name inside a database.
    separator
        Of a ``csv`` file.
    time_zone
        Of its times without an offset; that of the source where it is empty.
    partition_column, partitions
        Number or date column that a JDBC table is read by in parallel.
    """

    path: str
    format: Format
    columns: Mapping[str, str]
    required: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    drop: tuple[Drop, ...] = ()
    fix: tuple[Fix, ...] = ()
    note: tuple[Note, ...] = ()
    max_drop_share: float = 0.05
    rename: Mapping[str, str] = field(default_factory=dict)
    table: str = ""
    separator: str = ","
    time_zone: str = ""
    partition_column: str = ""
    partitions: int = 4


@dataclass(frozen=True, slots=True)
class Events:
    """Behaviour taken from a table or view: who, when, what, with which item, of which amount."""

    table: str
    subject: str
    at: str
    kind: str
    item: str = "''"
    value: str = "0.0"
    id: str = "''"


@dataclass(frozen=True, slots=True)
class Attributes:
    """Columns that describe a subject or an offer, taken from a table or view.

    Parameters
    ----------
    key
        Column or expression of the subject or the offer.
    columns
        Name (without prefix) to column or expression.
    known_from
        When a row became true; the latest one before the decision counts. Empty: it always was.
    """

    table: str
    key: str
    columns: Mapping[str, str]
    known_from: str = ""


@dataclass(frozen=True, slots=True)
class Points:
    """When a decision is looked at: rows of a table, or snapshots of every subject seen before.

    Parameters
    ----------
    table, subject, offer, as_of, until
        Rows of a table or view; ``until`` ends the label's window.
    snapshots
        Instants at which each subject with an event of ``active_kinds`` before it (within ``active_days``, if given) is looked at.
    extra
        Name (with its prefix ``agg_``, ``customer_`` or ``offer_``) to column or expression of ``table``.
    """

    table: str = ""
    subject: str = "subject"
    offer: str = "'none'"
    as_of: str = "as_of"
    until: str = ""
    snapshots: tuple[datetime, ...] = ()
    active_kinds: tuple[str, ...] = ()
    active_days: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Label:
    """What came of it: an outcome of the subject inside the window that starts at the decision.

    Parameters
    ----------
    name
        In words, for reports.
    table, subject, at, offer
        Outcomes as rows of a table or view; with ``offer`` only those of the same offer count.
    kinds
        Instead of a table: events of these kinds.
    window_days
        Length of the window where the points name no ``until``.
    is_absence
        The label is 1 where *no* such outcome came (churn).
    column
        Instead of all that: an expression of the table of points that already is the label.
    known_after_days
        Days after the window until it is known (that a contract was kept is known a month after it was signed).
    """

    name: str
    table: str = ""
    subject: str = "subject"
    at: str = "at"
    offer: str = ""
    kinds: tuple[str, ...] = ()
    window_days: float | None = None
    is_absence: bool = False
    column: str = ""
    known_after_days: float = 0.0


@dataclass(frozen=True, slots=True)
class Period:
    """Decision points from ``start`` (inclusive) to ``end`` (exclusive) and how subjects share the splits of it."""

    shares: Mapping[SplitName, float]
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Affinity:
    """What a subject did before with the items that belong to the offer at hand, as ``agg_<name>_…``.

    ``_share`` of its past lines, their number ``_n`` (and ``_n_<days>d`` for the trailing windows of the sequence), ``_days_since`` the last,
    ``_amount`` where ``value`` is given, and ``_n_<flag>`` for each flag.

    Parameters
    ----------
    lines, subject, at, item
        What was bought, from a table or view.
    items, items_offer, items_item
        Which items belong to which offer.
    value
        Amount of a line.
    flags
        Name to a condition over lines that are counted apart (bought on a coupon).
    """

    name: str
    lines: str
    subject: str
    at: str
    item: str
    items: str
    items_offer: str
    items_item: str
    value: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a history is made of.

    Parameters
    ----------
    last_events
        Length of the history that is kept.
    min_count
        Occurrences before the vocabulary's end below which a word is unknown.
    max_items
        Most words of the item vocabulary.
    windows_days
        Trailing windows of the counts and amounts beside the sequence.
    session_gap_minutes
        A pause longer than this starts a new session.
    heavy_events
        A subject with more events goes by the path with bounded memory.
    """

    last_events: int = 128
    min_count: int = 20
    max_items: int = 5_000
    windows_days: tuple[int, ...] = (7, 30, 90)
    session_gap_minutes: float = 30.0
    heavy_events: int = 50_000


@dataclass(frozen=True, slots=True)
class Identity:
    """Pairs of ids that are one person (a login joins a visitor id to a customer id), followed transitively."""

    table: str
    left: str
    right: str
    max_iterations: int = 30
    max_component: int = 50


@dataclass(frozen=True, slots=True)
class Facts:
    """What a simulator may be fitted to: which events are visits, and which of those came of an offer.

    Parameters
    ----------
    visit_kinds
        Kinds of event that are visits.
    deal_kinds
        Of these, the ones where the subject took a deal.
    """

    visit_kinds: tuple[str, ...]
    deal_kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A described source.

    Attributes
    ----------
    digest_text
        The file's own text, for the manifest.
    kept
        A second outcome of the same points that implies the first (signed, and still there a month later): models with a head for it
        give P(label) and P(kept).
    observed_from, observed_until
        What the data cover; a window that ends later is not over.
    provider
        Name of a package whose data are exported first where no data folder is given.
    """

    name: str
    tables: Mapping[str, Table]
    points: Points
    label: Label
    split: tuple[Period, ...]
    folder: Path
    digest_text: str
    title: str = ""
    time_zone: str = "UTC"
    provider: str = ""
    observed_from: datetime | None = None
    observed_until: datetime | None = None
    views: Mapping[str, str] = field(default_factory=dict)
    events: tuple[Events, ...] = ()
    customer: Attributes | None = None
    offer: Attributes | None = None
    affinity: tuple[Affinity, ...] = ()
    identity: Identity | None = None
    sequence: Sequence = field(default_factory=Sequence)
    facts: Facts | None = None
    kept: Label | None = None


def load_source(path: Path) -> Source:
    """Read a description.

    Raises
    ------
    InvalidInputError
        If the file is missing or is not TOML.
    SchemaError
        If a key is unknown or missing, or a value has the wrong type.
    """
    try:
        text = path.read_text()
        raw = tomllib.loads(text)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror}); name the TOML file of a source") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"{path} is not TOML: {error}; mend the line it names") from error
    where = str(path)
    sections = {
        "tables": {
            name: _table(value, f"{where}: [tables.{name}]") for name, value in _mapping(raw, "tables", where).items()
        },
        "events": tuple(_make(Events, value, f"{where}: [[events]]") for value in raw.get("events", [])),
        "affinity": tuple(_make(Affinity, value, f"{where}: [[affinity]]") for value in raw.get("affinity", [])),
        "split": tuple(_make(Period, value, f"{where}: [[split]]") for value in raw.get("split", [])),
    }
    kinds: tuple[tuple[str, type[Any]], ...] = (
        ("points", Points),
        ("label", Label),
        ("kept", Label),
        ("customer", Attributes),
        ("offer", Attributes),
        ("identity", Identity),
        ("sequence", Sequence),
        ("facts", Facts),
    )
    for name, kind in kinds:
        if name in raw:
            sections[name] = _make(kind, _mapping(raw, name, where), f"{where}: [{name}]")
    source = _make(Source, {**raw, **sections, "folder": path.parent, "digest_text": text}, where)
    _check(source, where)
    return source


def _table(value: Any, where: str) -> Table:
    if not isinstance(value, dict):
        raise SchemaError(f"{where} is {value!r}; expected a table of path, format and columns")
    rules = {
        "drop": tuple(_make(Drop, v, f"{where} drop") for v in value.get("drop", [])),
        "fix": tuple(_make(Fix, v, f"{where} fix") for v in value.get("fix", [])),
        "note": tuple(_make(Note, v, f"{where} note") for v in value.get("note", [])),
    }
    return _make(Table, {**value, **rules}, where)


def _mapping(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = raw.get(name)
    if not isinstance(value, dict):
        raise SchemaError(f"{where} has no section [{name}]; every source needs tables, points, label and split")
    return value


def _make(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    known = {f.name: f for f in fields(cast(Any, kind))}
    if not isinstance(values, dict):
        raise SchemaError(f"{where} is {values!r}; expected keys {', '.join(known)}")
    for name in values:
        if name not in known:
            error = UnknownNameError("key", name, known)
            raise SchemaError(f"{where}: {error}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise SchemaError(f"{where} lacks {name!r}; add it")
    return kind(**{name: _value(known[name].type, value, f"{where} {name}") for name, value in values.items()})


def _value(annotation: Any, value: Any, where: str) -> Any:
    """Lists to tuples, dates to aware instants; a plain check of plain types."""
    kind = str(annotation)
    if isinstance(value, list):
        value = tuple(_instant(v) if isinstance(v, date) else v for v in value)
    if isinstance(value, date):
        value = _instant(value)
    expected: tuple[type, ...] | None = {
        "str": (str,),
        "int": (int,),
        "float": (int, float),
        "float | None": (int, float),
        "int | None": (int,),
        "bool": (bool,),
        "datetime | None": (datetime,),
        "Format": (str,),
    }.get(kind)
    if kind.startswith("tuple"):
        expected = (tuple,)
    if kind.startswith("Mapping"):
        expected = (dict,)
    if expected is not None and (not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected)):
        raise SchemaError(f"{where} is {value!r}; expected {kind}")
    if kind == "Format" and value not in get_args(Format):
        raise SchemaError(f"{where}: {UnknownNameError('format', value, get_args(Format))}")
    return value


def _instant(value: date) -> datetime:
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _check(source: Source, where: str) -> None:
    for name, table in source.tables.items():
        for column, kind in table.columns.items():
            if kind not in TIME_TYPES + PLAIN_TYPES and not re.search(r"[<(]", kind):
                raise SchemaError(
                    f"{where}: column {name}.{column}: {UnknownNameError('type', kind, TIME_TYPES + PLAIN_TYPES)}"
                )
        for column in (*table.required, *(c for c in table.unique if c != "*"), *(f.column for f in table.fix)):
            if column not in table.columns:
                raise SchemaError(f"{where}: [tables.{name}]: {UnknownNameError('column', column, table.columns)}")
    tables = {**source.tables, **source.views}
    for what, name in (
        *(("events", e.table) for e in source.events),
        *((("customer", source.customer.table),) if source.customer else ()),
        *((("offer", source.offer.table),) if source.offer else ()),
        *((("points", source.points.table),) if source.points.table else ()),
        *((("label", source.label.table),) if source.label.table else ()),
        *((("identity", source.identity.table),) if source.identity else ()),
        *(("affinity", a.lines) for a in source.affinity),
        *(("affinity", a.items) for a in source.affinity),
    ):
        if name not in tables:
            raise SchemaError(f"{where}: [{what}]: {UnknownNameError('table or view', name, tables)}")
    if bool(source.points.table) == bool(source.points.snapshots):
        raise SchemaError(f"{where}: [points] needs either a table or snapshots; found both or none")
    if sum(map(bool, (source.label.table, source.label.kinds, source.label.column))) != 1:
        raise SchemaError(f"{where}: [label] needs exactly one of table, kinds and column")
    if not source.label.column and not source.points.until and source.label.window_days is None:
        raise SchemaError(f"{where}: the label has no window; give [label] window_days or [points] until")
    if source.kept is not None:
        if sum(map(bool, (source.kept.table, source.kept.kinds, source.kept.column))) != 1:
            raise SchemaError(f"{where}: [kept] needs exactly one of table, kinds and column")
        if not source.kept.column and source.kept.window_days is None and not source.points.until:
            raise SchemaError(f"{where}: [kept] has no window; give it window_days")
    if not source.split:
        raise SchemaError(f"{where}: no [[split]]; say which decision points are train, validation, calibration, test")
    for period in source.split:
        for split in period.shares:
            if split not in get_args(SplitName):
                raise SchemaError(f"{where}: [[split]]: {UnknownNameError('split', split, get_args(SplitName))}")
        if abs(sum(period.shares.values()) - 1) > 1e-9:
            raise SchemaError(f"{where}: [[split]] shares sum to {sum(period.shares.values())}; expected 1")
    prefixes = ("agg_", "customer_", "offer_")
    for name in source.points.extra:
        if not name.startswith(prefixes):
            raise SchemaError(f"{where}: [points.extra] {name!r} must start with one of {', '.join(prefixes)}")

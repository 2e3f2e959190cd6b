"""Clean a table by rules with names: every rule counts what it changed or set aside, and nothing is lost.

Rows that break a rule go to a side folder by the first rule they break; a rule that takes more than its share stops the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.sources.reading import CORRUPT, RawTable
from policies.errors import InvalidInputError, SchemaError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_RULE = "_rule"
_SAMPLE = 5


@dataclass(frozen=True, slots=True)
class RuleCount:
    """What one rule did to one table.

    Attributes
    ----------
    action
        ``dropped`` (kept in the side folder), ``changed`` or ``noted`` (counted and left as it is).
    rows, share
        How many rows, and of all rows read.
    """

    table: str
    rule: str
    action: str
    rows: int
    share: float


@dataclass(frozen=True, slots=True)
class CleanTable:
    """A cleaned table and what was done to it."""

    name: str
    frame: DataFrame
    n_read: int
    n_kept: int
    rules: tuple[RuleCount, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for the report."""
        return {
            "table": self.name,
            "rows_read": self.n_read,
            "rows_kept": self.n_kept,
            "rules": [asdict(rule) for rule in self.rules],
        }


class DropShareError(InvalidInputError):
    """A cleaning rule takes more rows than it may.

    Attributes
    ----------
    rule
        Its name.
    """

    def __init__(self, text: str, *, rule: str) -> None:
        self.rule = rule
        super().__init__(text)


def clean(raw: RawTable, *, rejected: Path | None) -> CleanTable:
    """Apply a table's rules.

    Parameters
    ----------
    rejected
        Side folder for rows that are set aside: ``<rejected>/<table>/<rule>``; None keeps them nowhere.

    Raises
    ------
    SchemaError
        If a declared column holds nothing of its type in any row.
    DropShareError
        If a rule takes more than its share.
    InvalidInputError
        If there are no rows, or none is left.
    """
    from pyspark.sql import functions as F

    frame, changed_flags = _fixed(raw)
    columns = list(raw.table.columns)
    rule = F.coalesce(*[F.when(condition, name) for name, condition in _conditions(raw)], F.lit(None).cast("string"))
    frame = frame.withColumn(_RULE, rule)
    if raw.table.unique:
        frame = _mark_copies(frame, raw)
    counts = _counts(frame, raw, changed_flags)
    n_read = int(counts.pop("n"))
    if n_read == 0:
        raise InvalidInputError(
            f"{raw.place} has columns but no rows; export it again, or take the table out of the description"
        )
    _check_types(raw, counts, n_read)
    rules = [
        RuleCount(raw.name, name, action, int(counts[f"{action}:{name}"]), int(counts[f"{action}:{name}"]) / n_read)
        for action, name in _rule_names(raw)
    ]
    limits = {d.name: d.max_share for d in raw.table.drop if d.max_share is not None}
    for count in rules:
        limit = limits.get(count.rule, raw.table.max_drop_share)
        if count.action == "dropped" and count.share > limit:
            raise DropShareError(
                f"cleaning {raw.name} ({raw.place}): rule {count.rule!r} would drop {count.rows} of {n_read} rows "
                f"({count.share:.1%}; at most {limit:.1%} allowed), such as {_examples(frame, columns, count.rule)}; "
                "correct the source, or raise max_drop_share (max_share of the rule) in its description",
                rule=count.rule,
            )
    n_dropped = sum(c.rows for c in rules if c.action == "dropped")
    if n_dropped == n_read:
        raise InvalidInputError(f"cleaning {raw.name} ({raw.place}) left no row of {n_read}; see its rules")
    if rejected is not None:
        for count in rules:
            if count.action == "dropped" and count.rows:
                aside = frame.where(F.col(_RULE) == count.rule).select(
                    *[F.col(f"raw_{c}").alias(c) for c in columns],
                    *([CORRUPT] if CORRUPT in frame.columns else []),
                )
                aside.coalesce(1).write.mode("overwrite").parquet(str(rejected / raw.name / _file_name(count.rule)))
    kept = frame.where(F.col(_RULE).isNull()).select(*columns)
    return CleanTable(raw.name, kept, n_read, n_read - n_dropped, tuple(rules))


def _fixed(raw: RawTable) -> tuple[DataFrame, list[str]]:
    """Apply fixes in order; a flag column beside each says whether it changed the value."""
    from pyspark.sql import functions as F

    frame, flags = raw.frame, []
    for column in {fix.column for fix in raw.table.fix}:
        # Noted before a fix may set the value to null on purpose.
        frame = frame.withColumn(f"_unfit_{column}", F.col(column).isNull())
    for i, fix in enumerate(raw.table.fix):
        flag = f"_fixed_{i}"
        new = F.when(F.expr(fix.where), F.expr(fix.to)).otherwise(F.col(fix.column))
        frame = frame.withColumn(flag, ~F.col(fix.column).eqNullSafe(new)).withColumn(fix.column, new)
        flags.append(flag)
    return frame, flags


def _conditions(raw: RawTable) -> list[tuple[str, Any]]:
    """Rules that look at one row, in order: malformed, wrong type, missing, the table's own."""
    from pyspark.sql import functions as F

    out: list[tuple[str, Any]] = []
    if CORRUPT in raw.frame.columns:
        out.append(("malformed_line", F.col(CORRUPT).isNotNull()))
    found = dict(raw.frame.dtypes)
    for column in raw.table.columns:
        filled = F.col(f"raw_{column}").isNotNull()
        if found[f"raw_{column}"] == "string":
            filled &= F.trim(F.col(f"raw_{column}")) != ""
        if found[f"raw_{column}"] in ("double", "float"):
            filled &= ~F.isnan(f"raw_{column}")
        unfit = filled & F.col(column).isNull()
        if any(fix.column == column for fix in raw.table.fix):
            unfit &= F.col(f"_unfit_{column}")
        out.append((f"wrong_type:{column}", unfit))
    out += [(f"missing:{column}", F.col(column).isNull()) for column in raw.table.required]
    out += [(drop.name, F.expr(drop.where)) for drop in raw.table.drop]
    return out


def _mark_copies(frame: DataFrame, raw: RawTable) -> DataFrame:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    keys = list(raw.table.columns) if "*" in raw.table.unique else list(raw.table.unique)
    # Only rows that no other rule took compete; among copies the smallest remaining columns stay, so that runs repeat themselves.
    rest = [c for c in raw.table.columns if c not in keys and not raw.table.columns[c].startswith("map")] or keys
    window = Window.partitionBy(*keys, F.col(_RULE).isNull()).orderBy(*rest)
    copy = F.col(_RULE).isNull() & (F.row_number().over(window) > 1)
    return frame.withColumn(_RULE, F.when(copy, F.lit("duplicate")).otherwise(F.col(_RULE)))


def _rule_names(raw: RawTable) -> list[tuple[str, str]]:
    names = [("dropped", name) for name, _ in _conditions(raw)]
    if raw.table.unique:
        names.append(("dropped", "duplicate"))
    names += [("changed", fix.name) for fix in raw.table.fix]
    return names + [("noted", note.name) for note in raw.table.note]


def _counts(frame: DataFrame, raw: RawTable, changed_flags: Sequence[str]) -> dict[str, Any]:
    """Everything that is counted, in one pass."""
    from pyspark.sql import functions as F

    total = [F.count(F.lit(1)).alias("n")]
    total += [
        F.count_if(F.coalesce(F.col(_RULE) == name, F.lit(False))).alias(f"dropped:{name}")
        for action, name in _rule_names(raw)
        if action == "dropped"
    ]
    total += [
        F.count_if(F.col(flag)).alias(f"changed:{fix.name}")
        for flag, fix in zip(changed_flags, raw.table.fix, strict=True)
    ]
    kept = F.col(_RULE).isNull()
    total += [
        F.coalesce(F.sum(F.when(kept, F.expr(note.where).cast("bigint"))), F.lit(0)).alias(f"noted:{note.name}")
        for note in raw.table.note
    ]
    total += [F.count(f"raw_{column}").alias(f"filled:{column}") for column in raw.table.columns]
    counts: dict[str, Any] = frame.agg(*total).collect()[0].asDict()
    return counts


def _check_types(raw: RawTable, counts: dict[str, Any], n_read: int) -> None:
    for column, kind in raw.table.columns.items():
        filled, wrong = int(counts[f"filled:{column}"]), int(counts.get(f"dropped:wrong_type:{column}", 0))
        if not filled and raw.table.format == "json" and n_read > int(counts.get("dropped:malformed_line", 0)):
            raise SchemaError(
                f"{raw.place} has no value of {column!r} in any of its {n_read} lines; is it called otherwise there? "
                "Correct `columns` or `rename` in the description"
            )
        if wrong and wrong == filled:
            example = _examples(raw.frame, [column], None, where=f"raw_{column} IS NOT NULL")
            raise SchemaError(
                f"{raw.place}: column {column!r} has the wrong type: none of {filled} values is a {kind}, such as {example}; "
                "declare another type in the description, or export the file again"
            )


def _examples(frame: DataFrame, columns: list[str], rule: str | None, *, where: str = "true") -> str:
    from pyspark.sql import functions as F

    rows = frame if rule is None else frame.where(F.col(_RULE) == rule)
    found = rows.where(where).select(*[F.col(f"raw_{c}").alias(c) for c in columns]).limit(_SAMPLE).collect()
    return "; ".join(str(row.asDict()) for row in found)


def _file_name(rule: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in rule)

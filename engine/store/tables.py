"""All tables of the store; one schema for SQLite and PostgreSQL, changed only by a migration beside this file.

Facts (decisions, activations, rewards, outcomes, events, links, voids) are append-only and share one ``ledger_offset``
that grows in the order of commits, so that a reader who has seen offset n has seen everything up to n. ``fact_keys``
holds every id once: it makes retries harmless without an index on the time-ordered tables.
Times of facts are microseconds since 1970 in UTC.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData()

# SQLite's rowid alias is spelt INTEGER; PostgreSQL needs 64 bits.
Offset = BigInteger().with_variant(Integer(), "sqlite")

ledger_head = Table(
    "ledger_head",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    # Moves with every change of placements, experiments, policies and traits: servers reload when they see it move.
    Column("config_revision", BigInteger, nullable=False),
)

fact_keys = Table(
    "fact_keys",
    metadata,
    Column("kind", SmallInteger, nullable=False),
    Column("id", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("ledger_offset", BigInteger, nullable=False),
    PrimaryKeyConstraint("kind", "id"),
    sqlite_with_rowid=False,
)

decisions = Table(
    "decisions",
    metadata,
    Column("ledger_offset", Offset, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("placement", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("is_activated", Boolean, nullable=False),
    Column("experiment", Text),
    Column("phase", Integer),
    Column("variant", Text),
    Column("policy", Text, nullable=False),
    Column("offer", Text, nullable=False),
    Column("propensity", Float(53), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("decisions_by_subject", "subject", "at_us"),
    Index("decisions_by_placement", "placement", "at_us"),
)

activations = Table(
    "activations",
    metadata,
    Column("ledger_offset", Offset, primary_key=True, autoincrement=False),
    Column("decision", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    # What the page says it has shown; empty where it says nothing.
    Column("shown", Text),
    Index("activations_by_decision", "decision"),
)

voids = Table(
    "voids",
    metadata,
    Column("ledger_offset", Offset, primary_key=True, autoincrement=False),
    Column("decision", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)

rewards = Table(
    "rewards",
    metadata,
    Column("ledger_offset", Offset, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Index("rewards_by_decision", "decision"),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("ledger_offset", Offset, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Index("outcomes_by_subject", "subject", "at_us"),
)

# An id is identified once: its own id is the key of the fact.
links = Table(
    "links",
    metadata,
    Column("ledger_offset", Offset, primary_key=True, autoincrement=False),
    Column("subject", Text, nullable=False),
    Column("identified_as", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Index("links_by_subject", "subject"),
    Index("links_by_identified_as", "identified_as"),
)

events = Table(
    "events",
    metadata,
    Column("ledger_offset", Offset, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("item", Text, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Index("events_by_subject", "subject", "at_us"),
)

assignments = Table(
    "assignments",
    metadata,
    Column("experiment", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("variant", Text, nullable=False),
    Column("probability", Float(53), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("decision", Text, nullable=False),
    PrimaryKeyConstraint("experiment", "subject"),
    sqlite_with_rowid=False,
)

offer_sets = Table(
    "offer_sets",
    metadata,
    Column("revision", String(16), primary_key=True),
    Column("document", Text, nullable=False),
)

placements = Table(
    "placements",
    metadata,
    Column("id", Text, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("document", Text, nullable=False),
    Column("updated_at_us", BigInteger, nullable=False),
)

learner_ticks = Table(
    "learner_ticks",
    metadata,
    Column("policy", Text, nullable=False),
    Column("number", Integer, nullable=False),
    # Decisions of this policy from first_offset up to end_offset, with the facts below known_offset and up to as_of_us.
    Column("first_offset", BigInteger, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("known_offset", BigInteger, nullable=False),
    Column("as_of_us", BigInteger, nullable=False),
    Column("is_published", Boolean, nullable=False),
    # Added by revision 0004; empty in the ticks of earlier versions.
    Column("placement", Text),
    Column("definition", Text),
    # The policy could not learn it: neither an heir nor an audit does.
    Column("is_left_out", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("policy", "number"),
)

policy_versions = Table(
    "policy_versions",
    metadata,
    Column("name", Text, nullable=False),
    Column("version", String(16), nullable=False),
    Column("kind", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("feature_space", Text, nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    # When its artefact was taken off the disk; the row stays, since decisions name it.
    Column("removed_at_us", BigInteger),
    PrimaryKeyConstraint("name", "version"),
)

# Where a version stands at a placement; every move of it is a row of the audit table.
promotions = Table(
    "promotions",
    metadata,
    Column("placement", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("changed_at_us", BigInteger, nullable=False),
    Column("verdict", Text),
    Column("experiment", Text),
    # The policy that it took the place of, which a rollback brings back.
    Column("previous", Text),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("placement", "policy"),
)

# What the gate said, whole; never changed but for the approval of a person.
gate_verdicts = Table(
    "gate_verdicts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("placement", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("document", Text, nullable=False),
    Column("approved_by", Text),
    Column("approved_at_us", BigInteger),
    Index("gate_verdicts_by_policy", "policy", "at_us"),
)

# Every forecast, written before its outcome is known; what came of it is filled in once.
forecasts = Table(
    "forecasts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("placement", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("made_at_us", BigInteger, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("low", Float(53), nullable=False),
    Column("high", Float(53), nullable=False),
    Column("document", Text, nullable=False),
    Column("resolved_at_us", BigInteger),
    Column("actual", Float(53)),
    Column("actual_standard_error", Float(53)),
    Column("note", Text),
)

retrain_runs = Table(
    "retrain_runs",
    metadata,
    # Hash of everything the run depended on: the same again is the same run.
    Column("id", Text, primary_key=True),
    Column("placement", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)

experiments = Table(
    "experiments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("placement", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("started_at_us", BigInteger),
    Column("stopped_at_us", BigInteger),
)

phases = Table(
    "phases",
    metadata,
    Column("experiment", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("coverage", Float(53), nullable=False),
    Column("document", Text, nullable=False),
    Column("started_at_us", BigInteger, nullable=False),
    Column("ended_at_us", BigInteger),
    PrimaryKeyConstraint("experiment", "number"),
)

controls = Table(
    "controls",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("is_paused", Boolean, nullable=False),
    Column("holdout_bp", Integer, nullable=False),
    Column("needs_approval", Boolean, nullable=False),
)

# Compared byte by byte, which PostgreSQL does much faster than by a language's rules.
_Key = Text().with_variant(Text(collation="C"), "postgresql")

# One row per exposed subject: what experiment_cells is the sum of. Both, and the cursor of both, are derived from facts: on
# PostgreSQL they are unlogged, and made anew after a crash.
exposures = Table(
    "exposures",
    metadata,
    Column("experiment", _Key, nullable=False),
    Column("subject", _Key, nullable=False),
    Column("phase", Integer, nullable=False),
    # Empty where the subject was seen in several variants: it is counted as such and is in no sum.
    Column("variant", Text, nullable=False),
    Column("exposed_us", BigInteger, nullable=False),
    Column("subscribed", SmallInteger, nullable=False),
    Column("kept", SmallInteger, nullable=False),
    Column("margin", Float(53), nullable=False),
    Column("revenue", Float(53), nullable=False),
    # What the plan adjusts for, as the first decision knew it; 0 where there is none.
    Column("covariate", Float(53), nullable=False),
    # When it subscribed within the conversion window, and when it left after that.
    Column("subscribed_us", BigInteger),
    Column("left_us", BigInteger),
    Column("segments", Text, nullable=False),
    PrimaryKeyConstraint("experiment", "subject"),
    sqlite_with_rowid=False,
)

experiment_cells = Table(
    "experiment_cells",
    metadata,
    Column("experiment", Text, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("variant", Text, nullable=False),
    Column("hour", Integer, nullable=False),
    Column("segments", Text, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("n_subscribed", BigInteger, nullable=False),
    Column("n_kept", BigInteger, nullable=False),
    Column("sum_margin", Float(53), nullable=False),
    Column("sum_margin_squared", Float(53), nullable=False),
    Column("sum_revenue", Float(53), nullable=False),
    Column("sum_revenue_squared", Float(53), nullable=False),
    # x is the covariate.
    Column("sum_x", Float(53), nullable=False),
    Column("sum_xx", Float(53), nullable=False),
    Column("sum_x_subscribed", Float(53), nullable=False),
    Column("sum_x_kept", Float(53), nullable=False),
    Column("sum_x_margin", Float(53), nullable=False),
    Column("sum_x_revenue", Float(53), nullable=False),
    PrimaryKeyConstraint("experiment", "phase", "variant", "hour", "segments"),
    sqlite_with_rowid=False,
)

# The money of subjects by size, so that large values can be capped without a row per subject; subjects with none are in no bin.
experiment_values = Table(
    "experiment_values",
    metadata,
    Column("experiment", Text, nullable=False),
    Column("measure", String(16), nullable=False),
    Column("phase", Integer, nullable=False),
    Column("variant", Text, nullable=False),
    Column("hour", Integer, nullable=False),
    Column("segments", Text, nullable=False),
    Column("bin", SmallInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("total", Float(53), nullable=False),
    Column("total_squares", Float(53), nullable=False),
    Column("sum_x", Float(53), nullable=False),
    Column("sum_xy", Float(53), nullable=False),
    PrimaryKeyConstraint("experiment", "measure", "phase", "variant", "hour", "segments", "bin"),
    sqlite_with_rowid=False,
)

# Subscribers by day of subscribing and by how many whole days they stayed; -1 while they are still there.
experiment_stays = Table(
    "experiment_stays",
    metadata,
    Column("experiment", Text, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("variant", Text, nullable=False),
    Column("day", Integer, nullable=False),
    Column("stayed", Integer, nullable=False),
    Column("n", BigInteger, nullable=False),
    PrimaryKeyConstraint("experiment", "phase", "variant", "day", "stayed"),
    sqlite_with_rowid=False,
)

rollups = Table(
    "rollups",
    metadata,
    Column("experiment", Text, primary_key=True),
    # Facts below this offset are in the exposures of the experiment.
    Column("next_offset", BigInteger, nullable=False),
    # What was counted, and how: other rules make a new rollup.
    Column("rules", Text, nullable=False),
)

# Sums of the ledger below the cursor's offset by placement, hour, kind of sum and key (``engine.monitoring.cells``). Derived: they
# can be made anew as long as the facts are there.
health_cells = Table(
    "health_cells",
    metadata,
    Column("placement", Text, nullable=False),
    Column("hour", Integer, nullable=False),
    Column("what", String(16), nullable=False),
    Column("key", Text, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("a", Float(53), nullable=False),
    Column("b", Float(53), nullable=False),
    Column("c", Float(53), nullable=False),
    PrimaryKeyConstraint("placement", "hour", "what", "key"),
    sqlite_with_rowid=False,
)

health_cursor = Table(
    "health_cursor",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    # Time of the newest decision below it.
    Column("at_us", BigInteger, nullable=False),
    # What was summed, and how: other rules make the cells anew.
    Column("rules", Text, nullable=False),
)

# An alarm from when it rang until it was quiet again.
alarm_episodes = Table(
    "alarm_episodes",
    metadata,
    Column("placement", Text, nullable=False),
    Column("alarm", String(32), nullable=False),
    Column("began_at_us", BigInteger, nullable=False),
    Column("seen_at_us", BigInteger, nullable=False),
    Column("ended_at_us", BigInteger),
    Column("sentence", Text, nullable=False),
    PrimaryKeyConstraint("placement", "alarm", "began_at_us"),
    # Of two monitors that find an alarm ringing at once, one opens its episode.
    Index(
        "alarm_episodes_open",
        "placement",
        "alarm",
        unique=True,
        sqlite_where=text("ended_at_us IS NULL"),
        postgresql_where=text("ended_at_us IS NULL"),
    ),
)

# What was decided and rewarded below the cursor's offset, by placement and policy (``engine.decisions.tallies``). Derived: it can
# be made anew from the facts.
placement_tallies = Table(
    "placement_tallies",
    metadata,
    Column("placement", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("n_decisions", BigInteger, nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("last_offset", BigInteger, nullable=False),
    Column("n_rewards", BigInteger, nullable=False),
    # 0 where there is none.
    Column("last_reward_offset", BigInteger, nullable=False),
    PrimaryKeyConstraint("placement", "policy"),
    sqlite_with_rowid=False,
)

tally_cursor = Table(
    "tally_cursor",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", String(16), nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    Column("is_active", Boolean, nullable=False),
    # Issuer and subject of whoever a provider of identities signs in; without a password of its own.
    Column("identity", Text),
    Index("accounts_by_identity", "identity", unique=True),
)

sessions = Table(
    "sessions",
    metadata,
    # SHA-256 of the cookie: who reads the store cannot sign in with it.
    Column("digest", String(64), primary_key=True),
    Column("account", Text, nullable=False),
    Column("form_key", Text, nullable=False),
    Column("expires_at_us", BigInteger, nullable=False),
    Index("sessions_by_account", "account"),
)

traits = Table(
    "traits",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("document", Text, nullable=False),
    Column("updated_at_us", BigInteger, nullable=False),
)

erasures = Table(
    "erasures",
    metadata,
    Column("pseudonym", Text, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)

# Facts of a kind below the offset lie in the cold path: events are gone, decisions have lost their bodies.
retention = Table(
    "retention",
    metadata,
    Column("what", String(16), primary_key=True),
    Column("below_offset", BigInteger, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Offset, primary_key=True, autoincrement=True),
    Column("at_us", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("document", Text, nullable=False),
)

# News for people, each written once: a topic's next number is taken by one process only.
alerts = Table(
    "alerts",
    metadata,
    Column("id", Offset, primary_key=True, autoincrement=True),
    Column("topic", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    UniqueConstraint("topic", "number"),
)

alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("alert", Offset, nullable=False),
    Column("channel", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    # When the next attempt is due; while one is being made, when it is given up for lost.
    Column("next_us", BigInteger, nullable=False),
    Column("delivered_us", BigInteger),
    Column("error", Text, nullable=False),
    PrimaryKeyConstraint("alert", "channel"),
)

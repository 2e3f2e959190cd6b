"""The expert's pages: the log of changes, accounts and roles, keys, and switches over all experiments."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime

from starlette.responses import Response

from api.auth import PUBLIC_SCOPES, SCOPES, check_free_name, new_key
from api.console.ask import Ask, go_to
from api.console.page import Page
from engine.accounts.accounts import ROLES
from engine.experiments.audit import AuditRow, note_change, read_audit
from engine.experiments.controls import set_controls
from policies.errors import UnknownNameError

_ON_PAGE = 200


def audit(ask: Ask) -> Response:
    """The log of changes, newest first."""
    rows = read_audit(ask.service.database, limit=_ON_PAGE)
    shown = [(r, _difference(r)) for r in rows]
    return ask.page("audit.html.j2", title=ask.words("Log of changes"), here="/audit", rows=shown)


def audit_file(ask: Ask) -> Response:
    """All of it as a table for a file."""
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["id", "at", "actor", "action", "what", "reason", "before", "after"])
    for r in read_audit(ask.service.database, limit=None):
        before, after = r.document.get("before"), r.document.get("after", r.document)
        cells = [r.id, r.at.isoformat(), r.actor, r.action, r.what, r.reason, json.dumps(before), json.dumps(after)]
        # A cell that begins like a formula would be run by a spreadsheet.
        table.writerow([f"'{c}" if isinstance(c, str) and c[:1] in "=+-@\t" else c for c in cells])
    return Response(
        out.getvalue(), media_type="text/csv", headers={"content-disposition": "attachment; filename=audit.csv"}
    )


def people(ask: Ask) -> Response:
    """Accounts and switches."""
    return ask.page("people.html.j2", title=ask.words("People and rules"), here="/people", accounts=ask.parts.accounts.list(), roles=ROLES, controls=ask.service.controls())  # fmt: skip


def add_account(ask: Ask) -> Response:
    """Make an account."""
    role = next((r for r in ROLES if r == ask.text("role")), None)
    if role is None:
        raise UnknownNameError("role", ask.text("role"), ROLES)
    password = ask.form.get("password", [""])[0]
    ask.parts.accounts.create(ask.text("name"), role=role, password=password, change=ask.change())
    return go_to("/people", said="saved")


def change_account(ask: Ask) -> Response:
    """Change a role, close an account, or open it again."""
    role = next((r for r in ROLES if r == ask.text("role")), None)
    ask.parts.accounts.change(
        ask.text("name"), change=ask.change(), role=role, is_active=ask.text("is_active") == "yes"
    )
    return go_to("/people", said="saved")


def save_controls(ask: Ask) -> Response:
    """Set the holdout, and whether a start needs approval."""
    holdout = ask.number("holdout", what="Holdout") or 0.0
    set_controls(
        ask.service.database,
        change=ask.change(ask.text("reason")),
        holdout_bp=round(holdout * 100),
        needs_approval=ask.text("needs_approval") == "yes",
    )
    ask.service.refresh()
    return go_to("/people", said="saved")


def keys(ask: Ask) -> Response:
    """Keys of the interface, which are shown once and kept as hashes."""
    return _keys_page(ask, made="")


def add_key(ask: Ask) -> Response:
    """Make a key and show it, this once."""
    name, is_public = ask.text("name"), ask.text("is_public") == "yes"
    chosen = [s for s in SCOPES if s in ask.texts("scope")]
    check_free_name(ask.parts.keys, name)
    text, kept = new_key(name, scopes=PUBLIC_SCOPES if is_public else chosen, at=ask.now, is_public=is_public)
    ask.parts.keys.add(kept)
    _note_key(ask, name, "create")
    return _keys_page(ask, made=text)


def revoke_key(ask: Ask) -> Response:
    """Refuse a key from now on."""
    ask.parts.keys.revoke(ask.text("name"), digest_start=ask.text("digest"))
    _note_key(ask, ask.text("name"), "revoke")
    return go_to("/keys", said="saved")


def _keys_page(ask: Ask, *, made: str) -> Response:
    found = [(k, None if k.expires_at is None else datetime.fromisoformat(k.expires_at)) for k in ask.parts.keys.read()]
    return ask.page(
        "keys.html.j2", title=ask.words("Keys"), here="/keys", keys=found, now=ask.now, scopes=SCOPES, made=made
    )


def _note_key(ask: Ask, name: str, action: str) -> None:
    note_change(ask.service.database, change=ask.change(), action=action, what=f"key {name}")


def _difference(row: AuditRow) -> list[tuple[str, str, str]]:
    """What changed, field by field, short."""
    before, after = row.document.get("before"), row.document.get("after")
    if not isinstance(after, dict):
        return []
    old = before if isinstance(before, dict) else {}
    return [
        (k, _short(old.get(k)), _short(v)) for k, v in after.items() if k not in ("revision", "phase") and old.get(k) != v and (old or v)
    ][:8]  # fmt: skip


def _short(value: object) -> str:
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "…"


PAGES = (
    Page("audit", "/audit", audit, title="Log of changes", menu="experts"),
    Page("audit_file", "/audit.csv", audit_file),
    Page("people", "/people", people, "admin", title="People and rules", menu="rules"),
    Page("add_account", "/people/add", add_account, "admin", ("POST",)),
    Page("change_account", "/people/change", change_account, "admin", ("POST",)),
    Page("controls", "/people/controls", save_controls, "admin", ("POST",)),
    Page("keys", "/keys", keys, "admin", title="Keys", menu="rules"),
    Page("add_key", "/keys/add", add_key, "admin", ("POST",)),
    Page("revoke_key", "/keys/revoke", revoke_key, "admin", ("POST",)),
)

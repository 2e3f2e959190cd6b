"""Accounts of the console, local and of a provider of identities, and the sessions that a sign-in opens.

Passwords are kept as argon2id hashes. Of a session the store has the SHA-256 of its cookie, so that who reads the store cannot sign
in with it; a session ends after half a day, when its account is changed, and at sign-out.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import delete, insert, select, update

from engine.store import tables
from engine.store.changes import Change
from engine.store.database import Database, record_change
from engine.store.facts import from_us, to_us
from policies.errors import ConflictError, InvalidInputError, StateError, UnknownNameError

Role = Literal["viewer", "experimenter", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
SESSION = timedelta(hours=12)
MIN_PASSWORD = 10
MAX_PASSWORD = 256
MAX_FAILURES = 8
FAILURE_WINDOW = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may sign in."""

    name: str
    role: Role
    created_at: datetime
    is_active: bool

    def may(self, role: Role) -> bool:
        """Whether the account has a role or a higher one."""
        return self.is_active and ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True, slots=True)
class Session:
    """An open sign-in.

    Parameters
    ----------
    form_key
        Has to come with every form, so that no other site can send one.
    """

    account: Account
    form_key: str


class Accounts:
    """Accounts and sessions of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._failures: dict[str, list[datetime]] = {}

    def list(self) -> list[Account]:
        """All accounts by name."""
        table = tables.accounts
        with self._database.reading() as connection:
            rows = connection.execute(select(table).order_by(table.c.name)).all()
        return [Account(r.name, r.role, from_us(r.created_at_us), bool(r.is_active)) for r in rows]

    def create(self, name: str, *, role: Role, password: str, change: Change) -> Account:
        """Make an account.

        Raises
        ------
        ConflictError
            If the name is taken.
        InvalidInputError
            If the name, the role or the password will not do.
        """
        _check_name(name)
        if role not in ROLES:
            raise UnknownNameError("role", role, ROLES)
        hashed = _hash(password)
        with self._database.writing() as connection:
            table = tables.accounts
            if connection.execute(select(table.c.name).where(table.c.name == name)).first() is not None:
                raise ConflictError(f"account {name!r} exists already; choose another name, or change its role")
            connection.execute(
                insert(table).values(
                    name=name, role=role, password_hash=hashed, created_at_us=to_us(change.at), is_active=True
                )
            )
            record_change(
                connection,
                change,
                action="create",
                what=f"account {name}",
                document={"before": None, "after": {"role": role}},
            )
        return Account(name, role, change.at, True)

    def change(
        self,
        name: str,
        *,
        change: Change,
        role: Role | None = None,
        password: str | None = None,
        is_active: bool | None = None,
    ) -> Account:
        """Change a role or a password, or close an account; its sessions end.

        Raises
        ------
        UnknownNameError
            If there is no such account.
        InvalidInputError
            If it would leave nobody who administers.
        """
        found = {a.name: a for a in self.list()}
        if name not in found:
            raise UnknownNameError("account", name, found)
        before = found[name]
        if role is not None and role not in ROLES:
            raise UnknownNameError("role", role, ROLES)
        after = Account(
            name, role or before.role, before.created_at, before.is_active if is_active is None else is_active
        )
        others = [a for a in found.values() if a.name != name]
        if before.may("admin") and not after.may("admin") and not any(a.may("admin") for a in others):
            raise InvalidInputError(f"{name!r} is the last one who administers; make another admin first")
        values: dict[str, object] = {"role": after.role, "is_active": after.is_active}
        if password is not None:
            values["password_hash"] = _hash(password)
        with self._database.writing() as connection:
            connection.execute(update(tables.accounts).where(tables.accounts.c.name == name).values(**values))
            connection.execute(delete(tables.sessions).where(tables.sessions.c.account == name))
            record_change(
                connection,
                change,
                action="change",
                what=f"account {name}",
                document={
                    "before": {"role": before.role, "is_active": before.is_active},
                    "after": {"role": after.role, "is_active": after.is_active, "password": password is not None},
                },
            )
        return after

    def sign_in(self, name: str, password: str, *, at: datetime) -> str | None:
        """Open a session and return its cookie; None where name or password is wrong, or too many were.

        The same time passes whether or not the name exists.
        """
        recent = [t for t in self._failures.get(name, []) if t > at - FAILURE_WINDOW]
        if len(recent) >= MAX_FAILURES:
            return None
        table = tables.accounts
        with self._database.reading() as connection:
            row = connection.execute(select(table).where(table.c.name == name, table.c.is_active)).first()
        is_right = _verify(row.password_hash if row is not None else _nobody(), password) and row is not None
        if not is_right:
            if len(self._failures) > 10_000:
                self._failures.clear()
            self._failures[name] = [*recent, at]
            return None
        self._failures.pop(name, None)
        return self._open(name, at=at)

    def sign_in_identity(self, identity: str, *, name: str, role: Role, at: datetime) -> str:
        """Open a session for whoever a provider has vouched for; the account is made at the first sign-in.

        The provider decides the role: one that differs is changed, and earlier sessions end.

        Parameters
        ----------
        identity
            Issuer and subject: what stays when a name changes.
        name
            Of a new account.

        Raises
        ------
        ConflictError
            If the name is another account's: nobody becomes a local account because a provider gave them its name.
        StateError
            If an admin has closed the account.
        """
        _check_name(name)
        table = tables.accounts
        with self._database.writing() as connection:
            row = connection.execute(select(table).where(table.c.identity == identity)).first()
            if row is None:
                if connection.execute(select(table.c.name).where(table.c.name == name)).first() is not None:
                    raise ConflictError(
                        f"account {name!r} exists already and is not yours; ask an admin to free the name"
                    )
                values = {"role": role, "password_hash": "", "created_at_us": to_us(at), "is_active": True}
                connection.execute(insert(table).values(name=name, identity=identity, **values))
                document = {"before": None, "after": {"role": role, "identity": identity}}
                record_change(
                    connection, Change(at, "identity provider"), action="create", what=f"account {name}", document=document
                )  # fmt: skip
            elif not row.is_active:
                raise StateError(f"account {row.name!r} is closed; ask an admin to open it")
            elif row.role != role:
                connection.execute(update(table).where(table.c.name == row.name).values(role=role))
                connection.execute(delete(tables.sessions).where(tables.sessions.c.account == row.name))
                document = {"before": {"role": row.role}, "after": {"role": role}}
                record_change(
                    connection, Change(at, "identity provider"), action="change", what=f"account {row.name}", document=document
                )  # fmt: skip
        return self._open(name if row is None else row.name, at=at)

    def _open(self, name: str, *, at: datetime) -> str:
        cookie = secrets.token_urlsafe(32)
        sessions = tables.sessions
        with self._database.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.expires_at_us <= to_us(at)))
            connection.execute(
                insert(sessions).values(
                    digest=_digest(cookie),
                    account=name,
                    form_key=secrets.token_urlsafe(24),
                    expires_at_us=to_us(at + SESSION),
                )
            )
        return cookie

    def session(self, cookie: str, *, at: datetime) -> Session | None:
        """Session of a cookie; None where it has ended."""
        sessions, accounts = tables.sessions, tables.accounts
        query = (
            select(sessions.c.form_key, accounts)
            .join(accounts, accounts.c.name == sessions.c.account)
            .where(sessions.c.digest == _digest(cookie), sessions.c.expires_at_us > to_us(at), accounts.c.is_active)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return Session(Account(row.name, row.role, from_us(row.created_at_us), bool(row.is_active)), row.form_key)

    def sign_out(self, cookie: str) -> None:
        """End a session."""
        with self._database.writing() as connection:
            connection.execute(delete(tables.sessions).where(tables.sessions.c.digest == _digest(cookie)))


def _check_name(name: str) -> None:
    if not name or len(name) > 64 or not all(c.isalnum() or c in "-_.@" for c in name):
        raise InvalidInputError(
            f"name {name[:80]!r} is not usable; expected 1 to 64 letters, digits, '-', '_', '.' or '@'"
        )


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).hexdigest()


def _hash(password: str) -> str:
    from argon2 import PasswordHasher

    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidInputError(
            f"the password has {len(password)} characters; expected {MIN_PASSWORD} to {MAX_PASSWORD}"
        )
    return PasswordHasher().hash(password)


def _verify(hashed: str, password: str) -> bool:
    from argon2 import PasswordHasher
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return PasswordHasher().verify(hashed, password[: MAX_PASSWORD + 1])
    except (VerificationError, InvalidHashError):
        return False


_NOBODY: list[str] = []


def _nobody() -> str:
    """A hash that no password has, to spend the same time on a name that does not exist."""
    if not _NOBODY:
        _NOBODY.append(_hash(secrets.token_urlsafe(32)))
    return _NOBODY[0]

"""Accounts from a shell: the first one before anything else has run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from api.cli.main import run
from engine.accounts.accounts import Accounts
from engine.store.database import Database, sqlite_url


def test_the_first_account_makes_the_store_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A newcomer needs no service before an account; the sentence shows a mistyped folder, and the second call makes none."""
    home = tmp_path / "home"
    for role in ("admin", "viewer"):
        monkeypatch.setattr("sys.stdin", io.StringIO("a long enough password\n"))
        code = run(["console", "user", "anna" if role == "admin" else "bert", "--role", role, "--home", str(home)])
        said = capsys.readouterr()
        assert (code, said.out.strip().endswith(role)) == (0, True)
        assert (f"a new store is made at {home / 'nextoffer.db'}" in said.err) == (role == "admin")
    with Database(sqlite_url(home / "nextoffer.db")) as database:
        assert {a.name: a.role for a in Accounts(database).list()} == {"anna": "admin", "bert": "viewer"}
        assert Accounts(database).sign_in("anna", "a long enough password", at=Accounts(database).list()[0].created_at)

"""Deployment settings: a file, the environment, and nothing that is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.settings import Settings, load_settings
from policies.errors import InvalidInputError, UnknownNameError


def test_the_environment_overrides_the_file_and_the_command_overrides_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, then environment, then arguments."""
    path = tmp_path / "nextoffer.toml"
    path.write_text('port = 8001\nhost = "0.0.0.0"\nbatch_limit = 7\n')
    monkeypatch.setenv("NEXTOFFER_PORT", "8002")
    monkeypatch.setenv("NEXTOFFER_BATCH_LIMIT", "8")
    settings = load_settings(path, port=8003)
    assert (settings.host, settings.port, settings.batch_limit) == ("0.0.0.0", 8003, 8)
    monkeypatch.setenv("NEXTOFFER_CONFIG", str(path))
    assert load_settings().port == 8002


def test_unknown_keys_are_refused_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt key of the file or variable is an error that names the right one."""
    path = tmp_path / "nextoffer.toml"
    path.write_text("prot = 1\n")
    with pytest.raises(UnknownNameError, match="did you mean 'port'"):
        load_settings(path)
    monkeypatch.setenv("NEXTOFFER_DATA_DIR", "somewhere")
    load_settings()
    monkeypatch.setenv("NEXTOFFER_PROT", "1")
    with pytest.raises(UnknownNameError, match="did you mean 'NEXTOFFER_PORT'"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = 70000", "port"),
        ('mode = "test"', "mode"),
        ("port = ", "TOML"),
        ('draw_secret = "short"', "at least 16"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, text: str, words: str) -> None:
    """A value of the wrong form is an error that names its key."""
    path = tmp_path / "nextoffer.toml"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=words):
        load_settings(path)
    with pytest.raises(InvalidInputError, match="cannot read settings"):
        load_settings(tmp_path / "none.toml")


def test_settings_are_frozen_and_secrets_are_not_shown() -> None:
    """Nothing changes after start, and no log shows the secret."""
    settings = Settings(draw_secret="a very long secret")  # type: ignore[arg-type]  # pydantic makes it a SecretStr
    assert "very long" not in repr(settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_secrets_may_lie_in_files_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted file holds the secret or the database's address; a password shows in no log; both at once is refused."""
    (tmp_path / "secret").write_text("a very long secret\n")
    (tmp_path / "url").write_text("postgresql://shop:hunter2@db/nextoffer\n")
    monkeypatch.setenv("NEXTOFFER_DRAW_SECRET_FILE", str(tmp_path / "secret"))
    config = tmp_path / "nextoffer.toml"
    config.write_text(f'database_url_file = "{tmp_path / "url"}"\n')
    settings = load_settings(config)
    assert settings.draw_secret is not None
    assert settings.draw_secret.get_secret_value() == "a very long secret"
    assert settings.database_url == "postgresql://shop:hunter2@db/nextoffer"
    assert "hunter2" not in repr(settings)
    monkeypatch.setenv("NEXTOFFER_DATABASE_URL", "sqlite:///x.db")
    with pytest.raises(InvalidInputError, match="both database_url and database_url_file"):
        load_settings(config)
    monkeypatch.delenv("NEXTOFFER_DATABASE_URL")
    monkeypatch.setenv("NEXTOFFER_DRAW_SECRET_FILE", str(tmp_path / "nothing"))
    with pytest.raises(InvalidInputError, match="cannot read draw_secret_file"):
        load_settings(config)

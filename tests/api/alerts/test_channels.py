"""Each channel against a real server on this machine."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from api.alerts.channels import channels_of
from api.alerts.mail import Mail
from api.alerts.telegram import LONGEST, Telegram, shortened
from api.alerts.webhook import Webhook, signature
from api.settings import load_settings
from engine.alerts.message import Message, Text
from policies.errors import ChannelError, InvalidInputError
from tests.api.alerts.servers import PASSWORD, USER, certificate, http_server, mail_server

AT = datetime(2026, 3, 2, 7, tzinfo=UTC)
MESSAGE = Message(
    7, "experiment spring", "experiment.verdict", AT,
    {"en": Text("spring: ship", "Ship B: 310 more\nsubscriptions."), "ru": Text("spring: выпускать", "Выпускайте B.")},
    {"experiment": "spring", "decision": "ship"},
)  # fmt: skip
TOKEN = "12345:secret-of-the-bot"


def test_a_webhook_is_signed_and_names_the_message() -> None:
    """The receiver can check who sent it and when, and knows a repeated message by its id."""
    with http_server() as server:
        Webhook(f"{server.url}/hook", "a secret of the tests").send(MESSAGE)
        path, headers, body = server.requests[0]
        assert path == "/hook"
        found = re.fullmatch(r"t=(\d+),v1=[0-9a-f]{64}", headers["Nextoffer-Signature"])
        assert found is not None
        assert headers["Nextoffer-Signature"] == signature("a secret of the tests", int(found[1]), body)
        told = json.loads(body)
        assert (told["id"], told["type"], told["experiment"]) == (7, "experiment.verdict", "spring")
        assert told["text"].startswith("Ship B")


@pytest.mark.parametrize("status", [302, 400, 500])
def test_what_is_not_taken_is_an_error_with_its_reason(status: int) -> None:
    """A redirect or an error of the receiver is no delivery; the reason is told, the token is not."""
    with http_server() as server:
        server.statuses = [status]
        with pytest.raises(ChannelError, match=str(status)) as told:
            Telegram(TOKEN, "-100", server.url).send(MESSAGE)
        assert "secret" not in str(told.value)
        assert len(server.requests) == 1


def test_nobody_there_is_an_error() -> None:
    """A port that nobody listens on is no delivery."""
    with http_server() as server:
        url = server.url
    with pytest.raises(ChannelError, match="cannot be reached"):
        Telegram(TOKEN, "-100", url).send(MESSAGE)


def test_telegram_gets_the_text_in_the_chat() -> None:
    """The bot API is called as its documentation says, in the language of the channel."""
    with http_server() as server:
        channel = Telegram(TOKEN, "-100", server.url, "ru")
        channel.send(MESSAGE)
        assert server.requests[0][0] == f"/bot{TOKEN}/sendMessage"
        body = server.bodies()[0]
        assert (body["chat_id"], body["text"]) == ("-100", "spring: выпускать\n\nВыпускайте B.")
        assert TOKEN not in repr(channel)
        server.answer = b"<html>a proxy's page</html>"
        with pytest.raises(ChannelError, match="no Telegram bot API"):
            channel.send(MESSAGE)


def test_a_long_text_is_cut_at_a_line() -> None:
    """What Telegram would refuse ends with whole lines and a sign that there is more; letters of two units count as two."""
    assert shortened("x" * LONGEST) == "x" * LONGEST
    lines = "\n".join(f"{i} 🎉" + "x" * 90 for i in range(100))
    cut = shortened(lines)
    assert cut.endswith("\n…")
    assert lines.startswith(cut[:-2])
    assert LONGEST - 200 < len(cut.encode("utf-16-le")) // 2 <= LONGEST
    assert shortened("y" * 5_000).endswith("y…")


def _mail(port: int, ca_file: Path | None, **changes: Any) -> Mail:
    made = Mail("127.0.0.1", port, "nextoffer@example.com", "team@example.com", user=USER, password=PASSWORD)
    return replace(made, ca_file=ca_file, **changes)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_mail_goes_through_tls_with_a_password(tmp_path: Path, security: Any) -> None:
    """A real mail server that asks for TLS and a password takes the mail, whose id stays the same at every attempt."""
    context, ca_file = certificate(tmp_path)
    with mail_server(context=context, is_implicit=security == "tls") as box:
        channel = _mail(box.port, ca_file, security=security)
        channel.send(MESSAGE)
        channel.send(MESSAGE)
    first, second = box.mails
    assert (first["Subject"], first["To"], first["From"]) == (
        "spring: ship",
        "team@example.com",
        "nextoffer@example.com",
    )
    assert first["Message-ID"] == second["Message-ID"]
    assert first.get_content().replace("\r\n", "\n").strip() == "Ship B: 310 more\nsubscriptions."


def test_a_russian_mail_is_readable(tmp_path: Path) -> None:
    """Title and text arrive letter by letter."""
    with mail_server() as box:
        _mail(box.port, None, security="none", user="", password="", language="ru").send(MESSAGE)
    assert (box.mails[0]["Subject"], box.mails[0].get_content().strip()) == ("spring: выпускать", "Выпускайте B.")


def test_a_mail_server_that_is_not_who_it_says_gets_nothing(tmp_path: Path) -> None:
    """An unknown certificate, or no TLS where it was asked for, ends the attempt before the password is sent."""
    context, ca_file = certificate(tmp_path)
    with mail_server(context=context) as box:
        with pytest.raises(ChannelError, match="CERTIFICATE_VERIFY_FAILED"):
            _mail(box.port, None).send(MESSAGE)
        with pytest.raises(ChannelError, match="535") as told:
            _mail(box.port, ca_file, password="another password").send(MESSAGE)
        assert "another password" not in str(told.value)
    with mail_server() as plain, pytest.raises(ChannelError, match="STARTTLS"):
        _mail(plain.port, ca_file).send(MESSAGE)
    assert not box.mails
    assert not plain.mails


def test_a_refused_address_says_so(tmp_path: Path) -> None:
    """Addresses are channels of their own, so that one the server refuses keeps nothing from the others."""
    settings = _settings(
        tmp_path, alert_email_to=("gone@example.com", "team@example.com"), alert_email_from="a@example.com",
        smtp_host="127.0.0.1", smtp_security="none", smtp_port=1,
    )  # fmt: skip
    with mail_server() as box:
        box.refused = {"gone@example.com"}
        gone, team = channels_of(settings.model_copy(update={"smtp_port": box.port}))
        with pytest.raises(ChannelError, match="refused the recipient"):
            gone.send(MESSAGE)
        team.send(MESSAGE)
    assert box.recipients == ["team@example.com"]


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """Token, password and secret lie in files, as orchestrators mount them, and are in no repr."""
    for name in ("alert_secret", "smtp_password", "telegram_token"):
        (tmp_path / name).write_text(f"the {name} of the tests\n", encoding="utf-8")
    settings = _settings(
        tmp_path, alert_url="https://hooks.example.com/x?key=1", alert_secret_file=tmp_path / "alert_secret",
        alert_email_to=("team@example.com",), alert_email_from="a@example.com", smtp_host="mail.example.com", smtp_user="a",
        smtp_password_file=tmp_path / "smtp_password", telegram_token_file=tmp_path / "telegram_token", telegram_chat="@team",
    )  # fmt: skip
    webhook, mail, telegram = channels_of(settings)
    assert isinstance(mail, Mail)
    assert (mail.port, mail.security, mail.password) == (587, "starttls", "the smtp_password of the tests")
    assert telegram.name == "telegram @team"
    assert "key=1" not in webhook.name
    assert "of the tests" not in repr((webhook, mail, telegram))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"alert_url": "https://x.example", "alert_secret": "short"}, "at least 16"),
        ({"alert_email_to": ("a@b.c",)}, "without smtp_host and alert_email_from"),
        ({"alert_email_to": ("nobody",), "smtp_host": "m", "alert_email_from": "a@b.c"}, "no e-mail address"),
        (
            {"alert_email_to": ("a@b.c",), "smtp_host": "m", "alert_email_from": "a@b.c", "smtp_user": "a"},
            "come together",
        ),
        (
            {"alert_email_to": ("a@b.c",), "smtp_host": "m", "alert_email_from": "a@b.c", "smtp_user": "a", "smtp_password": "p", "smtp_security": "none"},
            "in clear",
        ),
        ({"telegram_token": TOKEN}, "come together"),
        ({"telegram_token": TOKEN, "telegram_chat": "1", "telegram_url": "http://bots.example.com"}, "in clear"),
    ],
)  # fmt: skip
def test_half_a_channel_is_refused(tmp_path: Path, values: dict[str, Any], text: str) -> None:
    """A channel that could not work, or would send a secret in clear, is refused at the start with a sentence."""
    with pytest.raises(InvalidInputError, match=text):
        channels_of(_settings(tmp_path, **values))


def _settings(folder: Path, **values: Any) -> Any:
    return load_settings(None, home=folder, **values)

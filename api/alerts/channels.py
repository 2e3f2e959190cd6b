"""Channels as the settings describe them, checked before anything is sent."""

from __future__ import annotations

from pydantic import SecretStr

from api.alerts.mail import Mail
from api.alerts.posting import is_private
from api.alerts.telegram import Telegram
from api.alerts.webhook import Webhook
from api.settings import Settings
from engine.alerts.message import Channel
from policies.errors import InvalidInputError

_PORTS = {"starttls": 587, "tls": 465, "none": 25}


def channels_of(settings: Settings) -> tuple[Channel, ...]:
    """All that is configured; none where nothing is.

    Raises
    ------
    InvalidInputError
        If a channel is configured by half, or a secret would travel in clear.
    """
    return (*_webhook(settings), *_mails(settings), *_telegram(settings))


def _webhook(settings: Settings) -> tuple[Channel, ...]:
    if settings.alert_url is None:
        return ()
    secret = _clear(settings.alert_secret)
    if len(secret) < 16:
        raise InvalidInputError(
            f"alert_secret has {len(secret)} characters; alert_url needs one of at least 16, so that its receiver can tell our messages from others'"
        )
    return (Webhook(settings.alert_url, secret, settings.alert_language),)


def _mails(settings: Settings) -> tuple[Channel, ...]:
    if not settings.alert_email_to:
        return ()
    missing = [n for n in ("smtp_host", "alert_email_from") if not getattr(settings, n)]
    if missing:
        raise InvalidInputError(f"alert_email_to is given without {' and '.join(missing)}; mails need both")
    wrong = [a for a in (settings.alert_email_from, *settings.alert_email_to) if not _is_address(a)]
    if wrong:
        raise InvalidInputError(f"{wrong[0]!r} is no e-mail address; expected one such as team@example.com")
    password = _clear(settings.smtp_password)
    if bool(settings.smtp_user) != bool(password):
        raise InvalidInputError("smtp_user and smtp_password come together; give both, or neither")
    if password and settings.smtp_security == "none":
        raise InvalidInputError("smtp_security is none, and the password would travel in clear; take starttls or tls")
    assert settings.smtp_host is not None
    return tuple(
        Mail(
            settings.smtp_host,
            settings.smtp_port or _PORTS[settings.smtp_security],
            settings.alert_email_from,
            to,
            security=settings.smtp_security,
            user=settings.smtp_user,
            password=password,
            ca_file=settings.smtp_ca_file,
            language=settings.alert_language,
        )
        for to in dict.fromkeys(settings.alert_email_to)
    )


def _telegram(settings: Settings) -> tuple[Channel, ...]:
    token = _clear(settings.telegram_token)
    if bool(token) != bool(settings.telegram_chat):
        raise InvalidInputError("telegram_token and telegram_chat come together; give both, or neither")
    if not token:
        return ()
    if not is_private(settings.telegram_url):
        raise InvalidInputError(
            f"telegram_url is {settings.telegram_url}, and the token would travel in clear; expected an https address"
        )
    return (Telegram(token, settings.telegram_chat, settings.telegram_url.rstrip("/"), settings.alert_language),)


def _clear(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()


def _is_address(text: str) -> bool:
    name, at, domain = text.rpartition("@")
    return bool(name and at and domain) and not any(c.isspace() or ord(c) < 32 for c in text)

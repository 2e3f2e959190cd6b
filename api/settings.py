"""Deployment configuration: one frozen object from a TOML file, overridden by the environment, checked once.

Built by the command or by ``create_app``'s caller, never at import. Experiments and training have dataclasses of
their own; nothing here changes what a policy learns.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from api.errors import describe_validation
from policies.errors import InvalidInputError, UnknownNameError

ENV_PREFIX = "NEXTOFFER_"
# Environment variables with our prefix that are no settings: research data for tests and the path of the TOML file.
_OTHER_VARIABLES = frozenset({"NEXTOFFER_DATA_DIR", "NEXTOFFER_CONFIG"})


class Settings(BaseSettings):
    """Everything an operator may set; unknown keys are refused."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=ENV_PREFIX, hide_input_in_errors=True)

    home: Path = Field(default=Path("nextoffer-home"), description="Folder of everything the service writes")
    database_url: str | None = Field(
        default=None, repr=False, description="SQLAlchemy URL; without it, SQLite in `home`"
    )
    database_url_file: Path | None = Field(default=None, description="File that holds `database_url`, password and all")
    mode: Literal["sandbox", "production"] = Field(
        default="production", description="A sandbox prints a key and obeys the Nextoffer-Time header"
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        default=8000, description="Port to listen on; 0 takes a free one"
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Processes that answer on the one port; about one per core"
    )
    policy_deadline_ms: Annotated[float, Field(gt=0, le=10_000)] = Field(
        default=50.0,
        description="How long a policy may take, and a request may have waited, before a lower rung answers",
    )
    writer: Literal["process", "thread"] = Field(
        default="process",
        description="Where the log is written: a process that all workers of this host share, or a thread (one worker only)",
    )
    draw_secret: SecretStr | None = Field(
        default=None,
        description="Secret of the draw, at least 16 characters; without it, one is made and kept in `home`",
    )
    draw_secret_file: Path | None = Field(default=None, description="File that holds `draw_secret`")
    secret_version: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Number logged with each draw; raise it with the secret"
    )
    body_limit_bytes: Annotated[int, Field(ge=1024)] = Field(default=262_144, description="Largest request body")
    depth_limit: Annotated[int, Field(ge=4, le=100)] = Field(default=16, description="Deepest nesting of a JSON body")
    batch_limit: Annotated[int, Field(ge=1)] = Field(default=500, description="Most decisions in one batch request")
    rate_limit_per_s: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Requests per second and key, with bursts of two seconds; without it, no limit. Each worker counts for itself: "
        "with n workers a key may get through up to n times as many",
    )
    bot_decisions_per_minute: Annotated[int, Field(ge=1)] | None = Field(
        default=600,
        description="More decisions than this for one subject in a minute, and each worker takes it for a machine",
    )
    cors_origins: tuple[str, ...] = Field(default=(), description="Web origins that may call with a public browser key")
    alert_url: str | None = Field(
        default=None, pattern=r"^https?://", description="Where news of experiments is posted, signed, each once"
    )
    alert_secret: SecretStr | None = Field(
        default=None, description="Signs what goes to `alert_url`, at least 16 characters"
    )
    alert_secret_file: Path | None = Field(default=None, description="File that holds `alert_secret`")
    alert_email_to: tuple[str, ...] = Field(default=(), description="Addresses that news is mailed to")
    alert_email_from: str = Field(default="", description="Sender of these mails")
    alert_language: Literal["en", "ru"] = Field(default="en", description="Language of news and of the weekly digest")
    smtp_host: str | None = Field(default=None, description="Mail server")
    smtp_port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        default=None, description="Its port; without it 587 for `starttls`, 465 for `tls`, 25 for `none`"
    )
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="How the way to the mail server is secured; `none` only without a password"
    )
    smtp_user: str = Field(default="", description="Name to sign in with at the mail server")
    smtp_password: SecretStr | None = Field(default=None, description="Its password")
    smtp_password_file: Path | None = Field(default=None, description="File that holds `smtp_password`")
    smtp_ca_file: Path | None = Field(
        default=None, description="Certificates to trust for the mail server, in the place of the system's"
    )
    telegram_token: SecretStr | None = Field(default=None, description="Token of a Telegram bot")
    telegram_token_file: Path | None = Field(default=None, description="File that holds `telegram_token`")
    telegram_chat: str = Field(default="", description="Chat that the bot writes news to")
    telegram_url: str = Field(
        default="https://api.telegram.org",
        pattern=r"^https?://",
        description="Telegram's bot API, or a server of yours",
    )
    digest_day: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "never"] = Field(
        default="monday", description="Day of the weekly digest"
    )
    digest_hour: Annotated[int, Field(ge=0, le=23)] = Field(default=7, description="Hour of the digest, in UTC")
    console_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Address of the console, for links in messages and for coming back from the identity provider",
    )
    oidc_issuer: str | None = Field(
        default=None, pattern=r"^https?://", description="OpenID provider that signs people in to the console"
    )
    oidc_client_id: str = Field(default="", description="Name of the console at the provider")
    oidc_client_secret: SecretStr | None = Field(default=None, description="Its secret; a public client has none")
    oidc_client_secret_file: Path | None = Field(default=None, description="File that holds `oidc_client_secret`")
    oidc_scope: str = Field(default="openid profile email", description="What is asked of the provider")
    oidc_name_claim: str = Field(default="email", description="Claim that names the account")
    oidc_role_claim: str = Field(
        default="groups", description="Claim that decides the role; dots lead into it, as in `realm_access.roles`"
    )
    oidc_admins: tuple[str, ...] = Field(default=(), description="Values of the role claim that make an admin")
    oidc_experimenters: tuple[str, ...] = Field(default=(), description="Values that make an experimenter")
    oidc_viewers: tuple[str, ...] = Field(default=(), description="Values that make a viewer; `*` is everybody")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged"
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="One line of text a record, or one JSON object with what it is about"
    )
    alarm_thresholds: dict[str, float] = Field(
        default_factory=dict, description="Limits of alarms that differ from the defaults, by name"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before the environment; ``load_settings`` puts the TOML file behind both."""
        return init_settings, env_settings

    @property
    def is_sandbox(self) -> bool:
        """Whether time may be injected by header."""
        return self.mode == "sandbox"


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read the TOML file (argument, else ``NEXTOFFER_CONFIG``), let the environment override it, then ``overrides``.

    Raises
    ------
    InvalidInputError
        If the file cannot be read or a value has the wrong form, naming the key.
    UnknownNameError
        If a key of the file or a variable of the environment is no setting.
    """
    if path is None and os.environ.get("NEXTOFFER_CONFIG"):
        path = Path(os.environ["NEXTOFFER_CONFIG"])
    from_file = _read_toml(path) if path is not None else {}
    secrets = _secret_files(from_file, overrides)
    for key in from_file:
        if key not in Settings.model_fields:
            raise UnknownNameError(f"setting in {path}", key, Settings.model_fields)
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known | _OTHER_VARIABLES:
            raise UnknownNameError("environment variable", name, known)

    class Layered(Settings):
        """Arguments, then the environment, then the file."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            *sources: PydanticBaseSettingsSource,
            **named: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            layers = super().settings_customise_sources(settings_cls, *sources, **named)
            return (*layers, InitSettingsSource(settings_cls, init_kwargs={**from_file, **secrets}))

    try:
        settings: Settings = Layered(**overrides)
    except ValidationError as error:
        raise InvalidInputError(f"settings: {describe_validation(error)}") from None
    if settings.draw_secret is not None and len(settings.draw_secret.get_secret_value()) < 16:
        raise InvalidInputError(
            "settings: draw_secret is shorter than 16 characters; generate a random one of at least 16"
        )
    return settings


def as_plain(settings: Settings) -> dict[str, Any]:
    """Values that JSON can hold, secrets in clear: for a pipe to a process of ours, never for a command line or an environment."""
    plain: dict[str, Any] = {}
    for name, value in settings.model_dump().items():
        secret = value.get_secret_value() if isinstance(value, SecretStr) else value
        plain[name] = str(secret) if isinstance(secret, Path) else secret
    return plain


def from_plain(values: dict[str, Any]) -> Settings:
    """What ``as_plain`` wrote; the environment of the reader changes nothing."""
    return Settings(**values)


_SECRETS = ("draw_secret", "database_url", "alert_secret", "smtp_password", "telegram_token", "oidc_client_secret")


def _secret_files(from_file: dict[str, Any], overrides: dict[str, Any]) -> dict[str, str]:
    """Secrets that lie in files of their own, as orchestrators mount them.

    Raises
    ------
    InvalidInputError
        If a file cannot be read, or the secret is given in clear as well.
    """
    found: dict[str, str] = {}
    for name in _SECRETS:

        def said(key: str) -> Any:
            return overrides.get(key) or os.environ.get(ENV_PREFIX + key.upper()) or from_file.get(key)

        path = said(f"{name}_file")
        if path is None:
            continue
        if said(name) is not None:
            raise InvalidInputError(f"settings: both {name} and {name}_file are given; keep one of them")
        try:
            found[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise InvalidInputError(f"settings: cannot read {name}_file {path}: {error}") from None
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"cannot read settings from {path}: {error}; expected a TOML file of keys and values"
        ) from None

"""News by e-mail, through a mail server of yours; each address is a channel, so that a refused one stops no other."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Literal

from engine.alerts.message import Language, Message
from policies.errors import ChannelError

TIMEOUT_S = 10.0
Security = Literal["starttls", "tls", "none"]


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail server, and an address it writes to.

    Parameters
    ----------
    security
        ``starttls`` and ``tls`` verify the server's certificate and refuse to go on without it.
    ca_file
        Certificates to trust in the place of the system's, for a server of one's own.
    """

    host: str
    port: int
    sender: str
    to: str
    security: Security = "starttls"
    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    language: Language = "en"

    @property
    def name(self) -> str:
        """The address."""
        return f"mail {self.to}"

    def send(self, message: Message) -> None:
        """Hand one mail to the server."""
        mail = self.mail_of(message)
        try:
            with self._server() as server:
                server.send_message(mail)
        except (smtplib.SMTPException, OSError) as error:
            raise ChannelError(f"the mail server {self.host}:{self.port} did not take it ({_why(error)})") from None

    def mail_of(self, message: Message) -> EmailMessage:
        """The mail; its id is the same at every attempt, so that mailboxes can drop a repeated one."""
        text = message.text(self.language)
        mail = EmailMessage()
        mail["Subject"] = " ".join(text.title.split())
        mail["From"], mail["To"] = self.sender, self.to
        mail["Date"] = format_datetime(message.at)
        domain = self.sender.rpartition("@")[2].strip("> ") or "nextoffer"
        mail["Message-ID"] = f"<nextoffer-{message.id}-{int(message.at.timestamp())}@{domain}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(text.body + "\n")
        return mail

    @contextmanager
    def _server(self) -> Iterator[smtplib.SMTP]:
        context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        if self.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S)
        with server:
            if self.security == "starttls":
                server.starttls(context=context)
            if self.user:
                server.login(self.user, self.password)
            yield server


def _why(error: Exception) -> str:
    """What the server said, without what we said to it."""
    if isinstance(error, smtplib.SMTPResponseException):
        told = error.smtp_error
        text = told.decode("utf-8", "replace") if isinstance(told, bytes) else told
        return f"{error.smtp_code} {text}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "it refused the recipient; check alert_email_to"
    return str(error) or type(error).__name__

"""Signing in through an OpenID provider: code flow with PKCE, state and nonce; the role comes from a claim.

What belongs to one attempt lies in a cookie of the browser that began it, for ten minutes; the provider's answer has to carry the
cookie's state, and its token the cookie's nonce.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.responses import RedirectResponse, Response

from api.alerts.posting import is_private
from api.console.ask import Ask
from api.console.page import Page
from api.console.signing import is_secure, local, signed_in
from api.errors import ForbiddenError
from api.settings import Settings
from engine.accounts.accounts import Role
from policies.errors import InvalidInputError, MissingExtraError, NextofferError, UnknownNameError

COOKIE = "nextoffer_openid"
BACK = "/sign-in/openid/back"
_ATTEMPT_S = 600
_METADATA_S = 3600.0
_TIMEOUT_S = 10.0
_LEEWAY_S = 60
# Signatures with a public key only: with a shared secret, or none, a token proves nothing.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the provider has vouched for."""

    identity: str
    name: str
    role: Role


class OpenId:
    """One provider, as the settings name it.

    Raises
    ------
    InvalidInputError
        If the settings are half, or something secret would travel in clear.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.oidc_issuer is not None
        missing = [n for n in ("oidc_client_id", "console_url") if not getattr(settings, n)]
        if missing:
            raise InvalidInputError(f"oidc_issuer is given without {' and '.join(missing)}; signing in needs both")
        for name in ("oidc_issuer", "console_url"):
            if not is_private(getattr(settings, name)):
                raise InvalidInputError(
                    f"{name} is no https address; whoever listens on the way could sign in as others"
                )
        if not (settings.oidc_admins or settings.oidc_experimenters or settings.oidc_viewers):
            raise InvalidInputError("nobody could sign in: give oidc_admins, oidc_experimenters or oidc_viewers")
        self._settings = settings
        self.issuer = settings.oidc_issuer
        self._back = settings.console_url.rstrip("/") + BACK
        self._known: _Known | None = None

    def begin(self) -> tuple[str, dict[str, str]]:
        """Address to send the browser to, and what it has to come back with."""
        attempt = {
            "state": secrets.token_urlsafe(24),
            "nonce": secrets.token_urlsafe(24),
            "verifier": secrets.token_urlsafe(48),
        }
        url, _ = self._client().create_authorization_url(
            self._provider().text("authorization_endpoint"),
            state=attempt["state"],
            nonce=attempt["nonce"],
            code_verifier=attempt["verifier"],
        )
        return str(url), attempt

    def finish(self, code: str, attempt: Mapping[str, str]) -> Person:
        """Exchange a code for who it is.

        Raises
        ------
        ForbiddenError
            If the provider does not vouch for anybody who may come in.
        """
        from authlib.common.errors import AuthlibBaseError

        try:
            token = self._client().fetch_token(
                self._provider().text("token_endpoint"),
                code=code,
                code_verifier=attempt["verifier"],
                timeout=_TIMEOUT_S,
            )
        except AuthlibBaseError as error:
            raise ForbiddenError(f"the identity provider refused the sign-in ({error.error}); try again") from None
        except OSError as error:
            raise _unreachable(error) from None
        claims = self.verified(str(token.get("id_token", "")), nonce=attempt["nonce"])
        told = {**self._told(str(token.get("access_token", "")), claims), **claims}
        return self.person_of(told)

    def verified(self, id_token: str, *, nonce: str) -> dict[str, Any]:
        """Claims of a token that this provider has signed for us, now, and for this attempt.

        Raises
        ------
        ForbiddenError
            If it has not.
        """
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        def decoded(keys: dict[str, Any]) -> jwt.Token:
            return jwt.decode(id_token, KeySet.import_key_set(keys), algorithms=_ALGORITHMS)  # type: ignore[arg-type]  # a set of keys as JSON has it

        provider = self._provider()
        try:
            try:
                token = decoded(provider.keys)
            except (JoseError, ValueError):
                self._known = None  # the provider may have new keys
                token = decoded(self._provider().keys)
            rules = jwt.JWTClaimsRegistry(
                leeway=_LEEWAY_S,
                iss={"essential": True, "value": self.issuer},
                sub={"essential": True},
                aud={"essential": True, "value": self._settings.oidc_client_id},
                exp={"essential": True},
                iat={"essential": True},
                nonce={"essential": True, "value": nonce},
            )
            rules.validate(token.claims)
        except (JoseError, ValueError) as error:
            raise ForbiddenError(f"the identity provider's token is not valid here ({error}); try again") from None
        claims: dict[str, Any] = dict(token.claims)
        if claims.get("azp", self._settings.oidc_client_id) != self._settings.oidc_client_id:
            raise ForbiddenError("the identity provider's token was made for another application; try again")
        return claims

    def person_of(self, claims: Mapping[str, Any]) -> Person:
        """Account and role of verified claims.

        Raises
        ------
        ForbiddenError
            If a claim is missing, an address is not confirmed, or no role is given.
        """
        s = self._settings
        name = _claim(claims, s.oidc_name_claim)
        if not isinstance(name, str) or not name:
            raise ForbiddenError(
                f"the identity provider tells no {s.oidc_name_claim!r}; ask for its scope, or set oidc_name_claim"
            )
        if s.oidc_name_claim == "email" and str(claims.get("email_verified")).lower() == "false":
            raise ForbiddenError(
                f"the address {name!r} is not confirmed at the identity provider; confirm it there first"
            )
        found = _claim(claims, s.oidc_role_claim)
        values = (
            {found}
            if isinstance(found, str)
            else {v for v in found if isinstance(v, str)}
            if isinstance(found, list)
            else set()
        )
        rules: tuple[tuple[Role, tuple[str, ...]], ...] = (
            ("admin", s.oidc_admins), ("experimenter", s.oidc_experimenters), ("viewer", s.oidc_viewers),
        )  # fmt: skip
        for role, wanted in rules:
            if values & set(wanted) or "*" in wanted:
                return Person(f"{self.issuer} {claims['sub']}", name, role)
        raise ForbiddenError(f"{name!r} has no role here; ask for one of the groups that may use the console")

    def _told(self, access_token: str, claims: Mapping[str, Any]) -> dict[str, Any]:
        """What the provider tells beside the token, where the token lacks a claim that is needed."""
        s, provider = self._settings, self._provider()
        url = provider.document.get("userinfo_endpoint")
        if (
            not access_token
            or not isinstance(url, str)
            or all(_claim(claims, c) is not None for c in (s.oidc_name_claim, s.oidc_role_claim))
        ):
            return {}
        told = _get(url, {"Authorization": f"Bearer {access_token}"})
        if told.get("sub") != claims["sub"]:
            raise ForbiddenError("the identity provider tells of somebody else than its token does; try again")
        return told

    def _client(self) -> Any:
        try:
            from authlib.integrations.requests_client import OAuth2Session
        except ImportError as error:
            raise MissingExtraError(error.name or str(error), "oidc") from error
        s = self._settings
        secret = None if s.oidc_client_secret is None else s.oidc_client_secret.get_secret_value()
        return OAuth2Session(
            s.oidc_client_id, secret, scope=s.oidc_scope, redirect_uri=self._back, code_challenge_method="S256",
            token_endpoint_auth_method="client_secret_basic" if secret else "none",
        )  # fmt: skip

    def _provider(self) -> _Known:
        """Metadata and keys, asked for once an hour."""
        if self._known is None or time.monotonic() - self._known.at > _METADATA_S:
            document = _get(self.issuer.rstrip("/") + "/.well-known/openid-configuration")
            if document.get("issuer") != self.issuer:
                raise ForbiddenError(
                    f"the provider at {self.issuer} calls itself {document.get('issuer')!r}; set oidc_issuer to exactly that"
                )
            known = _Known(document, {}, time.monotonic())
            self._known = _Known(document, _get(known.text("jwks_uri")), known.at)
        return self._known


@dataclass(frozen=True, slots=True)
class _Known:
    """What a provider says of itself."""

    document: Mapping[str, Any]
    keys: dict[str, Any] = field(repr=False)
    at: float

    def text(self, name: str) -> str:
        """An address of the provider's."""
        value = self.document.get(name)
        if not isinstance(value, str) or not is_private(value):
            raise ForbiddenError(f"the identity provider gives no https address as {name}; ask its operator")
        return value


def openid_of(settings: Settings) -> OpenId | None:
    """The provider, where one is configured."""
    return None if settings.oidc_issuer is None else OpenId(settings)


def begin(ask: Ask) -> Response:
    """Send the browser to the provider."""
    url, attempt = _openid(ask).begin()
    answer = RedirectResponse(url, status_code=303)
    answer.set_cookie(
        COOKIE, json.dumps({**attempt, "next": ask.query("next")}).encode().hex(), max_age=_ATTEMPT_S, path="/sign-in",
        httponly=True, samesite="lax", secure=is_secure(ask),
    )  # fmt: skip
    return answer


def back(ask: Ask) -> Response:
    """Take whom the provider has vouched for in."""
    openid, attempt = _openid(ask), _attempt(ask.request.cookies.get(COOKIE, ""))
    if not attempt or not secrets.compare_digest(_digest(ask.query("state")), _digest(attempt["state"])):
        raise ForbiddenError(ask.words("This sign-in was not begun in this browser, or took too long; begin again"))
    if ask.query("error") or not ask.query("code"):
        raise ForbiddenError(ask.words("The identity provider did not sign you in; try again, or ask an admin"))
    person = openid.finish(ask.query("code"), attempt)
    cookie = ask.parts.accounts.sign_in_identity(
        person.identity, name=person.name, role=person.role, at=datetime.now(UTC)
    )
    answer = signed_in(ask, cookie, local(attempt.get("next", "/")))
    answer.delete_cookie(COOKIE, path="/sign-in")
    return answer


def _openid(ask: Ask) -> OpenId:
    if ask.parts.openid is None:
        raise UnknownNameError("page", ask.request.url.path, ["/sign-in"])
    return ask.parts.openid


def _attempt(cookie: str) -> dict[str, str]:
    try:
        found = json.loads(bytes.fromhex(cookie))
    except ValueError:
        return {}
    is_whole = isinstance(found, dict) and all(isinstance(found.get(k), str) for k in ("state", "nonce", "verifier"))
    return found if is_whole else {}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by name, or by a way into nested ones."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _get(url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    import requests

    try:
        answer = requests.get(url, headers=dict(headers or {}), timeout=_TIMEOUT_S, allow_redirects=False)
        answer.raise_for_status()
        found = answer.json()
    except (OSError, ValueError) as error:
        raise _unreachable(error) from None
    if answer.status_code != 200 or not isinstance(found, dict):
        raise _unreachable(ValueError(f"status {answer.status_code}"))
    return found


def _unreachable(error: Exception) -> NextofferError:
    return ForbiddenError(
        f"the identity provider does not answer as one ({error}); try again, or sign in with a password"
    )


PAGES = (
    Page("openid", "/sign-in/openid", begin, None),
    Page("openid_back", BACK, back, None),
)

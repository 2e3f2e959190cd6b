"""Signing in through an OpenID provider: a real one on this machine, and tokens that are not quite right."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.testclient import TestClient

from api.auth import KeyFile
from api.console.app import create_console
from api.console.oidc import COOKIE, OpenId, openid_of
from api.errors import ForbiddenError
from api.settings import Settings, load_settings
from engine.accounts.accounts import Accounts
from engine.decisions.service import DecisionService
from engine.experiments.audit import read_audit
from engine.store.changes import Change
from policies.errors import ConflictError, InvalidInputError, StateError
from tests.api.console.conftest import PASSWORD, START
from tests.engine.service_world import open_shop

# The provider of these tests and its server use what their own makers call old.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:authlib"),
    pytest.mark.filterwarnings("ignore:.*authlib.jose.*"),
]
ROLES = {"oidc_admins": ("owners",), "oidc_experimenters": ("growth", "data"), "oidc_viewers": ("staff",)}
PEOPLE = {
    "anna": {"email": "anna@example.com", "email_verified": True, "groups": ["staff", "growth"]},
    "boss": {"email": "boss@example.com", "email_verified": True, "groups": ["owners"]},
    "guest": {"email": "guest@example.com", "email_verified": True, "groups": ["others"]},
    "new": {"email": "new@example.com", "email_verified": False, "groups": ["owners"]},
    "odd": {"email": "odd@example.com", "email_verified": "false", "groups": ["owners"]},
    "thief": {"email": "local-admin", "email_verified": True, "groups": ["staff"]},
}


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """A provider that knows a few people."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import oidc_provider_mock

    people = [oidc_provider_mock.User(sub=sub, claims=claims) for sub, claims in PEOPLE.items()]
    with oidc_provider_mock.run_server_in_thread(user_claims=people) as server:
        yield f"http://localhost:{server.server_port}"


@dataclass
class Site:
    """A console that trusts the provider, and the browser of somebody."""

    service: DecisionService
    client: TestClient

    def go(self, who: str, *, following: str = "/") -> httpx.Response:
        """Sign in as somebody does: to the provider, say who one is, and back; the console's last answer."""
        to = self.client.get(f"/sign-in/openid?next={following}", follow_redirects=False)
        assert to.status_code == 303
        back = httpx.post(to.headers["location"], data={"sub": who}, follow_redirects=False)
        assert back.status_code in (302, 303), back.text
        address = urlsplit(back.headers["location"])
        answer: httpx.Response = self.client.get(f"{address.path}?{address.query}", follow_redirects=False)
        return answer


@pytest.fixture
def site(tmp_path: Path, issuer: str) -> Iterator[Site]:
    """A console over an empty store."""
    settings = _settings(tmp_path, issuer)
    openid = openid_of(settings)
    assert openid is not None
    with open_shop(tmp_path) as service:
        Accounts(service.database).create("local-admin", role="admin", password=PASSWORD, change=Change(START))
        app = create_console(service, KeyFile(tmp_path / "k.json"), is_sandbox=False, ticks=False, openid=openid)
        with TestClient(app, base_url="http://localhost:8080") as client:
            yield Site(service, client)


def _settings(folder: Path, issuer: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "home": folder, "oidc_issuer": issuer, "oidc_client_id": "console", "oidc_client_secret": "a secret of the tests",
        "console_url": "http://localhost:8080", **ROLES,
    }  # fmt: skip
    return load_settings(None, **{**values, **changes})


@pytest.mark.slow
def test_a_claim_decides_the_role_and_the_name_stays_with_the_identity(site: Site) -> None:
    """The first sign-in makes an account of the role that the claim gives; a later one follows the claim, and ends older sessions."""
    answer = site.go("anna", following="/experiments")
    assert (answer.status_code, answer.headers["location"]) == (303, "/experiments")
    assert "anna@example.com" in site.client.get("/").text
    accounts = Accounts(site.service.database)
    assert {a.name: a.role for a in accounts.list()} == {"anna@example.com": "experimenter", "local-admin": "admin"}
    assert accounts.sign_in("anna@example.com", "", at=START) is None
    older = dict(site.client.cookies)["nextoffer_session"]
    accounts.change("anna@example.com", change=Change(START), role="viewer")
    site.client.cookies.clear()
    assert site.go("anna").status_code == 303
    assert {a.role for a in accounts.list()} == {"experimenter", "admin"}
    assert accounts.session(older, at=START) is None
    rows = read_audit(site.service.database, what="account anna@example.com")
    assert [(r.actor, r.action) for r in rows] == [
        ("identity provider", "change"), ("", "change"), ("identity provider", "create"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "text"),
    [
        ("guest", "has no role here"),
        ("new", "is not confirmed"),
        ("odd", "is not confirmed"),
        ("thief", "is not yours"),
    ],
)
def test_who_may_not_come_in_is_told_why(site: Site, who: str, text: str) -> None:
    """Nobody without a group, with an unconfirmed address, or under the name of a local account gets in."""
    answer = site.go(who)
    assert answer.status_code in (403, 409)
    assert text in answer.text
    assert "nextoffer_session" not in site.client.cookies
    assert len(Accounts(site.service.database).list()) == 1


@pytest.mark.slow
def test_a_closed_account_stays_closed(site: Site) -> None:
    """The provider vouches for who somebody is; an admin here may still close the account."""
    site.go("boss")
    Accounts(site.service.database).change("boss@example.com", change=Change(START), is_active=False)
    assert "is closed" in site.go("boss").text


@pytest.mark.slow
def test_the_provider_is_asked_with_state_nonce_and_a_challenge(site: Site, issuer: str) -> None:
    """What goes to the provider: the code flow, our address to come back to, and a challenge whose answer only this browser has."""
    answer = site.client.get("/sign-in/openid?next=//evil.example", follow_redirects=False)
    url = urlsplit(answer.headers["location"])
    asked = {k: v[0] for k, v in parse_qs(url.query).items()}
    attempt = json.loads(bytes.fromhex(site.client.cookies[COOKIE]))
    assert f"{url.scheme}://{url.netloc}" == issuer
    assert (asked["response_type"], asked["client_id"]) == ("code", "console")
    assert asked["redirect_uri"] == "http://localhost:8080/sign-in/openid/back"
    assert (asked["state"], asked["nonce"]) == (attempt["state"], attempt["nonce"])
    challenge = base64.urlsafe_b64encode(hashlib.sha256(attempt["verifier"].encode()).digest()).rstrip(b"=").decode()
    assert (asked["code_challenge"], asked["code_challenge_method"]) == (challenge, "S256")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert site.go("boss", following="//evil.example").headers["location"] == "/"


@pytest.mark.slow
def test_an_answer_that_was_not_asked_for_here_is_refused(site: Site) -> None:
    """Another browser's state, none at all, a code used twice, or an error of the provider's signs nobody in."""
    to = site.client.get("/sign-in/openid", follow_redirects=False)
    back = httpx.post(to.headers["location"], data={"sub": "anna"}, follow_redirects=False)
    query = urlsplit(back.headers["location"]).query
    path = "/sign-in/openid/back"
    assert site.client.get(f"{path}?{re.sub('state=[^&]+', 'state=x', query)}").status_code == 403
    attempt = site.client.cookies[COOKIE]
    site.client.cookies.clear()
    assert "was not begun in this browser" in site.client.get(f"{path}?{query}").text
    site.client.cookies.set(COOKIE, attempt, path="/sign-in")
    state = re.findall("state=([^&]+)", query)[0]
    assert "did not sign you in" in site.client.get(f"{path}?state={state}&error=access_denied").text
    assert site.client.get(f"{path}?{query}", follow_redirects=False).status_code == 303
    site.client.cookies.set(COOKIE, attempt, path="/sign-in")
    again = site.client.get(f"{path}?{query}", follow_redirects=False)
    assert again.status_code == 403
    assert "refused the sign-in" in again.text


@dataclass
class Forger:
    """A provider of two addresses, whose tokens say whatever a test wants."""

    issuer: str
    key: Any

    def token(self, *, alg: str = "RS256", key: Any = None, **changes: Any) -> str:
        """A token for the console and the nonce ``n``, with changes; None drops a claim."""
        from joserfc import jwt

        now = int(time.time())
        claims = {"iss": self.issuer, "sub": "anna", "aud": "console", "exp": now + 60, "iat": now, "nonce": "n"}
        claims = {k: v for k, v in {**claims, **changes}.items() if v is not None}
        made = key or self.key
        return jwt.encode({"alg": alg, "kid": made.kid}, claims, made, algorithms=[alg])


@pytest.fixture(scope="module")
def forger() -> Iterator[Forger]:
    """Serves metadata and the key; signs with the same key."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from joserfc.jwk import RSAKey

    key = RSAKey.generate_key(2048, {"kid": "one"}, private=True)

    class Provider(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            own = f"http://{self.headers['Host']}"
            document: dict[str, Any] = {
                "issuer": own,
                "jwks_uri": f"{own}/keys",
                "token_endpoint": "http://evil.example/t",
            }
            body = {"keys": [key.as_dict(private=False)]} if self.path == "/keys" else document
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield Forger(f"http://127.0.0.1:{server.server_port}", key)
        server.shutdown()
        thread.join()


def _is_refused(openid: OpenId, token: str) -> bool:
    try:
        openid.verified(token, nonce="n")
    except ForbiddenError:
        return True
    return False


def test_only_a_token_made_for_this_sign_in_is_believed(tmp_path: Path, forger: Forger) -> None:
    """Issuer, audience, party, nonce and time have to be ours; the signature has to be the provider's, by a public key."""
    from joserfc.jwk import OctKey, RSAKey

    openid = OpenId(_settings(tmp_path, forger.issuer))
    assert openid.verified(forger.token(), nonce="n")["sub"] == "anna"
    assert openid.verified(forger.token(aud=["other", "console"], azp="console"), nonce="n")["sub"] == "anna"
    now = int(time.time())
    shared = OctKey.import_key("a secret of the tests, long enough for this", {"kid": "one"})
    bad = {
        "another issuer": forger.token(iss="https://evil.example"),
        "another audience": forger.token(aud="other"),
        "another party": forger.token(aud=["other", "console"], azp="other"),
        "another attempt": forger.token(nonce="m"),
        "no nonce": forger.token(nonce=None),
        "nobody": forger.token(sub=None),
        "over": forger.token(exp=now - 120, iat=now - 180),
        "no end": forger.token(exp=None),
        "another's key": forger.token(key=RSAKey.generate_key(2048, {"kid": "one"}, private=True)),
        "a shared secret": forger.token(alg="HS256", key=shared),
        "no signature": ".".join([base64.urlsafe_b64encode(b'{"alg":"none"}').decode(), *forger.token().split(".")[1:2], ""]),
        "no token": "nonsense",
    }  # fmt: skip
    for what, token in bad.items():
        assert _is_refused(openid, token), what


def test_addresses_in_clear_are_not_used(tmp_path: Path, forger: Forger) -> None:
    """A provider that wants its code at an address without TLS does not get it."""
    with pytest.raises(ForbiddenError, match="no https address as token_endpoint"):
        OpenId(_settings(tmp_path, forger.issuer)).finish("code", {"verifier": "v", "nonce": "n"})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"oidc_client_id": ""}, "without oidc_client_id"),
        ({"oidc_issuer": "http://login.example.com"}, "no https address"),
        ({"oidc_admins": (), "oidc_experimenters": (), "oidc_viewers": ()}, "nobody could sign in"),
    ],
)
def test_half_a_provider_is_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    """What could not work, or would be unsafe, is refused at the start."""
    with pytest.raises(InvalidInputError, match=text):
        openid_of(_settings(tmp_path, "https://login.example.com", **changes))


def test_roles_may_lie_deep_and_everybody_may_look(tmp_path: Path) -> None:
    """Claims are found by a way into nested ones, and a star lets everybody in that the provider knows."""
    settings = _settings(
        tmp_path, "https://login.example.com", oidc_role_claim="realm_access.roles", oidc_name_claim="preferred_username", oidc_viewers=("*",)
    )  # fmt: skip
    openid = OpenId(settings)
    claims = {"sub": "1", "preferred_username": "ann", "realm_access": {"roles": ["data"]}}
    assert openid.person_of(claims).role == "experimenter"
    assert openid.person_of({"sub": "2", "preferred_username": "bob"}).role == "viewer"
    with pytest.raises(ForbiddenError, match="tells no 'preferred_username'"):
        openid.person_of({"sub": "3"})


def test_accounts_of_identities_keep_to_themselves(tmp_path: Path) -> None:
    """The same identity is the same account under any name; a taken name and a closed account are refused."""
    with open_shop(tmp_path) as service:
        accounts = Accounts(service.database)
        accounts.create("ann", role="admin", password=PASSWORD, change=Change(START))
        with pytest.raises(ConflictError, match="is not yours"):
            accounts.sign_in_identity("iss 1", name="ann", role="viewer", at=START)
        accounts.sign_in_identity("iss 1", name="ann2", role="viewer", at=START)
        cookie = accounts.sign_in_identity("iss 1", name="renamed", role="viewer", at=START)
        session = accounts.session(cookie, at=START)
        assert session is not None
        assert session.account.name == "ann2"
        accounts.change("ann2", change=Change(START), is_active=False)
        with pytest.raises(StateError, match="is closed"):
            accounts.sign_in_identity("iss 1", name="ann2", role="viewer", at=START)

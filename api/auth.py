"""API keys: random, stored as hashes, with scopes and placements, replaced without a restart.

A key is 256 random bits, so one round of SHA-256 is enough to keep it: there is nothing to guess. The file of hashes
is read again when it changes, so that keys are made and revoked while the service runs.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from api.errors import ForbiddenError, RateLimitError, UnauthorizedError
from policies.errors import ConflictError, InvalidInputError, UnknownNameError

Scope = Literal["decide", "reward", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
KEY_PREFIX = "nxo_"
BURST_S = 2.0
_RELOAD_S = 1.0
# What a key printed in a page's source may do: report what came of a decision, and nothing else.
PUBLIC_SCOPES: tuple[Scope, ...] = ("reward",)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who may do what.

    Parameters
    ----------
    digest
        SHA-256 of the key in hexadecimal digits; the key itself is shown once and kept nowhere.
    placements
        Where it may act; empty is everywhere.
    is_public
        Made to be read in a page's source: only ``reward``, only from allowed web origins.
    expires_at
        From then on it is refused; None is never.
    """

    name: str
    digest: str
    scopes: tuple[Scope, ...]
    placements: tuple[str, ...] = ()
    is_public: bool = False
    created_at: str = ""
    expires_at: str | None = None

    def __post_init__(self) -> None:
        for scope in self.scopes:
            if scope not in SCOPES:
                raise UnknownNameError(f"scope of key {self.name!r}:", scope, SCOPES)
        if not self.scopes:
            raise InvalidInputError(f"key {self.name!r} has no scope; give at least one of {', '.join(SCOPES)}")
        if self.is_public and set(self.scopes) - set(PUBLIC_SCOPES):
            raise InvalidInputError(
                f"public key {self.name!r} has scopes {', '.join(self.scopes)}; a key that a page shows may only have reward"
            )

    def allow(self, scope: Scope, *, placement: str | None = None) -> None:
        """Refuse what the key may not do.

        Raises
        ------
        ForbiddenError
            Naming the scope or the placement that is missing.
        """
        if scope not in self.scopes and "admin" not in self.scopes:
            raise ForbiddenError(
                f"key {self.name!r} has scope {', '.join(self.scopes)}; this needs {scope}: use another key, or make one with it"
            )
        if placement is not None and self.placements and placement not in self.placements:
            raise ForbiddenError(
                f"key {self.name!r} is bound to placements {', '.join(self.placements)}; not {placement!r}"
            )


def new_key(
    name: str,
    *,
    scopes: Iterable[Scope],
    at: datetime,
    placements: Iterable[str] = (),
    is_public: bool = False,
    expires_at: datetime | None = None,
) -> tuple[str, ApiKey]:
    """Make a key: the text to hand out, once, and what is kept of it."""
    if not name or len(name) > 64 or not all(c.isalnum() or c in "-_." for c in name):
        raise InvalidInputError(f"name of a key is {name[:80]!r}; expected 1 to 64 letters, digits, '-', '_' or '.'")
    text = KEY_PREFIX + ("pub_" if is_public else "") + secrets.token_urlsafe(32)
    kept = ApiKey(
        name=name,
        digest=digest_of(text),
        scopes=tuple(scopes),
        placements=tuple(placements),
        is_public=is_public,
        created_at=at.isoformat(),
        expires_at=None if expires_at is None else expires_at.isoformat(),
    )
    return text, kept


def digest_of(key: str) -> str:
    """Hash under which a key is kept."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class KeyFile:
    """The file of key hashes: written whole, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[ApiKey]:
        """All keys; none where there is no file yet."""
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))["keys"]
            return [_key_from_json(row) for row in rows]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(
                f"cannot read the keys in {self.path}: {error}; restore the file, or make new keys with 'nextoffer keys create'"
            ) from error

    def add(self, key: ApiKey) -> None:
        """Keep one more; two keys may share a name while the older one is rotated out."""
        self._write([*self.read(), key])

    def revoke(self, name: str, *, digest_start: str = "") -> int:
        """Remove the keys of a name, or only the one whose hash starts so; return how many.

        Raises
        ------
        UnknownNameError
            If there is none.
        """
        keys = self.read()
        kept = [k for k in keys if k.name != name or not k.digest.startswith(digest_start)]
        if len(kept) == len(keys):
            raise UnknownNameError("key", name, {k.name for k in keys})
        self._write(kept)
        return len(keys) - len(kept)

    def replace_named(self, key: ApiKey) -> None:
        """Keep a key in place of all others of its name."""
        self._write([*(k for k in self.read() if k.name != key.name), key])

    def _write(self, keys: list[ApiKey]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{self.path.name}-", dir=self.path.parent)  # mode 0600
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"keys": [asdict(k) for k in keys]}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(self.path)


def _key_from_json(row: Mapping[str, Any]) -> ApiKey:
    known = dict(row)
    known["scopes"], known["placements"] = tuple(known["scopes"]), tuple(known.get("placements", ()))
    return ApiKey(**known)


@dataclass(slots=True)
class _Bucket:
    """Requests a key may still send at once; refilled with time."""

    tokens: float
    at: float


@dataclass(slots=True)
class KeyRing:
    """Keys as the service holds them: found by hash, read again when the file changes, rate limited.

    Parameters
    ----------
    now
        Wall clock for expiry; never the sandbox's injected time.
    monotonic
        For rate limits and for how often the file is looked at.
    """

    file: KeyFile
    rate_limit_per_s: float | None
    now: Callable[[], datetime]
    monotonic: Callable[[], float] = time.monotonic
    _keys: dict[str, ApiKey] = field(default_factory=dict)
    _stamp: tuple[int, int, int] | None = None
    _looked_at: float = -math.inf
    _buckets: dict[str, _Bucket] = field(default_factory=dict)
    _by_text: dict[str, ApiKey] = field(default_factory=dict)

    def find(self, text: str) -> ApiKey:
        """Key by its text, within its rate limit.

        Raises
        ------
        UnauthorizedError
            If it is not known, revoked or expired.
        RateLimitError
            If it has sent more than its share.
        """
        if self.monotonic() - self._looked_at >= _RELOAD_S:
            self.reload()
        key = self._by_text.get(text)
        if key is None:
            key = self._keys.get(digest_of(text))
            if key is not None:  # at most as many as there are keys; forgotten when the file changes
                self._by_text[text] = key
        if key is None:
            raise UnauthorizedError(
                "this API key is not known; check that it is complete, or make one: nextoffer keys create"
            )
        if key.expires_at is not None and datetime.fromisoformat(key.expires_at) <= self.now():
            raise UnauthorizedError(
                f"API key {key.name!r} expired at {key.expires_at}; make a new one: nextoffer keys create"
            )
        if self.rate_limit_per_s is not None:
            self._take(key.digest, self.rate_limit_per_s)
        return key

    def _take(self, digest: str, per_s: float) -> None:
        at, size = self.monotonic(), max(1.0, per_s * BURST_S)
        bucket = self._buckets.setdefault(digest, _Bucket(size, at))
        bucket.tokens = min(size, bucket.tokens + (at - bucket.at) * per_s)
        bucket.at = at
        if bucket.tokens < 1.0:
            raise RateLimitError(retry_after_s=max(1, math.ceil((1.0 - bucket.tokens) / per_s)), limit_per_s=per_s)
        bucket.tokens -= 1.0

    def reload(self) -> None:
        """Look at the file now."""
        self._looked_at = self.monotonic()
        try:
            stat = self.file.path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        except OSError:
            stamp = (0, 0, 0)
        if stamp != self._stamp:
            self._keys = {k.digest: k for k in self.file.read()}
            self._by_text = {}
            self._stamp = stamp


def check_free_name(file: KeyFile, name: str) -> None:
    """Refuse a second key of a name unless the caller says that it rotates."""
    if any(k.name == name for k in file.read()):
        raise ConflictError(f"key {name!r} exists already; choose another name, or rotate it with --rotate")

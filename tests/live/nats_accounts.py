"""An operator with accounts and users for a NATS server of tests, and their credentials files."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import nkeys
import orjson

__all__ = ["credentials_file", "operator_config", "user_seed"]

_LIMITS = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
_STORE = ("mem_storage", "disk_storage", "streams", "consumer")
_IMPORTANT = "*" * 25 + " IMPORTANT " + "*" * 25


def _key(number: int, prefix: int) -> Any:
    return nkeys.from_seed(bytearray(nkeys.encode_seed(bytes([number]) * 32, prefix)))


_OPERATOR = _key(1, nkeys.PREFIX_BYTE_OPERATOR)
_SYSTEM = _key(2, nkeys.PREFIX_BYTE_ACCOUNT)


def user_seed(number: int) -> str:
    """Return the seed of a user."""
    return nkeys.encode_seed(bytes([number]) * 32, nkeys.PREFIX_BYTE_USER).decode()


def _jwt(issuer: Any, subject: Any, claims: dict[str, Any], expires: int = 0) -> str:
    def encoded(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    about = {
        "jti": "a",
        "iat": 1_700_000_000,
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": "a",
        "nats": claims | {"version": 2},
    }
    if expires:
        about["exp"] = expires
    parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, about)
    text = b".".join(encoded(orjson.dumps(part)) for part in parts)
    return b".".join((text, encoded(issuer.sign(text)))).decode()


def operator_config(directory: Path, *accounts: int) -> Path:
    """Write the configuration of a server that knows accounts with these numbers."""
    keys = {_SYSTEM: _LIMITS} | {_key(n, nkeys.PREFIX_BYTE_ACCOUNT): _LIMITS + _STORE for n in accounts}
    known = [
        f"{key.public_key.decode()}: "
        + _jwt(_OPERATOR, key, {"type": "account", "limits": dict.fromkeys(limits, -1) | {"wildcards": True}})
        for key, limits in keys.items()
    ]
    lines = [
        f"operator: {_jwt(_OPERATOR, _OPERATOR, {'type': 'operator'})}",
        f"system_account: {_SYSTEM.public_key.decode()}",
        "resolver: MEMORY",
        "resolver_preload: {",
        *known,
        "}",
    ]
    path = directory / "operator.conf"
    path.write_text("\n".join(lines))
    return path


def credentials_file(path: Path, account: int, user: int, expires: int = 0) -> Path:
    """Write a credentials file of a user of an account, as `nsc generate creds` does."""
    account_key, user_key = _key(account, nkeys.PREFIX_BYTE_ACCOUNT), _key(user, nkeys.PREFIX_BYTE_USER)
    claims = {"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{_jwt(account_key, user_key, claims, expires)}\n"
        f"------END NATS USER JWT------\n\n{_IMPORTANT}\n"
        "NKEY Seed printed below can be used to sign and prove identity.\n"
        f"NKEYs are sensitive and should be treated as secrets.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user_seed(user)}\n------END USER NKEY SEED------\n"
    )
    return path

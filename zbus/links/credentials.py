"""Who a link is: what nats-py is told of names, keys and certificates, each file checked before it is used.

nats-py would read a credentials file without a JWT forever, and fails in its own way at a malformed seed.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Any

from nats.aio.client import RawCredentials

from ..errors import Invalid

__all__ = ["Credentials"]

_MOST_BYTES = 65_536  # no such file is larger
_JWT = re.compile(rb"-BEGIN NATS USER JWT-+\s+([\w-]+\.[\w-]+\.[\w-]+)\s")
_SEED = re.compile(rb"-BEGIN USER NKEY SEED-+\s+(\S+)\s")


@dataclass(frozen=True)
class Credentials:
    """Who a link is, and how it checks who the server is.

    Attributes:
        user, password: a name and a password.
        token: a token instead.
        nkey: a file with the seed of an NKey.
        creds: a file with a JWT and its seed.
        ca: a file with the certificates to check the server by; those of the system if empty.
        cert, key: files with a certificate of this link, and its key.
    """

    user: str = ""
    password: str = ""
    token: str = ""
    nkey: str = ""
    creds: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""

    def options(self) -> dict[str, Any]:
        """Read the files, and return what nats-py is told.

        Raises:
            Invalid: a file cannot be read, or does not have what it should.
        """
        options: dict[str, Any] = {
            name: value for name in ("user", "password", "token") if (value := getattr(self, name))
        }
        if self.nkey:
            options["nkeys_seed_str"] = _nkey(self.nkey)
        if self.creds:
            options["user_credentials"] = _user(self.creds)
        if self.ca or self.cert:
            options["tls"] = self._tls()
        return options

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.cert:
                context.load_cert_chain(self.cert, self.key or None, password="")  # else OpenSSL asks for one
        except OSError as error:  # which includes ssl.SSLError
            text = f"cannot use the TLS files, of which the key must have no passphrase: {error}"
            raise Invalid(text) from error
        return context


def _nkey(path: str) -> str:
    seed = _read(path).strip()
    if _JWT.search(seed):
        raise Invalid(f"{path} is a credentials file, and no seed: give it as --creds", path=path)
    if not _is_user_seed(seed):
        raise Invalid(
            f"{path} has no seed of a user, which begins with SU: `nk -gen user` makes one",
            path=path,
        )
    return seed.decode()


def _user(path: str) -> RawCredentials:
    text = _read(path)
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None or not _is_user_seed(seed[1]):
        seed_alone = _is_user_seed(text.strip())
        hint = "give it as --nkey" if seed_alone else "`nsc generate creds` writes one"
        raise Invalid(
            f"{path} is no credentials file, with the JWT of a user and its seed: {hint}",
            path=path,
        )
    # Only these lines, because nats-py would take the carriage return of a line for a part of the JWT.
    return RawCredentials(
        f"-----BEGIN NATS USER JWT-----\n{jwt[1].decode()}\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed[1].decode()}\n"
    )


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}", path=path) from error


def _is_user_seed(seed: bytes) -> bool:
    """Return whether this is the seed of a user, without a typing error."""
    try:
        import nkeys
    except ImportError as error:
        raise Invalid("NKeys and credentials files need the package nkeys: pip install nkeys") from error
    try:
        kind, raw = nkeys.decode_seed(seed)
        return bool(kind == nkeys.PREFIX_BYTE_USER and nkeys.encode_seed(raw, kind) == seed)
    except (nkeys.NkeysError, ValueError, IndexError):
        return False

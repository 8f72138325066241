"""Signed checkpoints: who holds the private key has seen the chain up to here, with this hash.

A checkpoint that is kept outside the server proves later that nothing before it was changed or cut off. The public key
alone verifies it. Signatures are Ed25519, over the words `trimtab account` and the statement as JSON, keys sorted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.extra import lacking
from serve.store.account import AccountError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def _bytes(statement: Mapping[str, Any]) -> bytes:
    """What is signed: the statement without its signature, in one form."""
    told = {name: value for name, value in statement.items() if name != "signature"}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return b"trimtab account\n" + text.encode()


class Signer:
    """Signs statements with the account's private key. `public` is its public key, 64 hexadecimal digits."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw().hex()

    @classmethod
    def open(cls, path: Path, *, make: bool = False) -> Signer:
        """The signer whose key is in a PEM file; `make` one, readable by its owner only, where there is none.

        Raises:
            AccountError: `cryptography` is not installed, the file is missing, or holds no Ed25519 key.
            OSError: it cannot be read or written.
        """
        try:
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        except ImportError:
            raise AccountError(f"the account {lacking('cryptography', 'account')}") from None
        if not path.exists():
            if not make:
                raise AccountError(f"the account's private key {path} is missing")
            _make(path, Ed25519PrivateKey.generate())
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise AccountError(f"{path} holds no private key in PEM: {error}") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise AccountError(f"{path} holds a private key that is not Ed25519")
        return cls(key)

    def sign(self, statement: Mapping[str, Any]) -> dict[str, Any]:
        """The statement with its signature, 128 hexadecimal digits."""
        return {**statement, "signature": self._key.sign(_bytes(statement)).hex()}


def _make(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a new private key; one that another process has written meanwhile stays."""
    from cryptography.hazmat.primitives import serialization

    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        file = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, pem)
            os.fsync(file)
        finally:
            os.close(file)
        os.link(scratch, path)
    except FileExistsError:
        pass
    finally:
        scratch.unlink(missing_ok=True)


def signed_by(statement: Mapping[str, Any], public: str) -> bool:
    """Whether the holder of the private key has signed this statement. `public` is the public key in hexadecimal.

    Raises:
        AccountError: `cryptography` is not installed, or `public` is no key.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise AccountError(f"checking signatures {lacking('cryptography', 'account')}") from None
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    except ValueError:
        raise AccountError(f"{public!r} is no public key: 64 hexadecimal digits") from None
    try:
        key.verify(bytes.fromhex(str(statement.get("signature", ""))), _bytes(statement))
    except (InvalidSignature, ValueError):
        return False
    return True

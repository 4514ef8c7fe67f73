"""How a client shows who it is, and knows whom it talks to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pyconv.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """TLS and an API token, for whoever asks a server.

    >>> Credentials(ca=Path("ca.pem"), token="secret")
    Credentials(tls=True, ca=PosixPath('ca.pem'), certificate=None, key=None)

    Attributes:
        tls: whether to talk TLS; so it is anyway where a file is given.
        ca: a PEM file of the certificates to trust; those of the system if None.
        certificate: a PEM file with the client's own certificate, for mutual TLS.
        key: a PEM file with the private key that belongs to it.
        token: an API token, sent as `authorization: Bearer TOKEN`; none if empty. It is never
            printed.

    Raises:
        InputError: a certificate without a key or a key without a certificate; a token that cannot
            stand in a header.
    """

    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InputError("TLS: a client's certificate and its key go together; give both")
        if self.ca is not None or self.certificate is not None:
            object.__setattr__(self, "tls", True)
        if not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise InputError("token: expected printable ASCII characters without spaces")

    @property
    def metadata(self) -> dict[str, str]:
        """The headers that every request carries."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}


def read_token(path: Path) -> str:
    """The API token in a file: its first line, without white space around it.

    Raises:
        InputError: the file cannot be read, or its first line is empty.
    """
    token = read(path).partition(b"\n")[0].strip().decode("ascii", "replace")
    if not token:
        raise InputError(f"{path}: expected an API token on the first line, found nothing")
    return token


def read(path: Path) -> bytes:
    """What is in a file of certificates, of a key or of a token.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error

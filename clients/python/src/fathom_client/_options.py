"""Where the masters are, who asks, and how long it tries: what all clients are told."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union
from urllib.parse import urlsplit

# The variable that has the addresses, and what holds without it.
HTTP = ("FATHOM_URL", "http://127.0.0.1:8000")
GRPC = ("FATHOM_GRPC", "http://127.0.0.1:8001")
# The server's bounds of X-Fathom-Resume.
_HOLD_MIN, _HOLD_MAX = 1, 600
_PRINTABLE = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True)
class Policy:
    """How long a request tries; all in seconds."""

    deadline: float = 600.0
    """Of a request from its beginning to its last token, over all connections."""
    patience: float = 60.0
    """A request is given up when no master has answered for so long."""
    hold: float | None = 15.0
    """For how long the server goes on with a stream whose connection broke; None: not at all. See the README."""
    silence: float = 45.0
    """A stream that says nothing for so long is taken for broken; Fathom says something every 15 s."""
    connect: float = 5.0
    """To connect to one master."""
    backoff: float = 0.1
    """The first pause is at most so long, each further one twice the one before,"""
    backoff_max: float = 5.0
    """until this; how much of it is drawn anew every time (full jitter)."""
    release: float = 2.0
    """To tell the server that a stream which is closed early needs not be held."""
    answer_bytes: int = 256 << 20
    """A whole answer has at most so many bytes."""

    def __post_init__(self) -> None:
        for name in ("deadline", "patience", "silence", "connect", "backoff", "backoff_max", "release"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        if self.hold is not None and not _HOLD_MIN <= self.hold <= _HOLD_MAX:
            raise ValueError(f"hold must be {_HOLD_MIN} to {_HOLD_MAX} seconds, or None")


class Secret:
    """A key that does not get into logs by accident."""

    def __init__(self, value: str) -> None:
        if any(c <= " " or c > "~" for c in value):
            raise ValueError("the API key has characters that no key has")
        self._value = value

    def bearer(self) -> str | None:
        return f"Bearer {self._value}" if self._value else None

    def __repr__(self) -> str:
        return "Secret(***)"


Addresses = Union[str, Sequence[str], None]


def key_or_environment(api_key: str | None) -> Secret:
    return Secret(os.environ.get("FATHOM_API_KEY", "") if api_key is None else api_key)


def base_urls(masters: Addresses, otherwise: tuple[str, str] = HTTP) -> tuple[str, ...]:
    """Of "http://host:port", "https://..." or "host:port"; "/v1" at the end, as for OpenAI's clients, is dropped."""
    variable, default = otherwise
    if masters is None:
        masters = os.environ.get(variable, "") or default
    found = masters.split(",") if isinstance(masters, str) else list(masters)
    found = [address.strip() for address in found if address.strip()]
    if not found:
        raise ValueError("no master's address is given")
    return tuple(_base_url(address) for address in found)


def _base_url(text: str) -> str:
    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("a master's address is http://host:port, https://host:port or host:port")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("a master's address has no user, query or fragment")
    _ = url.port  # raises ValueError when it is none
    path = url.path.rstrip("/")
    if path.endswith("/v1"):
        path = path[: -len("/v1")]
    return f"{url.scheme}://{url.netloc}{path}"


def check_idempotency_key(key: str) -> str:
    if not _PRINTABLE.fullmatch(key):
        raise ValueError("an idempotency key has 1 to 255 printable ASCII characters without spaces")
    return key


def hold_seconds(hold: float, left: float) -> int:
    """Never longer than the caller would wait."""
    return max(_HOLD_MIN, min(int(hold), int(left) + 1))

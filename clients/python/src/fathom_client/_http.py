"""What the synchronous and the asynchronous client share of httpx: timeouts, limits, keep-alive of sockets."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from ._attempts import Attempts, Masters
from ._clock import Clock, SystemClock
from ._errors import ProtocolError
from ._journey import Journey
from ._openai import CHAT, COMPLETIONS, Json, encode, generation_body
from ._options import Addresses, Policy, base_urls, key_or_environment

# A peer that vanished without a word is noticed after 15 + 3 x 5 s, also while nothing is due from it.
_KEEP_ALIVE: Sequence[tuple[str, int]] = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=60)


def socket_options() -> list[tuple[int, int, int]]:
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


def trust(urls: Sequence[str], verify: bool | ssl.SSLContext) -> bool | ssl.SSLContext:
    """Reading the authorities takes a tenth of a second; where nobody speaks TLS, trust none instead."""
    if any(url.startswith("https:") for url in urls):
        return verify
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def timeouts(policy: Policy, left: float, stream: bool) -> httpx.Timeout:
    """A stream is never silent for long; a whole answer comes when it comes."""
    left = max(left, 0.001)
    read = min(policy.silence, left) if stream else left
    return httpx.Timeout(connect=min(policy.connect, left), read=read, write=min(policy.silence, left), pool=left)


class Bounded:
    """A body that is read whole, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._body = bytearray()

    def add(self, piece: bytes) -> None:
        self._body += piece
        if len(self._body) > self._limit:
            raise ProtocolError(f"the server's answer has more than {self._limit} bytes")

    def value(self) -> bytes:
        return bytes(self._body)


class BaseClient:
    """What a client is told, and the journeys that it makes of calls. Holds no connection."""

    def __init__(
        self,
        masters: Addresses,
        api_key: str | None,
        policy: Policy | None,
        clock: Clock | None,
        rng: random.Random | None,
    ) -> None:
        self._masters = Masters(base_urls(masters))
        self._key = key_or_environment(api_key)
        self._policy = policy or Policy()
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or random.Random()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._masters.names)})"

    def _generation(
        self, path: str, fields: Mapping[str, Any], stream: bool, deadline: float | None, key: str | None
    ) -> Journey:
        body = generation_body(fields, stream)
        return Journey(
            self._attempts(deadline),
            self._policy,
            self._clock,
            self._key,
            path,
            body=body,
            encoded=encode(body),
            stream=stream,
            idempotency_key=key,
        )

    def _simple(self, path: str, body: Json | None, deadline: float | None) -> Journey:
        encoded = None if body is None else encode(body)
        attempts = self._attempts(deadline)
        return Journey(attempts, self._policy, self._clock, self._key, path, encoded=encoded, generates=False)

    def _attempts(self, deadline: float | None) -> Attempts:
        return Attempts(self._masters, self._policy, self._clock, self._rng, deadline)


def chat_call(messages: Sequence[Mapping[str, Any]], model: str, fields: Mapping[str, Any]) -> tuple[str, Json]:
    return CHAT, {"model": model, "messages": [dict(m) for m in messages], **fields}


def completion_call(
    prompt: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]], model: str, fields: Mapping[str, Any]
) -> tuple[str, Json]:
    return COMPLETIONS, {"model": model, "prompt": prompt, **fields}


def tokenize_call(
    model: str, prompt: str | None, messages: Sequence[Mapping[str, Any]] | None, fields: Mapping[str, Any]
) -> tuple[str, Json]:
    if (prompt is None) == (messages is None):
        raise ValueError("tokenize takes a prompt or messages")
    body: Json = {"model": model}
    if prompt is not None:
        body["prompt"] = prompt
    if messages is not None:
        body["messages"] = [dict(m) for m in messages]
    return "/tokenize", {**body, **fields}

"""One HTTP request over as many connections as it takes: its headers, what comes, where to go on. Does no I/O."""

from __future__ import annotations

import email.utils
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from ._attempts import Attempts, Turn
from ._clock import Clock
from ._errors import APIError, ConnectionFailed, ProtocolError, api_error_of, api_error_of_body
from ._openai import Json, decode_object, num_choices, parse_chunk, wants_usage
from ._options import Policy, Secret, check_idempotency_key, hold_seconds
from ._sse import SseEvent
from ._types import Delta

ERROR_BYTES_MAX = 1 << 20


class Cut(Exception):
    """The connection ended before the answer did, or the server gave the answer up and another may go on."""


@dataclass(frozen=True)
class Try:
    """A connection to be made."""

    url: str
    headers: dict[str, str]
    wait: float
    """Before it."""
    left: float
    """After the wait, until the deadline."""


class Journey:
    """`next` before each connection; then `answered` or `refused`, `take` each event, `broke` when it ends early."""

    def __init__(
        self,
        attempts: Attempts,
        policy: Policy,
        clock: Clock,
        key: Secret,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        encoded: bytes | None = None,
        stream: bool = False,
        idempotency_key: str | None = None,
        generates: bool = True,
    ) -> None:
        self._attempts = attempts
        self._policy = policy
        self._clock = clock
        self._key = key
        self._path = path
        self.encoded = encoded
        self._stream = stream
        self._generates = generates
        # Of a key that is the caller's something may run already.
        self._fresh = idempotency_key is None
        self.idempotency_key = uuid.uuid4().hex if idempotency_key is None else check_idempotency_key(idempotency_key)
        self._missing = num_choices(body) if body and stream else 0
        self._usage_missing = bool(body) and stream and wants_usage(body or {})
        self._counts = self._missing > 0
        self._base = ""
        self._last_id: str | None = None
        self._unnamed = False  # an event came that has no id
        self.head: tuple[str, int, str] = ("", 0, "")
        self.request_id: str | None = None
        self.resumed = 0
        self.done = False
        self.in_flight = False
        """The server may be working for us, on this connection."""

    def next(self) -> Try:
        turn = self._attempts.next()
        self._base = turn.name
        if self._last_id is not None:
            self.resumed += 1
        self.in_flight = True
        return Try(turn.name + self._path, self._headers(turn), turn.wait, turn.left)

    def left(self) -> float:
        return self._attempts.left()

    def check_deadline(self) -> None:
        self._attempts.check_deadline()

    def answered(self, headers: Mapping[str, str]) -> None:
        self._attempts.answered()
        self.request_id = headers.get("x-request-id", self.request_id)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        wanted = "text/event-stream" if self._stream else "application/json"
        if kind != wanted:
            self.in_flight = False
            raise ProtocolError(f"the server answered with {kind or 'no type'} instead of {wanted}")

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Raises when the request is not to be tried again."""
        self.in_flight = False
        error = api_error_of_body(
            body,
            status,
            request_id=headers.get("x-request-id"),
            retry_after=self._retry_after(headers.get("retry-after")),
        )
        self._attempts.refused(error)

    def broke(self, error: Exception) -> None:
        """The connection ended. Raises when the request is not to be tried again; else it is, or `whole`."""
        if isinstance(error, Cut) and isinstance(error.__cause__, APIError):
            self.in_flight = False
            self._attempts.refused(error.__cause__)
        elif not self.whole:
            self._attempts.broke(error)
            self.in_flight = False
        if not self.whole and self._unnamed:
            raise ConnectionFailed("the stream broke, and the server gave it no place to go on from") from error

    def take(self, event: SseEvent) -> list[Delta]:
        if event.data == "[DONE]":
            self._end()
            return []
        chunk = decode_object(event.data)
        if "error" in chunk:
            self.in_flight = False
            error = api_error_of(chunk["error"], request_id=self.request_id)
            raise Cut(str(error)) from error
        deltas = list(parse_chunk(chunk))
        self._attempts.progressed()
        self.head = (str(chunk.get("id", "")), chunk.get("created", 0), str(chunk.get("model", "")))
        if event.id:
            self._last_id = event.id
        else:
            self._unnamed = True
        for delta in deltas:
            self._missing -= delta.finish_reason is not None
            self._usage_missing = self._usage_missing and delta.usage is None
        return deltas

    def take_whole(self, body: bytes) -> Json:
        self._end()
        return decode_object(body)

    @property
    def whole(self) -> bool:
        """Nothing can come any more but [DONE]: for that nobody goes back."""
        return self.done or (self._counts and self._missing <= 0 and not self._usage_missing)

    def release(self) -> Try | None:
        """The connection that takes a stream over which is left on purpose, to be closed at its first byte: without the
        wish to be held it ends the work. None where nothing is held."""
        if not (self._stream and self.in_flight and self._policy.hold is not None) or self.whole:
            return None
        headers = self._common_headers()
        headers["X-Stainless-Retry-Count"] = str(self._attempts.count)
        return Try(self._base + self._path, headers, 0, self._policy.release / 2)

    def _headers(self, turn: Turn) -> dict[str, str]:
        headers = self._common_headers()
        if not self._generates:
            return headers
        if self._fresh or turn.number > 0:
            headers["X-Stainless-Retry-Count"] = str(turn.number)
        if self._stream and self._policy.hold is not None:
            headers["X-Fathom-Resume"] = str(hold_seconds(self._policy.hold, turn.left))
        return headers

    def _common_headers(self) -> dict[str, str]:
        # A proxy that compresses a stream holds it up.
        headers = {"Accept": "text/event-stream" if self._stream else "application/json", "Accept-Encoding": "identity"}
        bearer = self._key.bearer()
        if bearer is not None:
            headers["Authorization"] = bearer
        if self.encoded is not None:
            headers["Content-Type"] = "application/json"
        if self._generates:
            headers["Idempotency-Key"] = self.idempotency_key
        if self._last_id is not None:
            headers["Last-Event-ID"] = self._last_id
        return headers

    def _end(self) -> None:
        self.done = True
        self.in_flight = False

    def _retry_after(self, text: str | None) -> float | None:
        """Seconds, or a date."""
        if text is None:
            return None
        try:
            seconds = float(text)
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(text).timestamp() - self._clock.time()
            except (TypeError, ValueError, OverflowError):
                return None
        return max(0.0, seconds) if seconds == seconds else None

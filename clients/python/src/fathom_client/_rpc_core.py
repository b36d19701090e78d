"""What the clients over gRPC share: one Generate over as many connections as it takes, and statuses as errors."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from ._attempts import Attempts, Masters
from ._clock import Clock, SystemClock
from ._errors import APIError, CannotResumeError, DeadlineExceeded, make_api_error
from ._journey import Cut
from ._options import GRPC, Addresses, Policy, base_urls, check_idempotency_key, hold_seconds, key_or_environment
from ._proto import inference_pb2 as pb

SERVICE = "/fathom.v1.Inference/"
CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", 64 << 20),
    # A master that vanished without a word; the server takes one ping in 9 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # It is tried again here, where what it has had is known.
    ("grpc.enable_retries", 0),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNIMPLEMENTED: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 422,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
# gRPC's own words where a proxy or a peer cut the stream.
_CUT_WORDS = ("Received RST_STREAM", "Stream removed", "Received http2 header with status: 50")
# What is left of the deadline when the server, which knows it, gives up a moment before us.
_SLACK_SECONDS = 1.0


class RpcBase:
    """What a client over gRPC is told."""

    def __init__(
        self,
        masters: Addresses,
        api_key: str | None,
        policy: Policy | None,
        credentials: grpc.ChannelCredentials | None,
        clock: Clock | None,
        rng: random.Random | None,
    ) -> None:
        urls = base_urls(masters, GRPC)
        self._masters = Masters([url.partition("://")[2] for url in urls])
        secure = any(url.startswith("https:") for url in urls)
        self._credentials = grpc.ssl_channel_credentials() if credentials is None and secure else credentials
        self._key = key_or_environment(api_key)
        self._policy = policy or Policy()
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or random.Random()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._masters.names)})"

    def _attempts(self, deadline: float | None) -> Attempts:
        return Attempts(self._masters, self._policy, self._clock, self._rng, deadline)

    def _journey(self, request: pb.GenerateRequest, deadline: float | None) -> RpcJourney:
        return RpcJourney(self._attempts(deadline), self._policy, request)

    def _metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        bearer = self._key.bearer()
        return () if bearer is None else (("authorization", bearer),)


@dataclass(frozen=True)
class RpcTry:
    """A call to be made."""

    master: int
    request: pb.GenerateRequest
    wait: float
    left: float


class RpcJourney:
    """`next` before each call; then `take` for every message, `broke` when it fails, `ended` when it ends well."""

    def __init__(self, attempts: Attempts, policy: Policy, request: pb.GenerateRequest) -> None:
        self._attempts = attempts
        self._policy = policy
        self._request = pb.GenerateRequest()
        self._request.CopyFrom(request)
        self._fresh = not request.idempotency_key and not request.resume_token
        self.idempotency_key = check_idempotency_key(request.idempotency_key or uuid.uuid4().hex)
        self.resume_token = request.resume_token
        self._hold = float(request.resume_seconds) or policy.hold
        self._unnamed = False
        self._master = 0
        self.resumed = 0
        self.whole = False
        self.in_flight = False

    def next(self) -> RpcTry:
        turn = self._attempts.next()
        if turn.number > 0 and self.resume_token:
            self.resumed += 1
        request = self._named()
        request.first_try = self._fresh and turn.number == 0
        if self._hold is not None:
            request.resume_seconds = hold_seconds(self._hold, turn.left)
        self._master = turn.master
        self.in_flight = True
        return RpcTry(turn.master, request, turn.wait, turn.left)

    def take(self, message: pb.GenerateResponse) -> None:
        self._attempts.answered()
        self._attempts.progressed()
        self.resume_token = message.resume_token
        self._unnamed = self._unnamed or not message.resume_token
        if message.HasField("usage"):
            self.whole = True
            self.in_flight = False

    def ended(self) -> None:
        if not self.whole:
            self._go_on(Cut("the stream ended without its end"))

    def broke(self, error: grpc.RpcError) -> None:
        if self.whole:
            return
        failure = failure_of(error, self._attempts.left(), resuming=bool(self.resume_token))
        if isinstance(failure, DeadlineExceeded):
            raise failure from error
        if isinstance(failure, APIError):
            self.in_flight = False
            self._attempts.refused(failure)
            self._check_named(failure)
        else:
            self._go_on(failure)

    def release(self) -> RpcTry | None:
        """The call that takes over what is left on purpose, to be cancelled at its first message: without the wish to
        be held it ends the work. None where nothing is held."""
        if not self.in_flight or self.whole or self._hold is None:
            return None
        return RpcTry(self._master, self._named(), 0, self._policy.release)

    def _named(self) -> pb.GenerateRequest:
        request = pb.GenerateRequest()
        request.CopyFrom(self._request)
        request.ClearField("resume_seconds")
        request.idempotency_key = self.idempotency_key
        request.resume_token = self.resume_token
        return request

    def _go_on(self, error: Exception) -> None:
        self._attempts.broke(error)
        self.in_flight = False
        self._check_named(error)

    def _check_named(self, error: Exception) -> None:
        if self._unnamed:
            raise error


def failure_of(error: grpc.RpcError, left: float, resuming: bool = False) -> Exception:
    """APIError: the server said it. DeadlineExceeded: ours has passed. Anything else: the connection broke."""
    status: grpc.StatusCode = error.code()
    details: str = error.details() or status.name
    after = _metadata(error, "retry-after-ms")
    retry_after = int(after) / 1000 if after is not None and after.isdigit() else None
    if status == grpc.StatusCode.DEADLINE_EXCEEDED and left < _SLACK_SECONDS:
        return DeadlineExceeded("the deadline has passed")
    code = _metadata(error, "fathom-error-code")
    # A connection that breaks brings neither.
    if status == grpc.StatusCode.UNAVAILABLE and retry_after is None and code is None:
        return Cut(details)
    # A server that goes; whoever means it says why, and our own caller is "Locally cancelled".
    if status == grpc.StatusCode.CANCELLED and details == "CANCELLED":
        return Cut(details)
    if status in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and details.startswith(_CUT_WORDS):
        return Cut(details)
    http_status = _STATUS.get(status, 500)
    if http_status == 404 and resuming:
        return CannotResumeError(details, status=404, code="cannot_resume")
    # A gateway's 504 is none of gRPC's: here it is the server's own time limit.
    kind = "timeout_error" if http_status == 504 else None
    return make_api_error(http_status, details, type=kind, code=code, retry_after=retry_after)


def _metadata(error: grpc.RpcError, wanted: str) -> str | None:
    metadata: Any = error.trailing_metadata()
    return next((str(value) for name, value in metadata or () if name == wanted), None)

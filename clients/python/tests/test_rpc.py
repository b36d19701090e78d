"""Generate over gRPC: the same of a server that breaks as a test says."""

import asyncio
import contextlib
import threading
import time
from concurrent import futures

import grpc
import pytest
from conftest import KEY, Latest

from fathom_client import (
    AuthenticationError,
    BadRequestError,
    CannotResumeError,
    ConnectionFailed,
    DeadlineExceeded,
    Policy,
    RateLimitError,
    ServerError,
)
from fathom_client.rpc import AsyncGrpcClient, GrpcClient, pb

PIECES = ["He", "llo, ", "wörld ", "鲸鱼", "!"]
REQUEST = pb.GenerateRequest(model="tiny", text="Say it.", stop=pb.Stop(max_tokens=9))
Code = grpc.StatusCode


def messages(after=""):
    """All that a caller has not had that has this token."""
    for i, piece in enumerate(PIECES):
        made = pb.GenerateResponse(id="x", text_delta=piece, resume_token=f"t{i}")
        if i == len(PIECES) - 1:
            made.finish = pb.FINISH_REASON_STOP
            made.usage.completion_tokens = 5
        if not after or i > int(after[1:]):
            yield made


class FakeMaster(grpc.GenericRpcHandler):
    def __init__(self, *script):
        self.script = list(script)
        self.requests = []
        self.metadata = []
        self.server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[self])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def service(self, details):
        if details.method.endswith("/Generate"):
            return grpc.unary_stream_rpc_method_handler(
                self.generate, pb.GenerateRequest.FromString, pb.GenerateResponse.SerializeToString
            )
        return grpc.unary_unary_rpc_method_handler(
            self.tokenize, pb.TokenizeRequest.FromString, pb.TokenizeResponse.SerializeToString
        )

    def generate(self, request, context):
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        yield from (self.script.pop(0) if len(self.script) > 1 else self.script[0])(request, context)

    def tokenize(self, request, context):
        (self.script.pop(0) if len(self.script) > 1 else self.script[0])(request, context)
        return pb.TokenizeResponse(token_ids=[1, 2])


def whole(request, context):
    return messages(request.resume_token)


def until(count, code=Code.UNAVAILABLE, details="Socket closed", retry_after_ms=None, error_code=None):
    def behave(request, context):
        for made, _ in zip(messages(request.resume_token), range(count)):
            yield made
        if retry_after_ms is not None:
            context.set_trailing_metadata((("retry-after-ms", str(retry_after_ms)),))
        if error_code is not None:
            context.set_trailing_metadata((("fathom-error-code", error_code),))
        if code is not None:
            context.abort(code, details)

    return behave


@pytest.fixture
def masters():
    running = []

    def start(*scripts):
        running.extend(FakeMaster(*(script if isinstance(script, list) else [script])) for script in scripts)
        return running

    yield start
    for master in running:
        master.server.stop(0)


@pytest.fixture(params=["sync", "asyncio"])
def ask(request, clock):
    def run(masters, asked=REQUEST, count=None, deadline=None, **options):
        """The text; `count`: of so many messages, then it leaves."""
        options = {"api_key": KEY, "clock": clock, "rng": Latest()} | options
        addresses = [master.address for master in masters]
        got = []
        if request.param == "sync":
            with GrpcClient(addresses, **options) as client, client.generate(asked, deadline=deadline) as stream:
                for message in stream:
                    got.append(message)
                    if len(got) == count:
                        break
            return got

        async def take():
            client = AsyncGrpcClient(addresses, **options)
            async with client, client.generate(asked, deadline=deadline) as stream:
                async for message in stream:
                    got.append(message)
                    if len(got) == count:
                        break

        asyncio.run(take())
        return got

    return run


def text(got):
    return "".join(message.text_delta for message in got)


def test_it_goes_on_at_the_next_master(ask, masters):
    first, second = masters(until(3), whole)
    got = ask([first, second])
    assert text(got) == "".join(PIECES)
    assert [m.HasField("usage") for m in got] == [False] * 4 + [True]
    (begun,), (went_on,) = first.requests, second.requests
    assert (begun.first_try, begun.resume_token, begun.resume_seconds) == (True, "", 15)
    assert (went_on.first_try, went_on.resume_token, went_on.resume_seconds) == (False, "t2", 15)
    assert begun.idempotency_key == went_on.idempotency_key != ""
    for request in (begun, went_on):
        for field in ("idempotency_key", "first_try", "resume_token", "resume_seconds"):
            request.ClearField(field)
        assert request == REQUEST
    assert first.metadata[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "behave",
    [
        until(2),
        until(2, Code.INTERNAL, "Received RST_STREAM with error code 2"),
        until(2, Code.CANCELLED, "CANCELLED"),
        until(2, Code.UNAVAILABLE, "the server is shutting down", retry_after_ms=1000),
        until(2, Code.RESOURCE_EXHAUSTED, "too much waits", retry_after_ms=7000),
        until(2, None),
        until(0),
        until(0, None),
    ],
)
def test_what_passes(ask, masters, behave):
    first, second = masters(behave, whole)
    assert text(ask([first, second])) == "".join(PIECES)
    assert [len(master.requests) for master in (first, second)] == [1, 1]


def test_after_the_usage_nothing_is_missing(ask, masters):
    (master,) = masters(until(5))
    assert text(ask([master])) == "".join(PIECES)
    assert len(master.requests) == 1


@pytest.mark.parametrize(
    ("code", "error_code", "kind", "status"),
    [
        (Code.INVALID_ARGUMENT, None, BadRequestError, 400),
        (Code.UNAUTHENTICATED, "invalid_api_key", AuthenticationError, 401),
        (Code.RESOURCE_EXHAUSTED, None, RateLimitError, 429),
        (Code.INTERNAL, None, ServerError, 500),
        (Code.UNAVAILABLE, "worker_lost", ServerError, 503),
        (Code.DEADLINE_EXCEEDED, None, ServerError, 504),
    ],
)
def test_what_does_not_pass(ask, masters, code, error_code, kind, status):
    first, second = masters(until(2, code, "because", error_code=error_code), whole)
    with pytest.raises(kind) as raised:
        ask([first, second])
    assert (raised.value.status, raised.value.message) == (status, "because")
    assert error_code is None or raised.value.code == error_code
    assert second.requests == []


def test_nothing_to_go_on_from(ask, masters):
    first, second = masters(until(2), until(0, Code.NOT_FOUND, "no request of yours"))
    with pytest.raises(CannotResumeError):
        ask([first, second])


def test_a_name_and_a_place_of_the_callers(ask, masters):
    asked = pb.GenerateRequest()
    asked.CopyFrom(REQUEST)
    asked.idempotency_key, asked.resume_token, asked.resume_seconds = "order-17", "t1", 99
    (master,) = masters(whole)
    assert text(ask([master], asked)) == "".join(PIECES[2:])
    (request,) = master.requests
    assert (request.first_try, request.idempotency_key, request.resume_seconds) == (False, "order-17", 99)


def test_pauses_patience_and_deadline(ask, masters, clock):
    (master,) = masters(until(0))
    with pytest.raises(ConnectionFailed):
        ask([master], policy=Policy(patience=30))
    assert clock.slept[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
    assert 30 < sum(clock.slept) < 36
    clock.slept.clear()
    with pytest.raises(DeadlineExceeded):
        ask([master], deadline=2)
    assert sum(clock.slept) <= 2


def test_the_servers_clock_may_be_first(ask, masters):
    (master,) = masters(until(2, Code.DEADLINE_EXCEEDED, "the request took longer than its time limit"))
    with pytest.raises(DeadlineExceeded):
        ask([master], deadline=0.9)


def test_leaving_takes_the_stream_over_without_a_hold_and_drops_it(ask, masters):
    left = threading.Semaphore(0)

    def wait_left(request, context):
        context.add_callback(left.release)
        yield next(messages(request.resume_token))
        time.sleep(0.1)
        with contextlib.suppress(StopIteration):
            for _ in range(1000):
                yield pb.GenerateResponse(resume_token="t0")
                time.sleep(0.01)

    (master,) = masters(wait_left)
    assert text(ask([master], count=1)) == "He"
    assert left.acquire(timeout=5) and left.acquire(timeout=5)
    begun, release = master.requests
    assert begun.resume_seconds == 15
    assert (release.resume_seconds, release.first_try, release.resume_token) == (0, False, "t0")
    assert release.idempotency_key == begun.idempotency_key


def test_without_a_hold_leaving_is_enough(ask, masters):
    (master,) = masters(whole)
    ask([master], count=1, policy=Policy(hold=None))
    assert [r.resume_seconds for r in master.requests] == [0]


def test_the_other_calls_go_on_as_well(masters, clock):
    def refuse(request, context):
        context.abort(Code.UNAVAILABLE, "Socket closed")

    first, second = masters(refuse, lambda request, context: None)
    with GrpcClient([first.address, second.address], api_key=KEY, clock=clock) as client:
        assert list(client.tokenize(pb.TokenizeRequest(text="x")).token_ids) == [1, 2]

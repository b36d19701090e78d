"""The clients over gRPC, for threads and for asyncio: `Generate` that survives its master, and the calls beside it.

Needs the extra: pip install "fathom-client[grpc]". `pb` has the messages, as proto/fathom/v1/inference.proto says them.
"""

from __future__ import annotations

import contextlib
import random
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import Any

import anyio
import grpc
import grpc.aio

from ._clock import Clock
from ._errors import APIError, DeadlineExceeded
from ._options import Addresses, Policy
from ._proto import inference_pb2 as pb
from ._rpc_core import CHANNEL_OPTIONS, SERVICE, RpcBase, RpcJourney, failure_of

__all__ = ["AsyncGrpcClient", "AsyncGrpcStream", "GrpcClient", "GrpcStream", "pb"]


class GrpcClient(RpcBase):
    """Asks one of several masters, "host:port" of their gRPC each. Any thread may use it.

    `masters`: several of them, or a text with commas between; default `FATHOM_GRPC`, else the local one.
    `credentials`: of the channels; default none, or the system's authorities where an address begins with https.
    """

    def __init__(
        self,
        masters: Addresses = None,
        *,
        api_key: str | None = None,
        policy: Policy | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(masters, api_key, policy, credentials, clock, rng)
        self._channels = [self._channel(name) for name in self._masters.names]
        self._streams: weakref.WeakSet[GrpcStream] = weakref.WeakSet()

    def _channel(self, name: str) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(name, CHANNEL_OPTIONS)
        return grpc.secure_channel(name, self._credentials, CHANNEL_OPTIONS)

    def close(self) -> None:
        """Its open streams are left first, as if each were closed."""
        for stream in list(self._streams):
            with contextlib.suppress(ValueError):  # another thread is reading it, and sees its call cancelled
                stream.close()
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> GrpcClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def generate(self, request: pb.GenerateRequest, *, deadline: float | None = None) -> GrpcStream:
        """Messages as they come; asks at the first one. An `idempotency_key` of the request's own may run already; a
        `resume_token` goes on behind it; `resume_seconds` overrides the policy's hold."""
        journey = self._journey(request, deadline)
        made = GrpcStream(self._run(journey), journey)
        self._streams.add(made)
        return made

    def list_models(self, *, deadline: float | None = None) -> pb.ListModelsResponse:
        answer = self._whole("ListModels", pb.ListModelsRequest(), pb.ListModelsResponse, deadline)
        assert isinstance(answer, pb.ListModelsResponse)
        return answer

    def tokenize(self, request: pb.TokenizeRequest, *, deadline: float | None = None) -> pb.TokenizeResponse:
        answer = self._whole("Tokenize", request, pb.TokenizeResponse, deadline)
        assert isinstance(answer, pb.TokenizeResponse)
        return answer

    def detokenize(self, request: pb.DetokenizeRequest, *, deadline: float | None = None) -> pb.DetokenizeResponse:
        answer = self._whole("Detokenize", request, pb.DetokenizeResponse, deadline)
        assert isinstance(answer, pb.DetokenizeResponse)
        return answer

    def _whole(self, method: str, request: Any, kind: Any, deadline: float | None) -> Any:
        attempts = self._attempts(deadline)
        while True:
            turn = attempts.next()
            self._clock.sleep(turn.wait)
            call = self._channels[turn.master].unary_unary(
                SERVICE + method, type(request).SerializeToString, kind.FromString
            )
            try:
                answer = call(request, timeout=turn.left, metadata=self._metadata())
            except grpc.RpcError as error:
                failure = failure_of(error, attempts.left())
                if isinstance(failure, DeadlineExceeded):
                    raise failure from error
                if isinstance(failure, APIError):
                    attempts.refused(failure)
                else:
                    attempts.broke(failure)
            else:
                attempts.answered()
                return answer

    def _start(self, master: int, request: pb.GenerateRequest, left: float) -> Any:
        call = self._channels[master].unary_stream(
            SERVICE + "Generate", pb.GenerateRequest.SerializeToString, pb.GenerateResponse.FromString
        )
        return call(request, timeout=left, metadata=self._metadata())

    def _run(self, journey: RpcJourney) -> Generator[pb.GenerateResponse, None, None]:
        try:
            while not journey.whole:
                tried = journey.next()
                self._clock.sleep(tried.wait)
                call = self._start(tried.master, tried.request, tried.left)
                try:
                    for message in call:
                        journey.take(message)
                        yield message
                    journey.ended()
                except grpc.RpcError as error:
                    journey.broke(error)
                finally:
                    call.cancel()
        finally:
            self._release(journey)

    def _release(self, journey: RpcJourney) -> None:
        tried = journey.release()
        if tried is None:
            return
        # It has left: whether the server hears of it is a matter of cost, not of the caller's.
        with contextlib.suppress(grpc.RpcError, ValueError):  # ValueError: the channel is closed
            call = self._start(tried.master, tried.request, tried.left)
            next(call, None)
            call.cancel()


class GrpcStream(Iterator[pb.GenerateResponse]):
    """Messages as they come. Leaving early ends the request at the server: `close`, the end of a `with`, letting go."""

    def __init__(self, messages: Generator[pb.GenerateResponse, None, None], journey: RpcJourney) -> None:
        self._messages = messages
        self._journey = journey

    def __iter__(self) -> GrpcStream:
        return self

    def __next__(self) -> pb.GenerateResponse:
        return next(self._messages)

    def close(self) -> None:
        self._messages.close()

    def __enter__(self) -> GrpcStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def resumed(self) -> int:
        """How many times it went on behind what it had."""
        return self._journey.resumed


class AsyncGrpcClient(RpcBase):
    """As `GrpcClient`, for asyncio. Make it in the event loop that it is used in."""

    def __init__(
        self,
        masters: Addresses = None,
        *,
        api_key: str | None = None,
        policy: Policy | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(masters, api_key, policy, credentials, clock, rng)
        self._channels = [self._channel(name) for name in self._masters.names]
        self._streams: weakref.WeakSet[AsyncGrpcStream] = weakref.WeakSet()

    def _channel(self, name: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(name, CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(name, self._credentials, CHANNEL_OPTIONS)

    async def close(self) -> None:
        """Its open streams are left first, as if each were closed."""
        for stream in list(self._streams):
            with contextlib.suppress(RuntimeError):  # another task is reading it, and sees its call cancelled
                await stream.close()
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self) -> AsyncGrpcClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def generate(self, request: pb.GenerateRequest, *, deadline: float | None = None) -> AsyncGrpcStream:
        """As `GrpcClient.generate`; iterate over it, it is not awaited."""
        journey = self._journey(request, deadline)
        made = AsyncGrpcStream(self._run(journey), journey)
        self._streams.add(made)
        return made

    def _start(self, master: int, request: pb.GenerateRequest, left: float) -> Any:
        call = self._channels[master].unary_stream(
            SERVICE + "Generate", pb.GenerateRequest.SerializeToString, pb.GenerateResponse.FromString
        )
        return call(request, timeout=left, metadata=self._metadata())

    async def _run(self, journey: RpcJourney) -> AsyncGenerator[pb.GenerateResponse, None]:
        try:
            while not journey.whole:
                tried = journey.next()
                await self._clock.sleep_async(tried.wait)
                call = self._start(tried.master, tried.request, tried.left)
                try:
                    async for message in call:
                        journey.take(message)
                        yield message
                    journey.ended()
                except grpc.RpcError as error:
                    journey.broke(error)
                finally:
                    call.cancel()
        finally:
            await self._release(journey)

    async def _release(self, journey: RpcJourney) -> None:
        tried = journey.release()
        if tried is None:
            return
        # Not for the caller to wait for when it is cancelled; the call has its own time limit.
        with anyio.CancelScope(shield=True), contextlib.suppress(grpc.RpcError, grpc.aio.UsageError):
            call = self._start(tried.master, tried.request, tried.left)
            await call.read()
            call.cancel()


class AsyncGrpcStream(AsyncIterator[pb.GenerateResponse]):
    """Messages as they come. Leaving early ends the request at the server: `async with`, or `await close()`."""

    def __init__(self, messages: AsyncGenerator[pb.GenerateResponse, None], journey: RpcJourney) -> None:
        self._messages = messages
        self._journey = journey

    def __aiter__(self) -> AsyncGrpcStream:
        return self

    async def __anext__(self) -> pb.GenerateResponse:
        return await self._messages.__anext__()

    async def close(self) -> None:
        await self._messages.aclose()

    async def __aenter__(self) -> AsyncGrpcStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def resumed(self) -> int:
        """How many times it went on behind what it had."""
        return self._journey.resumed

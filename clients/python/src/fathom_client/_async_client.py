"""The asynchronous client over HTTP, for asyncio and trio."""

from __future__ import annotations

import contextlib
import random
import ssl
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from types import TracebackType
from typing import (
    Any,
    Literal,
    TypeVar,
    overload,
)

import anyio
import httpx

from ._client import Messages, Prompt
from ._clock import Clock
from ._http import (
    LIMITS,
    BaseClient,
    Bounded,
    chat_call,
    completion_call,
    socket_options,
    timeouts,
    tokenize_call,
    trust,
)
from ._journey import ERROR_BYTES_MAX, Cut, Journey, Try
from ._openai import Gatherer, Json, parse_answer, parse_models, parse_prompt, parse_tokens
from ._options import Addresses, Policy
from ._sse import SseDecoder
from ._types import Answer, Delta, Model, Tokens

T = TypeVar("T")


class AsyncClient(BaseClient):
    """As `Client`, for asyncio and trio. Belongs to one event loop."""

    def __init__(
        self,
        masters: Addresses = None,
        *,
        api_key: str | None = None,
        policy: Policy | None = None,
        verify: bool | ssl.SSLContext = True,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(masters, api_key, policy, clock, rng)
        transport = httpx.AsyncHTTPTransport(
            verify=trust(self._masters.names, verify), limits=LIMITS, socket_options=socket_options()
        )
        self._http = httpx.AsyncClient(transport=transport, follow_redirects=False)
        self._streams: weakref.WeakSet[AsyncStream] = weakref.WeakSet()

    async def close(self) -> None:
        """Its open streams are left first, as if each were closed."""
        for stream in list(self._streams):
            with contextlib.suppress(RuntimeError):  # another task is reading it, and has to leave it
                await stream.close()
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        model: str,
        stream: Literal[False] = False,
        deadline: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Awaitable[Answer]: ...
    @overload
    def chat(
        self,
        messages: Messages,
        *,
        model: str,
        stream: Literal[True],
        deadline: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> AsyncStream: ...
    def chat(
        self,
        messages: Messages,
        *,
        model: str,
        stream: bool = False,
        deadline: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Awaitable[Answer] | AsyncStream:
        """As `Client.chat`: await a whole answer, or iterate over a stream, which is not awaited."""
        return self._generate(*chat_call(messages, model, fields), stream, deadline, idempotency_key)

    @overload
    def complete(
        self,
        prompt: Prompt,
        *,
        model: str,
        stream: Literal[False] = False,
        deadline: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Awaitable[Answer]: ...
    @overload
    def complete(
        self,
        prompt: Prompt,
        *,
        model: str,
        stream: Literal[True],
        deadline: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> AsyncStream: ...
    def complete(
        self,
        prompt: Prompt,
        *,
        model: str,
        stream: bool = False,
        deadline: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Awaitable[Answer] | AsyncStream:
        """A text that goes on behind the prompt; as `chat` otherwise."""
        return self._generate(*completion_call(prompt, model, fields), stream, deadline, idempotency_key)

    async def models(self, *, deadline: float | None = None) -> list[Model]:
        """The models that are served."""
        return parse_models(await self._whole(self._simple("/v1/models", None, deadline)))

    async def tokenize(
        self,
        *,
        model: str,
        prompt: str | None = None,
        messages: Messages | None = None,
        deadline: float | None = None,
        **fields: Any,
    ) -> Tokens:
        """The tokens of a text or of a chat, as generation reads them."""
        call = tokenize_call(model, prompt, messages, fields)
        return parse_tokens(await self._whole(self._simple(*call, deadline)))

    async def detokenize(self, tokens: Sequence[int], *, model: str, deadline: float | None = None) -> str:
        """The text of tokens."""
        body = {"model": model, "tokens": list(tokens)}
        return parse_prompt(await self._whole(self._simple("/detokenize", body, deadline)))

    def _generate(
        self, path: str, fields: Json, stream: bool, deadline: float | None, key: str | None
    ) -> Awaitable[Answer] | AsyncStream:
        journey = self._generation(path, fields, stream, deadline, key)
        if not stream:
            return self._answer(journey)
        made = AsyncStream(self._run(journey), journey)
        self._streams.add(made)
        return made

    async def _answer(self, journey: Journey) -> Answer:
        return parse_answer(await self._whole(journey))

    def _open(
        self, journey: Journey, tried: Try, stream: bool
    ) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        return self._http.stream(
            "GET" if journey.encoded is None else "POST",
            tried.url,
            content=journey.encoded,
            headers=tried.headers,
            timeout=timeouts(self._policy, tried.left, stream),
        )

    async def _whole(self, journey: Journey) -> Json:
        while True:
            tried = journey.next()
            await self._clock.sleep_async(tried.wait)
            body = None
            try:
                with anyio.move_on_after(max(0.0, journey.left())):
                    body = await self._one_answer(journey, tried)
            except httpx.RequestError as error:
                journey.broke(error)
            journey.check_deadline()
            if body is not None:
                return body

    async def _one_answer(self, journey: Journey, tried: Try) -> Json | None:
        """None when it is to be tried again."""
        async with self._open(journey, tried, False) as response:
            if response.status_code != 200:
                body = await _read(response, ERROR_BYTES_MAX)
                journey.refused(response.status_code, response.headers, body)
                return None
            journey.answered(response.headers)
            return journey.take_whole(await _read(response, self._policy.answer_bytes))

    async def _run(self, journey: Journey) -> AsyncGenerator[Delta, None]:
        try:
            while not journey.whole:
                tried = journey.next()
                await self._clock.sleep_async(tried.wait)
                connection = self._one_connection(journey, tried)
                try:
                    async for delta in connection:
                        yield delta
                except (httpx.RequestError, Cut) as error:
                    journey.broke(error)
                finally:
                    await connection.aclose()
        finally:
            await self._release(journey)

    async def _one_connection(self, journey: Journey, tried: Try) -> AsyncGenerator[Delta, None]:
        async with self._open(journey, tried, True) as response:
            if response.status_code != 200:
                body = await _read(response, ERROR_BYTES_MAX)
                journey.refused(response.status_code, response.headers, body)
                return
            journey.answered(response.headers)
            decoder = SseDecoder()
            pieces = response.aiter_bytes()
            while (piece := await self._next(pieces, journey)) is not None:
                for event in decoder.feed(piece):
                    for delta in journey.take(event):
                        yield delta
                    if journey.done:
                        return
        raise Cut("the stream ended without its end")

    @staticmethod
    async def _next(pieces: AsyncIterator[bytes], journey: Journey) -> bytes | None:
        """None at the end."""
        with anyio.move_on_after(max(0.0, journey.left())):
            try:
                return await pieces.__anext__()
            except StopAsyncIteration:
                return None
        journey.check_deadline()
        raise Cut("the deadline is about to pass")

    async def _release(self, journey: Journey) -> None:
        tried = journey.release()
        if tried is None:
            return
        # It has left: whether the server hears of it is a matter of cost, not of the caller's. RuntimeError: the client
        # is closed.
        with anyio.move_on_after(self._policy.release, shield=True):
            with contextlib.suppress(httpx.HTTPError, RuntimeError):
                async with self._open(journey, tried, True):
                    pass


class AsyncStream(AsyncIterator[Delta]):
    """Deltas as they come. Asks at the first one. Leaving early ends the request at the server: use `async with`, or
    `await close()`; one that is only let go of ends when the event loop gets to it."""

    def __init__(self, deltas: AsyncGenerator[Delta, None], journey: Journey) -> None:
        self._deltas = deltas
        self._journey = journey

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Delta:
        return await self._deltas.__anext__()

    async def close(self) -> None:
        await self._deltas.aclose()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def collect(self) -> Answer:
        """All that still comes, as a whole answer."""
        gatherer = Gatherer()
        async for delta in self:
            gatherer.add(delta)
        return gatherer.answer(self._journey.head)

    @property
    def request_id(self) -> str | None:
        """The server's name for it, in its logs; once it has answered."""
        return self._journey.request_id

    @property
    def idempotency_key(self) -> str:
        return self._journey.idempotency_key

    @property
    def resumed(self) -> int:
        """How many times it went on behind what it had."""
        return self._journey.resumed


async def _read(response: httpx.Response, limit: int) -> bytes:
    body = Bounded(limit)
    async for piece in response.aiter_bytes():
        body.add(piece)
    return body.value()

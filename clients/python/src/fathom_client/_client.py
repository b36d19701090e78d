"""The synchronous client over HTTP."""

from __future__ import annotations

import contextlib
import random
import ssl
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Union, overload

import httpx

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

Prompt = Union[str, Sequence[str], Sequence[int], Sequence[Sequence[int]]]
Messages = Sequence[Mapping[str, Any]]


class Client(BaseClient):
    """Asks one of several masters. Any thread may use it; a stream belongs to one thread at a time.

    `masters`: "http://host:port", several of them, or a text of several with commas between; default `FATHOM_URL`, else
    the local one. `api_key`: default `FATHOM_API_KEY`. `verify`: as httpx has it.
    """

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
        transport = httpx.HTTPTransport(
            verify=trust(self._masters.names, verify), limits=LIMITS, socket_options=socket_options()
        )
        self._http = httpx.Client(transport=transport, follow_redirects=False)
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()

    def close(self) -> None:
        """Its open streams are left first, as if each were closed."""
        for stream in list(self._streams):
            with contextlib.suppress(ValueError):  # another thread is reading it, and has to leave it
                stream.close()
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
    ) -> Answer: ...
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
    ) -> Stream: ...
    def chat(
        self,
        messages: Messages,
        *,
        model: str,
        stream: bool = False,
        deadline: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Answer | Stream:
        """An answer to a chat, whole or as a stream. `fields` are those of OpenAI's API and of docs/api.md.

        `deadline`: seconds until the last token, over all connections. `idempotency_key`: a name of your own for the
        request; a second call with it, also by another process, joins the first one and ends that one's connection.
        """
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
    ) -> Answer: ...
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
    ) -> Stream: ...
    def complete(
        self,
        prompt: Prompt,
        *,
        model: str,
        stream: bool = False,
        deadline: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Answer | Stream:
        """A text that goes on behind the prompt; as `chat` otherwise."""
        return self._generate(*completion_call(prompt, model, fields), stream, deadline, idempotency_key)

    def models(self, *, deadline: float | None = None) -> list[Model]:
        """The models that are served."""
        return parse_models(self._whole(self._simple("/v1/models", None, deadline)))

    def tokenize(
        self,
        *,
        model: str,
        prompt: str | None = None,
        messages: Messages | None = None,
        deadline: float | None = None,
        **fields: Any,
    ) -> Tokens:
        """The tokens of a text or of a chat, as generation reads them."""
        return parse_tokens(self._whole(self._simple(*tokenize_call(model, prompt, messages, fields), deadline)))

    def detokenize(self, tokens: Sequence[int], *, model: str, deadline: float | None = None) -> str:
        """The text of tokens."""
        body = {"model": model, "tokens": list(tokens)}
        return parse_prompt(self._whole(self._simple("/detokenize", body, deadline)))

    def _generate(
        self, path: str, fields: Json, stream: bool, deadline: float | None, key: str | None
    ) -> Answer | Stream:
        journey = self._generation(path, fields, stream, deadline, key)
        if not stream:
            return parse_answer(self._whole(journey))
        made = Stream(self._run(journey), journey)
        self._streams.add(made)
        return made

    def _open(self, journey: Journey, tried: Try, stream: bool) -> contextlib.AbstractContextManager[httpx.Response]:
        return self._http.stream(
            "GET" if journey.encoded is None else "POST",
            tried.url,
            content=journey.encoded,
            headers=tried.headers,
            timeout=timeouts(self._policy, tried.left, stream),
        )

    def _whole(self, journey: Journey) -> Json:
        while True:
            tried = journey.next()
            self._clock.sleep(tried.wait)
            try:
                with self._open(journey, tried, False) as response:
                    if response.status_code != 200:
                        journey.refused(
                            response.status_code, response.headers, _read(response, journey, ERROR_BYTES_MAX)
                        )
                        continue
                    journey.answered(response.headers)
                    return journey.take_whole(_read(response, journey, self._policy.answer_bytes))
            except httpx.RequestError as error:
                journey.broke(error)

    def _run(self, journey: Journey) -> Generator[Delta, None, None]:
        try:
            while not journey.whole:
                tried = journey.next()
                self._clock.sleep(tried.wait)
                try:
                    yield from self._one_connection(journey, tried)
                except (httpx.RequestError, Cut) as error:
                    journey.broke(error)
        finally:
            self._release(journey)

    def _one_connection(self, journey: Journey, tried: Try) -> Iterator[Delta]:
        with self._open(journey, tried, True) as response:
            if response.status_code != 200:
                journey.refused(response.status_code, response.headers, _read(response, journey, ERROR_BYTES_MAX))
                return
            journey.answered(response.headers)
            decoder = SseDecoder()
            for piece in response.iter_bytes():
                for event in decoder.feed(piece):
                    yield from journey.take(event)
                    if journey.done:
                        return
                journey.check_deadline()
        raise Cut("the stream ended without its end")

    def _release(self, journey: Journey) -> None:
        tried = journey.release()
        if tried is None:
            return
        # It has left: whether the server hears of it is a matter of cost, not of the caller's. RuntimeError: the client
        # is closed.
        with contextlib.suppress(httpx.HTTPError, RuntimeError), self._open(journey, tried, True):
            pass


class Stream(Iterator[Delta]):
    """Deltas as they come. Asks at the first one. Leaving early ends the request at the server: `close`, the end of a
    `with`, or letting go of it."""

    def __init__(self, deltas: Generator[Delta, None, None], journey: Journey) -> None:
        self._deltas = deltas
        self._journey = journey

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Delta:
        return next(self._deltas)

    def close(self) -> None:
        self._deltas.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def collect(self) -> Answer:
        """All that still comes, as a whole answer."""
        gatherer = Gatherer()
        for delta in self:
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


def _read(response: httpx.Response, journey: Journey, limit: int) -> bytes:
    body = Bounded(limit)
    for piece in response.iter_bytes():
        body.add(piece)
        journey.check_deadline()
    return body.value()

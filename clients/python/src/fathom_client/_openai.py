"""The OpenAI dialect: bodies of requests, and answers and chunks as our types. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ._errors import ProtocolError
from ._types import Answer, Choice, Delta, Model, TokenLogprob, Tokens, ToolCall, ToolCallDelta, TopLogprob, Usage

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

Json = dict[str, Any]


def encode(body: Mapping[str, Any]) -> bytes:
    """The bytes that every connection of a request sends: resuming wants them the same."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def generation_body(fields: Mapping[str, Any], stream: bool) -> Json:
    body = dict(fields)
    if stream:
        body["stream"] = True
        body.setdefault("stream_options", {"include_usage": True})
    else:
        body["stream"] = False
    return body


def wants_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, Mapping) and bool(options.get("include_usage"))


def num_choices(body: Mapping[str, Any]) -> int:
    """Choices of all prompts; 0 for a body that the server is going to refuse."""
    n = body.get("n")
    n = 1 if n is None else n
    prompt = body.get("prompt", "")
    if not isinstance(n, int) or not isinstance(prompt, (str, Sequence)):
        return 0
    is_list = not isinstance(prompt, str) and not all(isinstance(p, int) for p in prompt)
    return n * (len(prompt) if is_list else 1)


def decode_object(text: Any) -> Json:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("the server sent what is not JSON") from None
    if not isinstance(value, dict):
        raise ProtocolError("the server sent JSON that is not an object")
    return value


def parse_chunk(chunk: Json) -> Iterator[Delta]:
    """Of one event; the one that only tells the role has no news."""
    try:
        for choice in chunk["choices"]:
            delta = _delta_of(choice)
            if delta != Delta(choice=delta.choice):
                yield delta
        if chunk.get("usage"):
            yield Delta(usage=_usage_of(chunk["usage"]))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        raise ProtocolError("the server sent a chunk of another form") from None


def parse_answer(body: Json) -> Answer:
    try:
        choices = sorted((_choice_of(c) for c in body["choices"]), key=lambda c: c.index)
        usage = _usage_of(body["usage"]) if body.get("usage") else None
        return Answer(body["id"], body["created"], body["model"], tuple(choices), usage, body)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        raise ProtocolError("the server sent an answer of another form") from None


def parse_models(body: Json) -> list[Model]:
    try:
        return [Model(m["id"], m.get("created", 0), m.get("max_model_len", 0)) for m in body["data"]]
    except (KeyError, TypeError, AttributeError):
        raise ProtocolError("the server sent a list of models of another form") from None


def parse_tokens(body: Json) -> Tokens:
    try:
        strings = tuple(body.get("token_strs") or ())
        return Tokens(tuple(body["tokens"]), body.get("max_model_len", 0), strings)
    except (KeyError, TypeError):
        raise ProtocolError("the server sent tokens of another form") from None


def parse_prompt(body: Json) -> str:
    if not isinstance(body.get("prompt"), str):
        raise ProtocolError("the server sent a text of another form")
    return str(body["prompt"])


class Gatherer:
    """A whole answer from the deltas of a stream."""

    def __init__(self) -> None:
        self._deltas: dict[int, list[Delta]] = {}
        self._usage: Usage | None = None

    def add(self, delta: Delta) -> None:
        if delta.usage is not None:
            self._usage = delta.usage
        else:
            self._deltas.setdefault(delta.choice, []).append(delta)

    def answer(self, head: tuple[str, int, str]) -> Answer:
        choices = tuple(self._choice(index, self._deltas[index]) for index in sorted(self._deltas))
        return Answer(*head, choices, self._usage)

    @staticmethod
    def _choice(index: int, deltas: list[Delta]) -> Choice:
        pieces: dict[int, list[ToolCallDelta]] = {}
        for piece in (p for d in deltas for p in d.tool_calls):
            pieces.setdefault(piece.index, []).append(piece)
        calls = tuple(
            ToolCall(
                next((p.id for p in call if p.id), ""),
                next((p.name for p in call if p.name), ""),
                "".join(p.arguments for p in call),
            )
            for _, call in sorted(pieces.items())
        )
        return Choice(
            index,
            "".join(d.text for d in deltas),
            "".join(d.reasoning for d in deltas),
            calls,
            tuple(p for d in deltas for p in d.logprobs),
            next((d.finish_reason for d in reversed(deltas) if d.finish_reason), None),
        )


def _delta_of(choice: Json) -> Delta:
    message: Json = choice.get("delta") or {}
    return Delta(
        choice["index"],
        (message.get("content") if "delta" in choice else choice.get("text")) or "",
        message.get("reasoning_content") or "",
        tuple(_call_delta_of(call) for call in message.get("tool_calls") or ()),
        _logprobs_of(choice.get("logprobs")),
        choice.get("finish_reason"),
    )


def _call_delta_of(call: Json) -> ToolCallDelta:
    function = call.get("function") or {}
    return ToolCallDelta(
        call["index"], call.get("id") or "", function.get("name") or "", function.get("arguments") or ""
    )


def _choice_of(choice: Json) -> Choice:
    message: Json = choice.get("message") or {}
    calls = tuple(
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    )
    return Choice(
        choice["index"],
        (message.get("content") if "message" in choice else choice.get("text")) or "",
        message.get("reasoning_content") or "",
        calls,
        _logprobs_of(choice.get("logprobs")),
        choice.get("finish_reason"),
    )


def _logprobs_of(logprobs: Json | None) -> tuple[TokenLogprob, ...]:
    """Chats and completions write them in two ways."""
    if not logprobs:
        return ()
    if "content" in logprobs:
        return tuple(
            TokenLogprob(
                position["token"],
                position["logprob"],
                tuple(TopLogprob(top["token"], top["logprob"]) for top in position.get("top_logprobs") or ()),
                None if position.get("bytes") is None else bytes(position["bytes"]),
            )
            for position in logprobs["content"] or ()
        )
    tokens = logprobs["tokens"]
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(token, logprob, tuple(TopLogprob(t, p) for t, p in (top or {}).items()))
        for token, logprob, top in zip(tokens, logprobs["token_logprobs"], tops)
    )


def _usage_of(usage: Json) -> Usage:
    prompt: Json = usage.get("prompt_tokens_details") or {}
    completion: Json = usage.get("completion_tokens_details") or {}
    return Usage(
        usage.get("prompt_tokens", 0),
        usage.get("completion_tokens", 0),
        usage.get("total_tokens", 0),
        prompt.get("cached_tokens", 0),
        completion.get("reasoning_tokens", 0),
    )

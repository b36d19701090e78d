"""What the client hands out. All of it is immutable, and equal when it says the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Tokens counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, that the prefix cache had."""
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class TopLogprob:
    """One of the likeliest tokens of a position."""

    token: str
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """A token that is in the text, and the likeliest ones there."""

    token: str
    logprob: float | None
    """None for the first token of an echoed prompt."""
    top: tuple[TopLogprob, ...] = ()
    bytes: bytes | None = None
    """Where the server tells them: a token may be part of a character."""


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a tool call. Pieces of one index belong together; their arguments are joined."""

    index: int
    id: str = ""
    """On the first piece only, as the name."""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class ToolCall:
    """A call of a function; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Delta:
    """News of one choice."""

    choice: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    """On the last delta of a choice: `stop`, `length` or `tool_calls`."""
    usage: Usage | None = None
    """On a delta of its own, the last one of the stream."""


@dataclass(frozen=True)
class Choice:
    """One answer, whole."""

    index: int
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    id: str
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The body as it came, for what has no field here; empty for an answer gathered from a stream."""

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.choices[0].text if self.choices else ""


@dataclass(frozen=True)
class Model:
    """A model that is served."""

    id: str
    created: int = 0
    max_model_len: int = 0
    """Tokens that prompt and answer may have together."""


@dataclass(frozen=True)
class Tokens:
    """Token ids as generation reads them."""

    ids: tuple[int, ...]
    max_model_len: int = 0
    strings: tuple[str, ...] = ()
    """Where they were asked for."""

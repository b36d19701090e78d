"""Fathom's client: asks one of several masters, and goes on at another one when a connection breaks."""

from __future__ import annotations

from ._async_client import AsyncClient, AsyncStream
from ._client import Client, Stream
from ._errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    CannotResumeError,
    ConnectionFailed,
    DeadlineExceeded,
    FathomError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    ServerError,
    UnprocessableEntityError,
)
from ._options import Policy
from ._types import Answer, Choice, Delta, Model, TokenLogprob, Tokens, ToolCall, ToolCallDelta, TopLogprob, Usage

__all__ = [
    "APIError",
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "CannotResumeError",
    "Choice",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Delta",
    "FathomError",
    "Model",
    "NotFoundError",
    "PermissionDeniedError",
    "Policy",
    "ProtocolError",
    "RateLimitError",
    "ServerError",
    "Stream",
    "TokenLogprob",
    "Tokens",
    "ToolCall",
    "ToolCallDelta",
    "TopLogprob",
    "UnprocessableEntityError",
    "Usage",
]

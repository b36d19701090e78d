"""What goes wrong, as exceptions. None of them holds a key or a request."""

from __future__ import annotations

import json
from typing import Any


class FathomError(Exception):
    """Whatever this package raises by itself, but for wrong arguments (ValueError)."""


class ConnectionFailed(FathomError):
    """No master could be reached for so long as the client is patient, or a stream broke that cannot be resumed."""


class DeadlineExceeded(FathomError):
    """The caller's deadline has passed; `__cause__` is what happened last."""


class ProtocolError(FathomError):
    """What answers is no Fathom server, or says more than fits."""


class APIError(FathomError):
    """The server has refused the request or given it up."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """The HTTP status; of an error in mid-stream and over gRPC the one that it would have had."""
        self.type = type
        self.code = code
        """For programs."""
        self.param = param
        """The field that is wrong."""
        self.request_id = request_id
        self.retry_after = retry_after
        """Seconds after which the server may have room."""

    def __str__(self) -> str:
        details = [str(self.status), self.code, self.param and f"param {self.param}"]
        details.append(self.request_id and f"request {self.request_id}")
        return f"{self.message} ({', '.join(d for d in details if d)})"


class BadRequestError(APIError):
    """400: a field is wrong, or the prompt too long."""


class AuthenticationError(APIError):
    """401: no key or a wrong one."""


class PermissionDeniedError(APIError):
    """403."""


class NotFoundError(APIError):
    """404: no such model or place."""


class CannotResumeError(NotFoundError):
    """404: nothing goes on where the stream broke; the masters do not share a secret, or it was not this client's."""


class UnprocessableEntityError(APIError):
    """422: another request runs under this idempotency key."""


class RateLimitError(APIError):
    """429: too much is waiting."""


class ServerError(APIError):
    """500 and above."""


_CLASSES: dict[int, type[APIError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}
# An error in mid-stream has no status of its own.
_STATUS_OF_TYPE = {
    "authentication_error": 401,
    "permission_error": 403,
    "rate_limit_error": 429,
    "server_error": 500,
    "service_unavailable": 503,
    "timeout_error": 504,
}
_SHOWN_CHARS = 500


def make_api_error(status: int, message: str, **details: Any) -> APIError:
    if details.get("code") == "cannot_resume":
        return CannotResumeError(message, status=status, **details)
    kind = _CLASSES.get(status, ServerError if status >= 500 else APIError)
    return kind(message, status=status, **details)


def api_error_of(error: Any, status: int | None = None, **details: Any) -> APIError:
    """Of the `error` object of a body or an event."""
    fields = error if isinstance(error, dict) else {"message": str(error)}

    def text(name: str) -> str | None:
        value = fields.get(name)
        return None if value is None else str(value)[:_SHOWN_CHARS]

    if status is None:
        status = _STATUS_OF_TYPE.get(text("type") or "", 400)
    message = text("message") or f"the server answered {status}"
    return make_api_error(status, message, type=text("type"), code=text("code"), param=text("param"), **details)


def api_error_of_body(body: bytes, status: int, **details: Any) -> APIError:
    """Of a whole reply; one that is not Fathom's, such as a proxy's page, is quoted."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict) and "error" in parsed:
        return api_error_of(parsed["error"], status, **details)
    shown = " ".join(body[: 4 * _SHOWN_CHARS].decode("utf-8", "replace").split())[:_SHOWN_CHARS]
    return make_api_error(status, shown or f"the server answered {status}", **details)

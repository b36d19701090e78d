"""Which master to try when, and when to give up: for one request of any protocol. Pure but for the clock."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ._clock import Clock
from ._errors import APIError, ConnectionFailed, DeadlineExceeded
from ._options import Policy

log = logging.getLogger("fathom_client")


class Masters:
    """The masters of a client, in the caller's order; the one that answered last is asked first. Any thread."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.preferred = 0


@dataclass(frozen=True)
class Turn:
    """Try this master after waiting so long."""

    master: int
    name: str
    wait: float
    left: float
    """Seconds until the deadline, once the wait is over."""
    number: int
    """0 for the first one."""


class Attempts:
    """The tries of one request. `next` before each; then `answered`, `broke` or `refused`, `progressed`."""

    def __init__(
        self, masters: Masters, policy: Policy, clock: Clock, rng: random.Random, deadline: float | None
    ) -> None:
        self._masters = masters
        self._policy = policy
        self._clock = clock
        self._rng = rng
        self._limit = policy.deadline if deadline is None else deadline
        self._deadline: float | None = None  # from the first try on
        self._heard_at = 0.0
        self._not_before: list[float] = [0.0] * len(masters.names)
        self._master = masters.preferred
        self._failures = 0  # since something came last
        self._last_error: Exception | None = None
        self.count = 0

    def left(self) -> float:
        return self._limit if self._deadline is None else self._deadline - self._clock.monotonic()

    def check_deadline(self) -> None:
        if self.left() <= 0:
            raise DeadlineExceeded("the deadline has passed") from self._last_error

    def next(self) -> Turn:
        now = self._clock.monotonic()
        if self._deadline is None:
            self._deadline = now + self._limit
            self._heard_at = now
            self._not_before = [now] * len(self._not_before)
        self.check_deadline()
        at = now
        if self._failures > 0:
            self._master, at = self._choose(now + self._pause())
        if at >= self._deadline:
            if isinstance(self._last_error, APIError):
                raise self._last_error
            raise DeadlineExceeded("the deadline comes before the next try") from self._last_error
        turn = Turn(self._master, self._masters.names[self._master], at - now, self._deadline - at, self.count)
        self.count += 1
        return turn

    def answered(self) -> None:
        """It accepted the request."""
        self._heard_at = self._clock.monotonic()
        self._masters.preferred = self._master

    def progressed(self) -> None:
        """Something of the answer came."""
        self._heard_at = self._clock.monotonic()
        self._failures = 0

    def broke(self, error: Exception) -> None:
        """The connection did, or there was none. Raises when that is the end."""
        self._failures += 1
        self._last_error = error
        self.check_deadline()
        silent_for = self._clock.monotonic() - self._heard_at
        if silent_for > self._policy.patience:
            raise ConnectionFailed(f"no master has answered for {silent_for:.0f} s; the last: {_say(error)}") from error
        log.info("%s: %s; going on", self._masters.names[self._master], _say(error))

    def refused(self, error: APIError) -> None:
        """The server said no. Raises what it said when another try would not change it."""
        self._heard_at = self._clock.monotonic()
        if not may_pass(error):
            raise error
        self._failures += 1
        self._last_error = error
        if error.retry_after is not None:
            self._not_before[self._master] = self._clock.monotonic() + error.retry_after
        log.info("%s: %s; going on", self._masters.names[self._master], error)

    def _pause(self) -> float:
        longest = min(self._policy.backoff_max, self._policy.backoff * 2.0 ** min(self._failures - 1, 30))
        return self._rng.uniform(0, longest)

    def _choose(self, earliest: float) -> tuple[int, float]:
        """The first one, from the next one on, that may be asked; else the one that may be asked first."""
        count = len(self._not_before)
        order = [(self._master + 1 + i) % count for i in range(count)]
        at = {master: max(earliest, self._not_before[master]) for master in order}
        chosen = min(order, key=lambda master: at[master])
        return chosen, at[chosen]


def may_pass(error: APIError) -> bool:
    """Whether the same request may fare better a moment later or elsewhere."""
    if error.status in (408, 502):
        return True
    if error.status == 429:
        return error.retry_after is not None
    if error.status == 503:
        # It is taken for the cause of workers that crashed: elsewhere it would crash others.
        return error.code != "worker_lost"
    # A gateway's. Fathom's own says that the request's time limit has passed.
    return error.status == 504 and error.type != "timeout_error"


def _say(error: Exception) -> str:
    return str(error) or type(error).__name__

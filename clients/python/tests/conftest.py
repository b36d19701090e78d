import random
import runpy
from pathlib import Path

import anyio
import pytest
from fake_master import FakeMaster

from fathom_client import AsyncClient, Client

runpy.run_path(str(Path(__file__).parents[1] / "protos.py"))["generate"]()
MESSAGES = [{"role": "user", "content": "Grüße, 鲸"}]
KEY = "sk-very-secret"


class FakeClock:
    """Stands still but for those who sleep."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def monotonic(self):
        return self.now

    def time(self):
        return 1_700_000_000 + self.now

    def sleep(self, seconds):
        if seconds:
            self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds):
        self.sleep(seconds)
        await anyio.sleep(0)


class Latest(random.Random):
    """Draws the longest pause."""

    def uniform(self, a, b):
        return b


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def masters():
    """masters(script, script...) starts a fake master for each."""
    running = []

    def start(*scripts):
        running.extend(FakeMaster(*(script if isinstance(script, list) else [script])) for script in scripts)
        return running

    yield start
    for master in running:
        master.close()


class Asker:
    """One way for all clients: a whole answer of a stream or of a call."""

    def __init__(self, kind, clock):
        self.kind = kind
        self.clock = clock

    def _options(self, options):
        return {"api_key": KEY, "clock": self.clock, "rng": Latest()} | options

    def __call__(self, masters, stream=True, seen=None, call=None, deadline=None, idempotency_key=None, **options):
        fields = {"model": "tiny", "temperature": 0, "deadline": deadline, "idempotency_key": idempotency_key}
        urls = [master if isinstance(master, str) else master.url for master in masters]
        call = call or {}
        if self.kind == "sync":
            with Client(urls, **self._options(options)) as client:
                if not stream:
                    return client.chat(MESSAGES, **fields, **call)
                with client.chat(MESSAGES, stream=True, **fields, **call) as deltas:
                    if seen is not None:
                        seen.append(deltas)
                    return deltas.collect()

        async def ask():
            async with AsyncClient(urls, **self._options(options)) as client:
                if not stream:
                    return await client.chat(MESSAGES, **fields, **call)
                async with client.chat(MESSAGES, stream=True, **fields, **call) as deltas:
                    if seen is not None:
                        seen.append(deltas)
                    return await deltas.collect()

        return anyio.run(ask, backend=self.kind)

    def leave_after(self, masters, count, **options):
        """Takes so many deltas and leaves."""
        urls = [master.url for master in masters]
        fields = {"model": "tiny", "stream": True, "temperature": 0}
        if self.kind == "sync":
            with Client(urls, **self._options(options)) as client:
                deltas = client.chat(MESSAGES, **fields)
                taken = [next(deltas) for _ in range(count)]
                deltas.close()
                return taken

        async def ask():
            client = AsyncClient(urls, **self._options(options))
            async with client, client.chat(MESSAGES, **fields) as deltas:
                return [await deltas.__anext__() for _ in range(count)]

        return anyio.run(ask, backend=self.kind)


@pytest.fixture(params=["sync", "asyncio", "trio"])
def ask(request, clock):
    return Asker(request.param, clock)

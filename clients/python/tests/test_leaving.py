"""Who leaves a stream on purpose ends the work at the server, which would hold it otherwise."""

import time

import anyio
import pytest
from conftest import KEY, MESSAGES
from fake_master import EVENTS, drop, reset, whole

from fathom_client import AsyncClient, Client, Policy


def some(count, closed):
    def behave(wire, request):
        wire.head()
        for one in EVENTS[:count]:
            wire.chunk(one)
        closed.append(wire.wait_closed())

    return behave


def take_over(closed):
    """What a claimed stream says first, and that its new client leaves at once."""

    def behave(wire, request):
        wire.head()
        closed.append(wire.wait_closed())

    return behave


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_leaving_takes_the_stream_over_without_a_hold_and_drops_it(ask, masters):
    closed = []
    (master,) = masters([some(3, closed), take_over(closed)])
    taken = ask.leave_after([master], 2)
    assert [delta.text for delta in taken] == ["He", "llo, "]
    wait_for(lambda: closed == [True, True])
    begun, release = master.requests
    assert release.body == begun.body
    assert release.headers["last-event-id"] == "e2"
    assert release.headers["idempotency-key"] == begun.headers["idempotency-key"]
    assert release.headers["x-stainless-retry-count"] == "1"
    assert release.headers["authorization"] == f"Bearer {KEY}"
    assert "x-fathom-resume" not in release.headers


def test_without_a_hold_closing_is_enough(ask, masters):
    closed = []
    (master,) = masters(some(3, closed))
    ask.leave_after([master], 2, policy=Policy(hold=None))
    wait_for(lambda: closed == [True])
    assert "x-fathom-resume" not in master.requests[0].headers
    assert len(master.requests) == 1


def test_the_hold_is_never_longer_than_the_deadline(ask, masters):
    (master,) = masters(whole)
    ask([master], policy=Policy(hold=30), deadline=9)
    ask([master], policy=Policy(hold=30))
    assert [r.headers["x-fathom-resume"] for r in master.requests] == ["10", "30"]


def test_leaving_after_the_last_delta_is_no_leaving(ask, masters):
    (master,) = masters(whole)
    ask.leave_after([master], 8)
    assert len(master.requests) == 1


@pytest.mark.parametrize("behave", [drop, reset], ids=["drop", "reset"])
def test_a_server_that_hears_nothing_of_it(ask, masters, behave):
    (master,) = masters([some(3, []), behave])
    ask.leave_after([master], 2)
    assert len(master.requests) == 2, "once and no more"


def test_a_server_that_says_nothing_is_not_waited_for(ask, masters):
    closed = []

    def silent(wire, request):
        closed.append(wire.wait_closed())

    (master,) = masters([some(3, closed), silent])
    begin = time.monotonic()
    ask.leave_after([master], 2, policy=Policy(release=0.4))
    assert time.monotonic() - begin < 5
    wait_for(lambda: closed == [True, True])


def test_a_stream_that_is_let_go_of(masters):
    closed = []
    (master,) = masters([some(3, closed), take_over(closed)])
    with Client(master.url, api_key=KEY) as client:
        for _ in client.chat(MESSAGES, model="tiny", stream=True):
            break
        wait_for(lambda: closed == [True, True])


def test_closing_the_client_leaves_its_streams(masters):
    closed = []
    (master,) = masters([some(3, closed), take_over(closed)])
    with Client(master.url, api_key=KEY) as client:
        stream = client.chat(MESSAGES, model="tiny", stream=True)
        next(stream)
    wait_for(lambda: closed == [True, True])
    assert list(stream) == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_closing_the_asynchronous_client_leaves_its_streams(masters, backend):
    closed = []
    (master,) = masters([some(3, closed), take_over(closed)])

    async def ask():
        async with AsyncClient(master.url, api_key=KEY) as client:
            stream = client.chat(MESSAGES, model="tiny", stream=True)
            await stream.__anext__()
        wait_for(lambda: closed == [True, True])
        assert [delta async for delta in stream] == []

    anyio.run(ask, backend=backend)


def test_a_stream_that_nobody_reads_asks_for_nothing(masters):
    (master,) = masters(whole)
    with Client(master.url, api_key=KEY) as client:
        client.chat(MESSAGES, model="tiny", stream=True).close()
    assert master.requests == []

"""Events from bytes, however they are cut."""

import random

import pytest

from fathom_client import ProtocolError
from fathom_client._sse import SseDecoder, SseEvent

STREAM = (
    "\ufeffid: 1\ndata: a\n\n"
    ": comment\n\n"
    "id:2\r\ndata:b\r\ndata:  c\r\n\r\n"
    "event: x\rdata: 鲸 🐋\r\r"
    "id: 4\nretry: 5\nnonsense\ndata\n\n"
    "id: bad\0id\ndata: d\n\n"
    "id\ndata: e\n\n"
    "data: never ended\n"
).encode()
EVENTS = [
    SseEvent("a", "1"),
    SseEvent("b\n c", "2"),
    SseEvent("鲸 🐋", None),
    SseEvent("", "4"),
    SseEvent("d", None),
    SseEvent("e", ""),
]


def decode(pieces, **options):
    decoder = SseDecoder(**options)
    return [event for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_pieces_change_nothing(size):
    assert decode(STREAM[i : i + size] for i in range(0, len(STREAM), size)) == EVENTS


def test_pieces_of_any_size_change_nothing():
    rng = random.Random(1)
    for _ in range(300):
        cuts = sorted(rng.randrange(len(STREAM) + 1) for _ in range(rng.randrange(12)))
        pieces = [STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)])]
        assert decode(pieces) == EVENTS


def test_bounds():
    fits = b"data: " + b"x" * 94 + b"\n\n"
    assert len(decode([fits], event_bytes_max=100)) == 1
    for too_much in (b"data: " + b"x" * 95, b"data: " + b"x" * 50 + b"\ndata: " + b"x" * 50, b":" + b"x" * 100):
        with pytest.raises(ProtocolError):
            decode([too_much], event_bytes_max=100)
        with pytest.raises(ProtocolError):
            decode([bytes([b]) for b in too_much], event_bytes_max=100)


def test_a_long_stream_is_no_long_event():
    assert len(decode([b": ping\n\ndata: x\n\n" * 1000], event_bytes_max=100)) == 1000


def test_bytes_that_are_no_text():
    with pytest.raises(ProtocolError):
        decode([b"data: \xff\n\n"])

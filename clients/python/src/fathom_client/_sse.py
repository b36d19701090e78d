"""Server-sent events from bytes, as the WHATWG's standard reads them, cut anywhere. Bounded; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ._errors import ProtocolError

EVENT_BYTES_MAX = 8 << 20
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"[\r\n]")


@dataclass(frozen=True)
class SseEvent:
    data: str
    id: str | None
    """None where this event has none, whatever came before it."""


class SseDecoder:
    """Give it all bytes of one connection in order. What is not ended by an empty line is no event and is dropped."""

    def __init__(self, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._max = event_bytes_max
        self._begun = False
        self._line = bytearray()  # what there is of it so far
        self._after_cr = False
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._id: bytes | None = None

    def feed(self, piece: bytes) -> Iterator[SseEvent]:
        start = 0
        if self._after_cr and piece:
            start = piece.startswith(b"\n")
            self._after_cr = False
        while start < len(piece):
            found = _LINE_END.search(piece, start)
            if found is None:
                self._keep(piece[start:])
                return
            self._keep(piece[start : found.start()])
            start = found.end()
            if found.group() == b"\r":
                if start == len(piece):
                    self._after_cr = True
                elif piece[start] == 0x0A:
                    start += 1
            line = bytes(self._line)
            self._line.clear()
            event = self._take(line)
            if event is not None:
                yield event

    def _keep(self, part: bytes) -> None:
        self._line += part
        if len(self._line) + self._data_bytes > self._max:
            raise ProtocolError(f"an event of the stream has more than {self._max} bytes")

    def _take(self, line: bytes) -> SseEvent | None:
        if not self._begun:
            self._begun = True
            if line.startswith(_BOM):
                line = line[len(_BOM) :]
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
        elif name == b"id" and b"\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> SseEvent | None:
        data, event_id = self._data, self._id
        self._data, self._data_bytes, self._id = [], 0, None
        if not data:
            return None
        try:
            return SseEvent(b"\n".join(data).decode(), None if event_id is None else event_id.decode())
        except UnicodeDecodeError:
            raise ProtocolError("an event of the stream is not UTF-8") from None

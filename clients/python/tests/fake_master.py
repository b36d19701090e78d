"""A master that breaks as a test says: real sockets, scripted connections, no Fathom."""

import contextlib
import json
import socket
import struct
import threading

# Characters of one to four bytes; each is an event.
PIECES = ["He", "llo, ", "wörld ", "鲸鱼", " 🐋", "!"]
TEXT = "".join(PIECES)
USAGE = {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 1}}
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "tiny"}


def event(chunk, event_id=None):
    name = f"id: {event_id}\n" if event_id else ""
    return f"{name}data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()


def chunk_of(delta, finish=None):
    return HEAD | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], "usage": None}


EVENTS = [
    event(chunk_of({"role": "assistant", "content": ""}), "e0"),
    *(event(chunk_of({"content": piece}), f"e{i + 1}") for i, piece in enumerate(PIECES)),
    event(chunk_of({}, "stop"), f"e{len(PIECES) + 1}"),
    event(HEAD | {"choices": [], "usage": USAGE}, f"e{len(PIECES) + 2}"),
]
DONE = b"data: [DONE]\n\n"
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 7,
    "model": "tiny",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": USAGE,
}


def error_body(**fields):
    return {"error": {"message": "no", "type": None, "param": None, "code": None} | fields}


class Request:
    def __init__(self, head, body):
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.body = body


class Wire:
    """The server's end of one connection."""

    def __init__(self, connection):
        self._connection = connection

    def send(self, data):
        self._connection.sendall(data)

    def head(self, status=200, kind="text/event-stream; charset=utf-8", chunked=True, **headers):
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", "Connection: close", "x-request-id: r1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines += ["Transfer-Encoding: chunked"] if chunked else []
        self.send("\r\n".join([*lines, "", ""]).encode())

    def chunk(self, data):
        self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def end(self):
        self.send(b"0\r\n\r\n")

    def reset(self):
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def wait_closed(self, limit_s=10):
        """True once the client has closed its end."""
        self._connection.settimeout(limit_s)
        try:
            return self._connection.recv(1) == b""
        except ConnectionResetError:
            return True
        except OSError:
            return False


class FakeMaster:
    """Serves one connection after another by `script`, a list of functions of (wire, request); the last one goes on."""

    def __init__(self, *script):
        self.script = list(script)
        self.requests = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                more = connection.recv(65536)
                if not more:
                    return
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            request = Request(head, b"")
            while len(body) < int(request.headers.get("content-length", 0)):
                body += connection.recv(65536)
            request.body = body
            with self._lock:
                self.requests.append(request)
                behave = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                behave(Wire(connection), request)

    def close(self):
        # Wakes accept, which closing alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def rest_of(request):
    """The events that a client with this Last-Event-ID has not had."""
    last = request.headers.get("last-event-id")
    return EVENTS if last is None else EVENTS[int(last[1:]) + 1 :]


def whole(wire, request):
    """All that is left, to its end."""
    if not json.loads(request.body).get("stream"):
        wire.head(kind="application/json", chunked=False)
        return wire.send(json.dumps(ANSWER).encode())
    wire.head()
    for one in rest_of(request):
        wire.chunk(one)
    wire.chunk(DONE)
    wire.end()


def until(count, tail=b"", how="close", chunked=True):
    """So many events, then bytes of the next one, then the connection breaks."""

    def behave(wire, request):
        wire.head(chunked=chunked)
        send = wire.chunk if chunked else wire.send
        for one in rest_of(request)[:count]:
            send(one)
        if tail:
            send(tail)
        if how == "reset":
            wire.reset()
        elif how == "end":
            wire.end()

    return behave


def refuse(status, body=None, **headers):
    def behave(wire, request):
        wire.head(status=status, kind="application/json", chunked=False, **headers)
        wire.send(json.dumps(error_body() if body is None else body).encode())

    return behave


def drop(wire, request):
    """Ends without a word."""


def reset(wire, request):
    wire.reset()

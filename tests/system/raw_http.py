"""HTTP written by hand: what no library would send, and answers as the bytes that came."""

import contextlib
import json
import re
import socket
from pathlib import Path

from harness import KEY

ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


def connect(target, receive_buffer=None, port="http"):
    made = socket.socket()
    if receive_buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    made.settimeout(20)
    made.connect(("127.0.0.1", target.master.ports()[port]))
    return made


def head(path="/v1/chat/completions", method="POST", *lines):
    """Without the empty line that ends it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {KEY}", *lines]
    return "\r\n".join(lines).encode() + b"\r\n"


def post(path, body, *lines):
    """A whole request with a JSON body."""
    body = json.dumps(body).encode()
    return head(path, "POST", "Content-Type: application/json", f"Content-Length: {len(body)}", *lines) + b"\r\n" + body


def read_all(connection):
    """Until the server closes, or is silent for the connection's time limit."""
    out = b""
    with contextlib.suppress(OSError):
        while piece := connection.recv(65536):
            out += piece
    return out


def statuses(answers):
    return [int(status) for status in ANSWER.findall(answers)]


def error_of(answer):
    """The `error` member of a whole answer's body: an object for OpenAI, a text for KServe."""
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]


def memory_of(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def descriptors_of(process):
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))

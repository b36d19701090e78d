"""The logs of real processes: one line a happening, and nobody waits for whoever reads them."""

import json
import os
import pty
import signal
import socket
import subprocess
import time

import httpx
import pytest
from conservation import scrape
from harness import BIN, KEY, TINY, Master, SimWorker, clean_environment, link_flags, wait_for

# A second for the log, and what an end takes without it.
END_LIMIT_S = 8
HEADERS = {"Authorization": f"Bearer {KEY}"}
DROPPED = "log lines were dropped"


class PipeLog:
    """Takes the place of the file into which a process of the harness logs: a pipe, read when the test says so."""

    def __init__(self, folder, name):
        path = folder / f"{name}.log"
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.text = b""

    def fill(self):
        """Until it takes no more."""
        for size in (4096, 1):
            try:
                while True:
                    os.write(self.fd, b"." * (size - 1) + b"\n")
            except BlockingIOError:
                pass

    def read(self, wanted):
        """The log's lines up to the first with `wanted` in its message."""
        lines = []

        def found():
            try:
                self.text += os.read(self.fd, 1 << 20)
            except BlockingIOError:
                return False
            *whole, self.text = self.text.split(b"\n")
            lines.extend(json.loads(line) for line in whole if line.startswith(b"{"))
            return any(wanted in line["message"] for line in lines)

        wait_for(found, f"'{wanted}' in the log", 20)
        return lines


@pytest.fixture
def piped(tmp_path):
    """A master and a worker, and the pipes of their logs."""
    logs = [PipeLog(tmp_path, name) for name in ("master", "sim")]
    with Master(tmp_path, extra=["--log-level", "trace"]) as master:
        flags = ["--log-level", "trace"]
        with SimWorker(tmp_path, master.link_address, "free,step_us=1000", extra=flags) as worker:
            worker.wait_ready()
            master.wait_ready()
            yield master, worker, *logs
    for log in logs:
        os.close(log.fd)


def chat(master):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "What is Fathom?"}], "max_tokens": 8}
    return httpx.post(f"{master.url}/v1/chat/completions", json=body, headers=HEADERS, timeout=10).status_code


def flood(master, requests):
    """Cheap requests, each of which is a line of the access log."""
    with httpx.Client(timeout=10, headers=HEADERS) as client:
        for _ in range(requests):
            assert client.get(f"{master.url}/v1/models").status_code == 200


def dropped(process):
    return scrape(f"http://127.0.0.1:{process.ports()['metrics']}")("fathom_log_lines_dropped_total")


def end(process):
    started = time.monotonic()
    process.signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert time.monotonic() - started < END_LIMIT_S


def test_a_log_that_nobody_reads_stops_nothing(piped):
    master, worker, master_log, worker_log = piped
    for log in (master_log, worker_log):
        log.fill()
    assert chat(master) == 200
    # Far longer than a silence that is taken for a death, and more lines than may wait.
    started = time.monotonic()
    while dropped(master) == 0 or time.monotonic() - started < 3:
        assert time.monotonic() - started < 60
        flood(master, 100)
        assert chat(master) == 200
    assert scrape(f"http://127.0.0.1:{worker.ports()['metrics']}")("fathom_worker_masters_linked") == 1

    lines = master_log.read(DROPPED)
    said = next(line for line in lines if line["message"] == DROPPED)
    assert said["log.level"] == "warn" and said["labels.lines"] == dropped(master) > 0
    assert said["service.name"] == "fathom-master" and said["log.logger"] == "log"
    times = [line["@timestamp"] for line in lines]
    assert times == sorted(times)
    assert not any(line["message"] == "worker lost" for line in lines)
    # It goes on as before.
    assert chat(master) == 200
    assert master_log.read("request")

    for log in (master_log, worker_log):
        log.fill()
    assert chat(master) == 200
    end(worker)
    end(master)


def test_who_ends_as_told_is_no_warning(tmp_path):
    with Master(tmp_path) as master:
        ports = master.ports()
        with SimWorker(tmp_path, master.link_address, "free", name="first") as worker:
            worker.wait_ready()
            master.wait_ready()
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0
            wait_for(lambda: "worker left as it said it would" in master.log(), "the worker's end in the log")
        with SimWorker(tmp_path, master.link_address, "free", name="second") as worker:
            worker.wait_ready()
            master.wait_ready()
            master.signal(signal.SIGTERM)
            assert master.wait() == 0
        lines = [json.loads(line) for line in master.log().splitlines()]
    assert {line["log.level"] for line in lines} == {"info"}, lines
    ended = next(line for line in lines if line["message"] == "link to worker ended")
    assert ended["labels.worker"] == "second" and ended["error.message"] == "the master stops"
    listening = next(line for line in lines if line["message"] == "listening")
    assert all(listening[f"labels.{name}_port"] == port for name, port in ports.items())


def starts_that_fail(folder, taken):
    wrong = folder / "wrong.yaml"
    wrong.write_text("logging: {level: info, colour: red}\n")
    master = ["fathom-master", "--open", "--model", TINY, *link_flags("master"), "--metrics-port", "-1"]
    worker = ["fathom-sim-worker", "--master", "127.0.0.1:1", "--model", TINY, *link_flags("worker")]
    return {
        "colour": [["fathom-master", "--config", wrong], ["fathom-sim-worker", "--config", wrong]],
        "--nonsense": [["fathom-master", "--nonsense"], ["fathom-sim-worker", "--nonsense"]],
        "loud": [[*master, "--log-level", "loud"], [*worker, "--log-level", "loud"]],
        str(taken): [[*master, "--http-port", taken, "--link-port", "0"], [*worker, "--metrics-port", taken]],
    }


def test_a_start_that_fails_is_one_line_of_the_log(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        for said, starts in starts_that_fail(tmp_path, other.getsockname()[1]).items():
            for program, *flags in starts:
                argv = [str(part) for part in (BIN / program, *flags)]
                done = subprocess.run(argv, capture_output=True, text=True, timeout=20, env=clean_environment())
                assert done.returncode not in (0, 1) and not done.stdout
                lines = [json.loads(line) for line in done.stderr.splitlines()]
                errors = [line for line in lines if line["log.level"] == "error"]
                assert [line["message"] for line in errors] == ["cannot start"], done.stderr
                assert said in errors[0]["error.message"], errors
                assert errors[0]["service.name"] == program.replace("-sim", "")


def test_people_at_a_terminal_are_told_in_plain_text(tmp_path):
    wrong = tmp_path / "missing.yaml"
    for program in ("fathom-master", "fathom-sim-worker"):
        ours, theirs = pty.openpty()
        done = subprocess.run([BIN / program, "--config", wrong], stderr=theirs, timeout=20, env=clean_environment())
        os.close(theirs)
        text = os.read(ours, 65536).decode()
        os.close(ours)
        assert done.returncode != 0
        assert text.startswith(program.replace("-sim", "") + ": ") and str(wrong) in text and "{" not in text

"""Real processes for the tests: a master, workers, the `fathom` command. Whatever a test does, nothing outlives it."""

import atexit
import ctypes
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("FATHOM_BIN", ROOT / "build" / "release" / "bin"))
TINY = ROOT / "models" / "tiny"
EVAL_DATA = TINY / "eval.jsonl"
KEY = "fathom-test-key"
START_LIMIT_S = 60
# Under a sanitizer (scripts/test.sh says so) everything is some twenty times slower.
SANITIZED = "FATHOM_TEST_SANITIZED" in os.environ

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def _die_with_parent():
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def clean_environment():
    """Ours without what would lead a process to another cluster."""
    return {k: v for k, v in os.environ.items() if not k.startswith("FATHOM_") and k != "MASTER_NODE"}


def sample(count):
    """How many of `count` cases a long test takes: under a sanitizer a tenth, which meets the same code."""
    return count // 10 if SANITIZED else count


@functools.cache
def certificates():
    """A folder of certificates, as `fathom cert` makes it, for all clusters of this run."""
    folder = Path(tempfile.mkdtemp(prefix="fathom-certificates-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([BIN / "fathom", "cert", folder], check=True, capture_output=True, env=clean_environment())
    return folder


def link_flags(role, folder=None):
    """What makes a "master" or a "worker" show its certificate."""
    folder = Path(folder or certificates())
    own = folder / role
    return ["--link-ca", folder / "ca.pem", "--link-cert", own / "cert.pem", "--link-key", own / "key.pem"]


def model_flags(model, name):
    """No model: what is served is the catalogue's."""
    return [] if model is None else ["--model", model, "--model-name", name]


def wait_for(condition, what, limit_s=START_LIMIT_S):
    """The first true value of `condition()`; fails loudly when there is none in time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what}: not within {limit_s} s")


def is_alive(pid):
    """Whether the process runs; a zombie that nobody reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def children_of(pid):
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


class Process:
    """A program with its output in a file. A context manager that kills it at the end."""

    def __init__(self, name, argv, folder, env=None):
        self.name = name
        self.log_path = Path(folder) / f"{name}.log"
        self._log = self.log_path.open("wb")
        self.started_at = time.monotonic()
        self.popen = subprocess.Popen(
            [str(a) for a in argv],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**clean_environment(), **(env or {})},
            preexec_fn=_die_with_parent,
        )

    @property
    def pid(self):
        return self.popen.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, limit_s=START_LIMIT_S):
        return self.popen.wait(limit_s)

    def check_alive(self):
        code = self.popen.poll()
        assert code is None, f"{self.name} ended with {code}; its log:\n{self.log()[-4000:]}"

    def close(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Server(Process):
    """A master or a worker: it writes the ports it bound into a file and answers /ready."""

    def __init__(self, name, program, arguments, folder, ready_port, env=None, programs=BIN):
        self.ports_path = Path(folder) / f"{name}.ports.json"
        self.ports_path.unlink(missing_ok=True)
        self._ready_port = ready_port
        super().__init__(name, [Path(programs) / program, *arguments, "--ports-file", self.ports_path], folder, env)

    def ports(self):
        def read():
            self.check_alive()
            return self.ports_path.exists() and json.loads(self.ports_path.read_text())

        return wait_for(read, f"ports of {self.name}")

    def is_ready(self):
        self.check_alive()
        try:
            return httpx.get(f"http://127.0.0.1:{self.ports()[self._ready_port]}/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self):
        """Returns the seconds since the start."""
        wait_for(self.is_ready, f"{self.name} ready")
        return time.monotonic() - self.started_at


class Master(Server):
    def __init__(
        self, folder, name="master", model=TINY, model_name="tiny", ports=None, extra=(), more_keys="", programs=BIN
    ):
        keys = Path(folder) / "keys"
        # Another master may read the same file just now.
        written = Path(folder) / f"keys-{name}"
        written.write_text(f"test:{hashlib.sha256(KEY.encode()).hexdigest()}:admin\n{more_keys}")
        written.replace(keys)
        arguments = ["--bind", "127.0.0.1", *model_flags(model, model_name)]
        for port in ("http", "grpc", "admin", "link", "metrics"):
            arguments += [f"--{port}-port", (ports or {}).get(port, 0)]
        if "--open" not in extra:
            arguments += ["--keys-file", keys]
        if "--link-ca" not in extra and "--insecure-link" not in extra:
            arguments += link_flags("master")
        super().__init__(name, "fathom-master", [*arguments, *extra], folder, "http", programs=programs)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.ports()['http']}"

    @property
    def grpc_address(self):
        return f"127.0.0.1:{self.ports()['grpc']}"

    @property
    def link_address(self):
        return f"127.0.0.1:{self.ports()['link']}"


class Worker(Server):
    def __init__(self, folder, link_address, name="worker", model=TINY, model_name="tiny", extra=()):
        arguments = ["--master", link_address, *model_flags(model, model_name), "--id", name]
        arguments += ["--metrics-port", 0, "--threads", 1, "--kv-cache-bytes", 256 << 20, "--exit-with-parent"]
        if "--link-ca" not in extra and "--insecure-link" not in extra:
            arguments += link_flags("worker")
        super().__init__(name, "fathom-worker", [*arguments, *extra], folder, "metrics")


class SimWorker(Server):
    """The real engine over a device that only takes time; its tokens are a function of the prompt."""

    def __init__(
        self, folder, link_address, time_model, name="sim", kv_bytes=256 << 20, extra=(), model_name="tiny", model=TINY,
        programs=BIN,
    ):  # fmt: skip
        arguments = ["--master", link_address, *model_flags(model, model_name), "--id", name]
        arguments += ["--metrics-port", 0, "--kv-cache-bytes", kv_bytes, "--time-model", time_model]
        arguments += link_flags("worker")
        arguments += [*extra, "--exit-with-parent"]
        super().__init__(name, "fathom-sim-worker", arguments, folder, "metrics", programs=programs)


class Cluster:
    """One master, one worker, ready to serve."""

    def __init__(self, folder, worker_extra=(), master_extra=()):
        self.folder = Path(folder)
        self.worker_extra = worker_extra
        self.master = Master(folder, extra=master_extra)
        try:
            self.worker = Worker(folder, self.master.link_address, extra=worker_extra)
            self.worker_ready_s = self.worker.wait_ready()
            self.master_ready_s = self.master.wait_ready()
        except BaseException:
            self.close()
            raise

    @property
    def url(self):
        return self.master.url

    def headers(self):
        return {"Authorization": f"Bearer {KEY}"}

    def restart_worker(self):
        self.worker.close()
        self.worker = Worker(self.folder, self.master.link_address, extra=self.worker_extra)
        self.worker.wait_ready()
        self.master.wait_ready()

    def close(self):
        for process in (getattr(self, "worker", None), self.master):
            if process is not None:
                process.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Up(Process):
    """`fathom up` in a state folder of its own, on free ports."""

    def __init__(self, folder, *extra):
        self.state = Path(folder) / "state"
        argv = [BIN / "fathom", "up", "--port", 0, "--grpc-port", 0, "--state-dir", self.state, *extra]
        super().__init__("up", argv, folder)

    def info(self):
        def read():
            self.check_alive()
            path = self.state / "cluster.json"
            info = json.loads(path.read_text()) if path.exists() else {}
            # Another pid is that of a cluster that was killed in this folder.
            return info.get("pid") == self.pid and info

        return wait_for(read, "fathom up")

    def key(self):
        return (self.state / "key").read_text().strip()

    def child(self, program):
        """Process ids of the running children that execute `program`."""
        found = []
        for pid in children_of(self.pid):
            try:
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == program:
                    found.append(pid)
            except OSError:
                continue
        return found


def access_lines(master, request_id):
    """What the access log says of the requests with this id."""
    return [line for line in master.log().splitlines() if f'"http.request.id":"{request_id}"' in line]


def fathom(*arguments, stdin="", env=None, limit_s=START_LIMIT_S):
    """Runs `fathom ARGUMENTS` to its end."""
    return subprocess.run(
        [str(BIN / "fathom"), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=limit_s,
        env={**clean_environment(), **(env or {})},
        preexec_fn=_die_with_parent,
    )


def examples(task=None):
    with EVAL_DATA.open(encoding="utf-8") as lines:
        return [e for e in map(json.loads, lines) if task in (None, e["task"])]

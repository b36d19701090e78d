"""The programs of examples/ survive their master as they say, and say what went wrong otherwise."""

import fcntl
import os
import shutil
import signal
import subprocess
import time

import pytest
from harness import BIN, KEY, ROOT, TINY, clean_environment, fathom, wait_for
from pairs import Pair, sim_worker
from test_condemned import deaths, poisoned_worker

QUESTION = 'Tell me a "story"\nabout 鲸.'
GO = ROOT / "examples" / "go"
GO_HOME = ROOT / ".cache" / "go-example"


@pytest.fixture(scope="session")
def go_program(tmp_path_factory):
    """Built without the network, so that it fails for its own reasons only."""
    if shutil.which("go") is None:
        pytest.skip("there is no Go here")
    if not (GO_HOME / ".fetched").exists():
        pytest.skip("the modules of examples/go are not here: scripts/setup.sh --go fetches them")
    program = tmp_path_factory.mktemp("go") / "generate"
    environment = os.environ | {"GOPATH": str(GO_HOME), "GOCACHE": str(GO_HOME / "build")}
    environment |= {"GOPROXY": "off", "GOFLAGS": "-modcacherw"}
    with (GO_HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other processes of this run generate the same files
        done = subprocess.run([GO / "build.sh", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return program


@pytest.fixture(params=["cpp", "go"])
def program(request):
    return BIN / "fathom-example-generate" if request.param == "cpp" else request.getfixturevalue("go_program")


@pytest.fixture
def pair(program, tmp_path):
    pair = Pair(tmp_path, sim_worker)
    yield pair
    pair.close()


def start(program, masters, *more, key=KEY, **environment):
    addresses = ",".join(m if isinstance(m, str) else m.grpc_address for m in masters)
    return subprocess.Popen(
        [program, addresses, QUESTION, *more],
        env=clean_environment() | {"FATHOM_API_KEY": key} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # else communicate loses what was read ahead
    )


def begin(program, masters, max_tokens):
    """(process, what it has said so far)"""
    process, head = start(program, masters, max_tokens), b""
    while len(head) < 20:
        more = process.stdout.read(1000)
        assert more, process.communicate()
        head += more
    return process, head


def finish(process, head=b""):
    out, err = process.communicate(timeout=60)
    return process.returncode, head + out, err.decode()


# Building the Go program takes its time.
@pytest.mark.timeout(400)
@pytest.mark.parametrize("victims", ["master", "master and worker"])
def test_it_survives_its_master(program, pair, victims):
    code, expected, _ = finish(start(program, pair.masters[1:], "200"))
    assert code == 0 and len(expected) > 200
    process, head = begin(program, pair.masters, "200")
    (busy,) = [worker for worker in pair.workers if pair.running(worker)]
    pair.masters[0].signal(signal.SIGKILL)
    if "worker" in victims:
        busy.signal(signal.SIGKILL)
    code, out, err = finish(process, head)
    assert code == 0, err
    assert out == expected
    assert "going on" in err
    assert pair.resumed(pair.masters[1], "anew" if "worker" in victims else "worker") == 1


@pytest.mark.timeout(400)
def test_a_refusal_and_a_deadline(program, cluster):
    code, out, err = finish(start(program, [cluster.master], "5", key="wrong"))
    assert (code, out) == (1, b"")
    assert "going on" not in err and KEY not in err
    started = time.monotonic()
    code, out, err = finish(start(program, ["127.0.0.1:9", "127.0.0.1:19"], "5", FATHOM_TIMEOUT="2"))
    assert (code, out) == (1, b"")
    assert time.monotonic() - started < 10
    assert "no master has answered" in err
    code, out, _ = finish(start(program, ["127.0.0.1:9", cluster.master], "5"))
    assert code == 0 and len(out) > 1
    assert finish(start(program, [cluster.master], "5", "6"))[0] == 2


@pytest.mark.timeout(400)
def test_what_it_leaves_behind_ends_with_the_hold(program, pair):
    """It asks for ten seconds, so a program that is killed leaves work for no longer."""
    process, _ = begin(program, pair.masters, "1900")
    process.kill()
    finish(process)
    time.sleep(1)
    assert sum(map(pair.running, pair.workers)) == 1
    wait_for(lambda: sum(map(pair.running, pair.workers)) == 0, "the end of the hold", 12)


@pytest.mark.timeout(400)
def test_what_kills_its_workers_is_not_tried_elsewhere(program, tmp_path):
    token = fathom("tokenize", "--model", TINY, "story").stdout.split()[-1]
    pair = Pair(tmp_path, lambda *where: poisoned_worker(*where, token=token), workers=4)
    try:
        code, out, err = finish(start(program, pair.masters, "5"))
        assert (code, out) == (1, b"")
        assert "lost" in err and "going on" not in err
        wait_for(lambda: deaths(pair.workers) == 2, "the second death, which its worker told before")
        assert deaths(pair.workers) == 2
    finally:
        pair.close()

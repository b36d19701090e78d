"""What happens when processes die, hang up or are told to stop."""

import os
import signal
import threading

import grpc
import httpx
import openai
import pytest
from harness import KEY, Master, Worker, fathom, is_alive, wait_for

ABOUT = [{"role": "user", "content": "What is Fathom?"}]
ENDLESS = {"max_tokens": 3500, "extra_body": {"ignore_eos": True}}


def client_of(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60)


def ask(client, **options):
    return client.chat.completions.create(model="tiny", temperature=0, messages=ABOUT, **options)


def test_the_only_worker_killed_in_mid_stream(own_cluster):
    """The stream waits for a worker to come back and then ends as if nothing had been."""
    with client_of(own_cluster.url) as client:
        stream = ask(client, stream=True, **ENDLESS)
        chunks = [next(stream) for _ in range(5)]
        own_cluster.worker.signal(signal.SIGKILL)
        # Alive, but with nobody to do the work.
        wait_for(lambda: not own_cluster.master.is_ready(), "master notices")
        assert httpx.get(f"{own_cluster.url}/health").status_code == 200

        own_cluster.restart_worker()
        chunks += list(stream)
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
        assert ask(client).choices[0].message.content.startswith("Fathom is")


def test_a_stream_over_grpc_survives_its_worker_too(own_cluster, stubs):
    pb, services = stubs
    request = pb.GenerateRequest(
        model="tiny", text="Once", stop=pb.Stop(max_tokens=1500, ignore_eos=True), sampling=pb.Sampling(temperature=0)
    )
    with grpc.insecure_channel(own_cluster.master.grpc_address) as channel:
        call = services.InferenceStub(channel).Generate(request, metadata=(("authorization", f"Bearer {KEY}"),))
        answers = [next(call)]
        own_cluster.worker.signal(signal.SIGKILL)
        own_cluster.restart_worker()
        answers += list(call)
        assert sum(len(answer.token_ids) for answer in answers) == 1500
        assert answers[-1].usage.completion_tokens == 1500


def test_worker_redials_a_master_that_comes_back(own_cluster, tmp_path):
    ports = own_cluster.master.ports()
    own_cluster.master.signal(signal.SIGKILL)
    own_cluster.master.wait()
    own_cluster.master.close()
    own_cluster.master = Master(tmp_path, ports=ports)
    own_cluster.master.wait_ready()
    own_cluster.worker.check_alive()
    with client_of(own_cluster.url) as client:
        assert ask(client).choices[0].finish_reason == "stop"


def test_worker_waits_for_a_master_that_is_not_there_yet(tmp_path):
    with Master(tmp_path, name="first") as first:
        ports = first.ports()
    with Worker(tmp_path, f"127.0.0.1:{ports['link']}") as worker:
        worker.ports()
        assert not worker.is_ready()
        with Master(tmp_path, ports=ports) as master:
            master.wait_ready()
            worker.wait_ready()


def test_requests_without_worker_end_with_a_reason(tmp_path):
    with Master(tmp_path) as master, client_of(master.url) as client:
        assert httpx.get(f"{master.url}/ready").status_code == 503
        with pytest.raises(openai.APIError) as error:
            ask(client, extra_body={"timeout": 1})
        assert getattr(error.value, "status_code", 503) in (503, 504, 408)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain_finishes_running_work(own_cluster, number):
    with client_of(own_cluster.url) as client:
        stream = ask(client, stream=True, max_tokens=600, extra_body={"ignore_eos": True})
        next(stream)
        own_cluster.master.signal(number)
        finish = [c.choices[0].finish_reason for c in stream if c.choices][-1]
    assert finish == "length"
    assert own_cluster.master.wait() == 0
    own_cluster.worker.signal(number)
    assert own_cluster.worker.wait() == 0


def test_second_signal_does_not_wait(own_cluster):
    with client_of(own_cluster.url) as client:
        stream = ask(client, stream=True, **ENDLESS)
        next(stream)
        own_cluster.master.signal(signal.SIGTERM)
        # Two signals sent before the first is taken are one signal.
        wait_for(lambda: '"draining"' in own_cluster.master.log(), "the drain to begin")
        own_cluster.master.signal(signal.SIGTERM)
        own_cluster.master.wait(20)


def test_up_serves_and_drains_on_ctrl_c(start_up):
    up = start_up()
    info = up.info()
    assert (up.state.stat().st_mode & 0o777) == 0o700
    assert ((up.state / "key").stat().st_mode & 0o777) == 0o600
    assert up.key() not in (up.state / "keys").read_text()
    children = up.child("fathom-master") + up.child("fathom-worker")
    assert len(children) == 2
    with openai.OpenAI(base_url=f"{info['http']}/v1", api_key=up.key(), max_retries=0) as client:
        finished = []

        def run():
            finished.append(ask(client, max_tokens=500, extra_body={"ignore_eos": True}))

        thread = threading.Thread(target=run)
        thread.start()
        metrics = f"{info['http']}/metrics"
        wait_for(lambda: httpx.get(metrics).status_code == 200, "metrics")
        wait_for(lambda: _runs_something(info), "the request to run")
        up.signal(signal.SIGINT)
        thread.join(60)
    assert up.wait() == 0, up.log()
    assert finished and finished[0].usage.completion_tokens == 500
    wait_for(lambda: not any(map(is_alive, children)), "children gone")
    assert not (up.state / "cluster.json").exists()


def _runs_something(info):
    """Whether any gauge of running or waiting requests at the master is above 0."""
    for line in httpx.get(f"{info['http']}/metrics").text.splitlines():
        busy = line.startswith("fathom_") and ("running" in line or "in_flight" in line or "active" in line)
        if busy and float(line.rsplit(" ", 1)[1]) > 0:
            return True
    return False


def test_up_restarts_what_crashes(start_up):
    up = start_up()
    info = up.info()
    for program in ("fathom-worker", "fathom-master"):
        (pid,) = up.child(program)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda p=program, old=pid: up.child(p) not in ([], [old]), f"new {program}")
        wait_for(lambda: _ready(info), "ready again")
        answer = fathom("chat", "What is Fathom?", "--temperature", 0, "--state-dir", up.state)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.startswith("Fathom is")
    assert "starting it again" in up.log()


def _ready(info):
    try:
        return httpx.get(f"{info['http']}/ready").status_code == 200
    except httpx.HTTPError:
        return False


def test_up_killed_leaves_no_orphan(start_up):
    up = start_up("--workers", 2)
    up.info()
    children = up.child("fathom-master") + up.child("fathom-worker")
    assert len(children) == 3
    up.signal(signal.SIGKILL)
    up.wait()
    wait_for(lambda: not any(map(is_alive, children)), "children gone")
    # The lock went with it.
    again = start_up()
    again.info()
    again.signal(signal.SIGTERM)
    assert again.wait() == 0


def test_two_clusters_do_not_share_a_state_folder(start_up):
    up = start_up()
    up.info()
    second = fathom("up", "--port", 0, "--grpc-port", 0, "--state-dir", up.state)
    assert second.returncode == 1
    assert "already runs" in second.stderr
    assert str(up.pid) in second.stderr


def test_second_ctrl_c_stops_up_at_once(start_up):
    up = start_up()
    info = up.info()
    with openai.OpenAI(base_url=f"{info['http']}/v1", api_key=up.key(), max_retries=0) as client:
        stream = ask(client, stream=True, **ENDLESS)
        next(stream)
        children = up.child("fathom-master") + up.child("fathom-worker")
        up.signal(signal.SIGINT)
        wait_for(lambda: "stopping" in up.log(), "first Ctrl-C noticed")
        up.signal(signal.SIGINT)
        up.wait(20)
    wait_for(lambda: not any(map(is_alive, children)), "children gone")

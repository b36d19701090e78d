"""`fathom bench serve` against a real cluster and against the simulated worker."""

import json
import os
import pty
import signal
import subprocess
import time

import pytest
from conservation import check_conservation, wait_until_idle
from harness import BIN, EVAL_DATA, KEY, Master, Process, SimWorker, fathom, is_alive, wait_for

PROTOCOLS = ("openai-chat", "openai", "grpc")
LATENCIES = ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "sent_late_ms")
FIGURES = ("count", "mean", "p50", "p90", "p95", "p99", "max")


@pytest.fixture
def simulated(tmp_path):
    """simulated(time_model) starts a master and a simulated worker: (master, worker)."""
    running = []

    def start(time_model):
        master = Master(tmp_path)
        running.append(master)
        worker = SimWorker(tmp_path, master.link_address, time_model)
        running.append(worker)
        worker.wait_ready()
        master.wait_ready()
        return master, worker

    yield start
    for process in running:
        process.close()


def address(master, protocol):
    return ("--url", master.grpc_address if protocol == "grpc" else master.url, "--key", KEY, "--protocol", protocol)


def bench(master, protocol, tmp_path, *flags):
    report = tmp_path / "report.json"
    report.unlink(missing_ok=True)
    done = fathom("bench", "serve", *address(master, protocol), "--json", report, *flags)
    return done, json.loads(report.read_text()) if report.exists() else None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_counts_add_up_against_a_real_cluster(cluster, tmp_path, protocol):
    flags = ("--requests", 12, "--concurrency", 4, "--input-len", "8:24", "--output-len", 5, "--ignore-eos")
    done, report = bench(cluster.master, protocol, tmp_path, *flags, "--goodput", "ttft:60000,itl:60000,e2e:60000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["requests"] == {"ok": 12, "failed": 0, "errors": {}}
    assert report["output_tokens"] == 12 * 5
    assert report["good_requests"] == 12
    if protocol != "openai-chat":  # a template adds its own
        assert 12 * 8 <= report["input_tokens"] <= 12 * 24
    assert 1 <= report["peak_concurrent"] <= 4
    assert report["request_throughput"] == pytest.approx(12 / report["duration_s"])
    assert report["output_throughput"] == pytest.approx(60 / report["duration_s"])
    for latency in LATENCIES:
        figures = [report[latency][f] for f in FIGURES]
        assert figures[0] > 0
        assert figures[2:] == sorted(figures[2:])
    assert report["ttft_ms"]["max"] <= report["e2e_ms"]["max"]
    assert "12 ok, 0 failed" in done.stdout and "TTFT" in done.stdout
    assert done.stderr == ""


def test_dataset_and_whole_answers(cluster, tmp_path):
    flags = ("--dataset", EVAL_DATA, "--requests", 10, "--output-len", 8)
    streamed = bench(cluster.master, "openai-chat", tmp_path, *flags)[1]
    whole = bench(cluster.master, "openai-chat", tmp_path, *flags, "--unary")[1]
    over_grpc = bench(cluster.master, "grpc", tmp_path, *flags)[1]
    counts = [(r["requests"]["ok"], r["input_tokens"], r["output_tokens"]) for r in (streamed, whole, over_grpc)]
    assert counts[0] == counts[1] == counts[2]
    assert whole["output_messages"] == 10


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_token_of_many_streams_arrives(simulated, tmp_path, protocol):
    master, _ = simulated("free,step_us=2000")
    flags = ("--requests", 120, "--concurrency", 40, "--input-len", "20:200", "--output-len", "1:60", "--warmup", 4)
    prefixes = ("--prefix-len", 64, "--num-prefixes", 3)
    done, report = bench(master, protocol, tmp_path, *flags, *prefixes, "--check-simulated")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["requests"]["ok"] == 120
    assert report["peak_concurrent"] == 40


def test_check_finds_that_a_worker_is_no_simulated_one(cluster, tmp_path):
    done, report = bench(cluster.master, "openai", tmp_path, "--requests", 3, "--check-simulated")
    assert done.returncode == 1
    assert report["requests"]["errors"]["DATA_LOSS"]["count"] == 3


def test_open_loop_counts_from_the_scheduled_arrival(simulated, tmp_path):
    # One at a time, each 20 steps of 10 ms, all due at once: the last one waits for the nine before it.
    master, _ = simulated("free,step_us=10000")
    flags = ("--request-rate", "inf", "--concurrency", 1, "--requests", 10, "--output-len", 20)
    done, report = bench(master, "openai", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    assert report["e2e_ms"]["max"] >= 10 * 195
    assert report["setup"]["loop"] == "open"
    assert report["tpot_ms"]["p50"] == pytest.approx(10, rel=0.5)


def test_trace_is_replayed_by_its_timestamps(simulated, tmp_path):
    master, _ = simulated("free,step_us=1000")
    trace = tmp_path / "trace.jsonl"
    entries = [
        {"timestamp": 500 + 100 * i, "input_length": 700, "output_length": 4, "hash_ids": [1, i]} for i in range(6)
    ]
    trace.write_text("\n".join(map(json.dumps, entries)))
    done, report = bench(master, "openai", tmp_path, "--trace", trace, "--check-simulated")
    assert done.returncode == 0, done.stderr
    assert report["requests"]["ok"] == 6
    assert (report["input_tokens"], report["output_tokens"]) == (4200, 24)
    assert report["duration_s"] >= 0.5
    trace.write_text('{"timestamp": 1}\n')
    broken, _ = bench(master, "openai", tmp_path, "--trace", trace)
    assert broken.returncode == 2
    assert "line 1" in broken.stderr


def test_failures_are_counted_and_told(simulated, tmp_path):
    master, worker = simulated("free,step_us=20000")
    report_path = tmp_path / "report.json"
    flags = ("--requests", 8, "--concurrency", 8, "--output-len", 400, "--json", report_path)
    argv = [BIN / "fathom", "bench", "serve", *address(master, "openai"), *flags]
    with subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        time.sleep(1.5)
        master.signal(signal.SIGKILL)
        out, err = running.communicate(timeout=60)
    report = json.loads(report_path.read_text())
    assert report["requests"]["ok"] == 0
    assert report["requests"]["failed"] == 8
    assert report["requests"]["errors"]["UNAVAILABLE"]["count"] == 8
    assert running.returncode == 3
    assert "8 of 8 requests failed" in err and "UNAVAILABLE" in out
    assert is_alive(worker.pid)


def test_exit_codes(cluster, tmp_path):
    def code(*flags):
        return fathom("bench", "serve", *flags).returncode

    assert code("--url", "http://127.0.0.1:1") == 3
    assert code("--url", "127.0.0.1:1", "--protocol", "grpc") == 3
    assert code("--url", cluster.url, "--key", "wrong", "--requests", 2) == 4
    assert code("--url", cluster.master.grpc_address, "--key", "wrong", "--protocol", "grpc") == 4
    to = ("--url", cluster.url, "--key", KEY)
    for flags in (
        ("--input-len", "5:1"),
        ("--goodput", "p99:1"),
        ("--burstiness", "1"),
        ("--request-rate", "0"),
        ("--protocol", "http"),
        ("--trace", "a", "--dataset", "b"),
    ):
        assert code(*to, *flags) == 2, flags
    assert code(*to, "--dataset", tmp_path / "missing") == 1
    # More than the context holds: refused by the server, each of them.
    done, report = bench(cluster.master, "openai", tmp_path, "--requests", 2, "--input-len", 5000)
    assert done.returncode == 2
    assert report["requests"]["errors"]["INVALID_ARGUMENT"]["count"] == 2


def test_ctrl_c_prints_what_there_is(simulated):
    master, _ = simulated("free,step_us=1000")
    controller, terminal = pty.openpty()
    flags = ("--duration", "60", "--concurrency", "4", "--output-len", "20")
    argv = [BIN / "fathom", "bench", "serve", *address(master, "openai"), *flags]
    with subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE, stderr=terminal, text=True) as running:
        os.close(terminal)
        time.sleep(1.5)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=30)
    progress = os.read(controller, 65536).decode()
    os.close(controller)
    assert running.returncode == 130
    assert "interrupted" in out and "TTFT" in out
    assert "running" in progress and "tokens/s" in progress


def test_what_a_vanished_grpc_client_asked_for_is_cancelled(simulated, tmp_path):
    """A stopped process answers no ping, while its connection looks as alive as any."""
    master, _ = simulated("free,step_us=500000")
    flags = ("--requests", 1, "--concurrency", 1, "--input-len", 20, "--output-len", 1500, "--ignore-eos")
    argv = [BIN / "fathom", "bench", "serve", *address(master, "grpc"), *flags]
    with Process("client", argv, tmp_path) as client:
        wait_for(lambda: check_conservation(master).in_flight == 1, "a request in flight")
        client.signal(signal.SIGSTOP)
        time.sleep(40)  # it is asked after half a minute, and has time to answer
        assert wait_until_idle(master, 60).ended["cancelled"] == 1

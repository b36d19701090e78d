"""Workers that die, hang, leave or fall silent under load: every stream goes on, and says what it would have said."""

import hashlib
import json
import os
import signal
import subprocess
import threading
import time

import httpx
import pytest
from conservation import check_conservation, wait_until_idle
from harness import (
    BIN,
    KEY,
    TINY,
    Master,
    Server,
    Worker,
    clean_environment,
    fathom,
    link_flags,
    sample,
    wait_for,
)
from prometheus_client.parser import text_string_to_metric_families
from test_bench import SimWorker

STORY = [{"role": "user", "content": "Tell me a story about a whale and a harbor."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "names": {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 12, "maxItems": 20},
        "n": {"type": "integer"},
    },
    "required": ["names", "n"],
    "additionalProperties": False,
}
KINDS = {
    "greedy": {"temperature": 0, "max_tokens": 400, "ignore_eos": True},
    "sampled": {"temperature": 1.0, "seed": 7, "max_tokens": 400, "ignore_eos": True},
    "penalties": {
        "temperature": 0.8,
        "seed": 3,
        "max_tokens": 300,
        "ignore_eos": True,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.3,
        "repetition_penalty": 1.1,
        "min_tokens": 200,
    },
    "choices": {"temperature": 1.0, "seed": 11, "n": 3, "max_tokens": 200, "ignore_eos": True},
    "logprobs": {
        "temperature": 0.7,
        "seed": 5,
        "max_tokens": 250,
        "ignore_eos": True,
        "logprobs": True,
        "top_logprobs": 3,
    },
    "schema": {
        "temperature": 1.0,
        "seed": 13,
        "max_tokens": 600,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": SCHEMA}},
    },
    "stop": {"temperature": 1.0, "seed": 17, "max_tokens": 500, "ignore_eos": True, "stop": ["zzzz", "harbor lights"]},
}


def stream(url, body, started=None):
    """Everything a stream says: text and logprobs by choice, ends, usage; an error fails."""
    body = {"model": "tiny", "messages": STORY, "stream": True, "stream_options": {"include_usage": True}} | body
    text, logprobs, ends, usage = {}, {}, {}, None
    with httpx.stream(
        "POST",
        f"{url}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=120,
    ) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                index = choice["index"]
                text[index] = text.get(index, "") + (choice["delta"].get("content") or "")
                if choice.get("logprobs"):
                    logprobs.setdefault(index, []).extend(choice["logprobs"]["content"])
                if choice["finish_reason"]:
                    assert index not in ends
                    ends[index] = choice["finish_reason"]
                if started is not None and len(text[index]) > 20:
                    started.set()
        assert line == "data: [DONE]" or not line
    usage.get("prompt_tokens_details", {}).pop("cached_tokens", None)
    return {"text": text, "logprobs": logprobs, "ends": ends, "usage": usage}


def total(master, name):
    metrics = httpx.get(f"{master.url}/metrics").text
    return sum(s.value for family in text_string_to_metric_families(metrics) for s in family.samples if s.name == name)


class Fleet:
    """A master and workers whose tokens do not depend on what else runs."""

    def __init__(self, folder, count):
        self.folder = folder
        self.master = Master(folder)
        self.workers = {}
        self.lives = 0
        for _ in range(count):
            self.add()
        for worker in list(self.workers.values()):
            worker.wait_ready()
        self.master.wait_ready()

    def add(self):
        name = f"w{self.lives}"
        self.lives += 1
        self.workers[name] = Worker(
            self.folder, self.master.link_address, name=name, extra=["--batch-invariant", "--drain-seconds", 0]
        )
        return self.workers[name]

    def admin(self, *arguments):
        address = f"127.0.0.1:{self.master.ports()['admin']}"
        done = fathom(*arguments, "--admin", address, "--key", KEY, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout

    def busy(self):
        """Workers that run something of this master's."""
        return [w["id"] for w in self.admin("workers")["workers"] if int(w["in_flight"]) > 0]

    def close(self):
        for worker in self.workers.values():
            worker.close()
        self.master.close()


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(tmp_path, 2)
    yield fleet
    fleet.close()


def run_all(url, harm):
    """Every kind of stream at once; `harm` is called when all are under way."""
    answers, started = {}, {kind: threading.Event() for kind in KINDS}

    def run(kind):
        try:
            answers[kind] = stream(url, KINDS[kind], started[kind])
        finally:
            started[kind].set()

    threads = [threading.Thread(target=run, args=(kind,)) for kind in KINDS]
    for thread in threads:
        thread.start()
    for event in started.values():
        event.wait(60)
    harm()
    for thread in threads:
        thread.join()
    return answers


def test_streams_of_every_kind_survive_what_happens_to_workers(fleet):
    """SIGKILL, SIGSTOP (silence) and a drain: text, logprobs, ends and usage are those of an undisturbed run."""
    undisturbed = {kind: stream(fleet.master.url, body) for kind, body in KINDS.items()}
    assert set(undisturbed["choices"]["text"]) == {0, 1, 2}
    json.loads(undisturbed["schema"]["text"][0])

    def kill():
        for name in fleet.busy()[:1]:
            fleet.workers.pop(name).close()
        fleet.add()

    def stop():
        for name in fleet.busy()[:1]:
            fleet.workers[name].signal(signal.SIGSTOP)
            stopped.append(name)

    def drain():
        for name in fleet.busy()[:1]:
            fleet.admin("workers", "drain", name)
            drained.append(name)

    stopped, drained = [], []
    for harm in (kill, stop, drain):
        before = total(fleet.master, "fathom_master_migrations_total")
        assert run_all(fleet.master.url, harm) == undisturbed, harm.__name__
        assert total(fleet.master, "fathom_master_migrations_total") > before
        for name in stopped:
            # It goes on, finds its link gone and its work given away, and serves again.
            fleet.workers[name].signal(signal.SIGCONT)
            wait_for(lambda: len(fleet.admin("workers")["workers"]) == 2, "the stopped worker")
        stopped.clear()
    assert drained
    assert fleet.workers[drained[0]].wait(40) == 0
    check_conservation(fleet.master)


def test_a_request_can_be_followed(fleet):
    done = stream(fleet.master.url, {"temperature": 0, "max_tokens": 4})
    assert done["usage"]["completion_tokens"] > 0
    last = fleet.admin("requests", "--all")["requests"][-1]
    assert last["state"] == "ok" and last["model"] == "tiny" and last["worker"] in fleet.workers
    explained = fleet.admin("explain", last["id"])
    what = [event["what"] for event in explained["events"]]
    assert what == ["received", "prepared", "queued", "submitted", "accepted", "first token", "ended"]
    headers = {"Authorization": f"Bearer {KEY}"}
    url, body = f"{fleet.master.url}/v1/chat/completions", {"model": "tiny", "messages": STORY, "max_tokens": 2}
    for own in ({}, {"X-Request-Id": "of-mine"}):
        answer = httpx.post(url, json=body, headers=headers | own)
        for name in (answer.headers["x-request-id"], answer.json()["id"], answer.json()["id"].split("-")[1]):
            assert fleet.admin("explain", name)["status"]["state"] == "ok", name
    times = [event["at_seconds"] for event in explained["events"]]
    assert times == sorted(times) and times[-1] == pytest.approx(explained["status"]["age_seconds"])
    unknown = fathom("explain", "no-such", "--admin", f"127.0.0.1:{fleet.master.ports()['admin']}", "--key", KEY)
    assert unknown.returncode == 1 and "no such request" in unknown.stderr
    stranger = fathom("workers", "--admin", f"127.0.0.1:{fleet.master.ports()['admin']}", "--key", "wrong")
    assert stranger.returncode == 4


def test_hundreds_of_streams_while_workers_are_killed(tmp_path):
    """The simulated device answers with tokens that depend on all that came before: each of them is checked."""
    master = Master(tmp_path)
    workers = {}
    try:
        for i in range(4):
            workers[i] = SimWorker(tmp_path, master.link_address, "free,step_us=4000", name=f"sim{i}")
        for worker in workers.values():
            worker.wait_ready()
        master.wait_ready()
        address = f"127.0.0.1:{master.ports()['http']}"
        command = [BIN / "fathom", "bench", "serve", "--url", address, "--key", KEY, "--model", "tiny"]
        command += ["--requests", sample(600), "--concurrency", 60, "--input-len", "20:400", "--output-len", "20:300"]
        load = subprocess.Popen(
            [str(a) for a in [*command, "--ignore-eos", "--check-simulated"]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=clean_environment(),
        )
        kills = 0
        while load.poll() is None and kills < 500:
            time.sleep(0.35)
            victim = kills % 4
            os.kill(workers[victim].pid, signal.SIGKILL)
            workers[victim].close()
            workers[victim] = SimWorker(tmp_path, master.link_address, "free,step_us=4000", name=f"sim{victim}")
            kills += 1
        said = load.communicate(timeout=60)[0]
        assert load.returncode == 0, said
        assert kills >= 5
        assert total(master, "fathom_master_migrations_total") > 0
        wait_until_idle(master)
        check_conservation(master)
    finally:
        for worker in workers.values():
            worker.close()
        master.close()


class PoisonedWorker(Server):
    """A worker whose process faults when it computes this token."""

    TOKEN = 3000

    def __init__(self, folder, link_address, name):
        arguments = [f"poison:{self.TOKEN}", "--master", link_address, "--model", TINY, "--model-name", "tiny"]
        arguments += ["--id", name, "--metrics-port", 0, "--threads", 1, "--kv-cache-bytes", 256 << 20]
        arguments += ["--batch-invariant", "--exit-with-parent", *link_flags("worker")]
        super().__init__(name, BIN.parent / "tests" / "fathom-failing-worker", arguments, folder, "metrics")


def test_a_request_that_crashes_its_workers_takes_nobody_with_it(tmp_path):
    """It ends after two of them, its like is refused, and everything that ran beside it goes on unharmed."""
    master = Master(tmp_path)
    workers = []
    try:
        workers += [PoisonedWorker(tmp_path, master.link_address, f"w{i}") for i in range(4)]
        for worker in workers:
            worker.wait_ready()
        master.wait_ready()
        kinds = ["greedy", "sampled", "choices", "logprobs"]
        undisturbed = {kind: stream(master.url, KINDS[kind]) for kind in kinds}
        answers = {}
        threads = [
            threading.Thread(target=lambda k=kind: answers.update({k: stream(master.url, KINDS[k])})) for kind in kinds
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)

        def poison():
            body = {"model": "tiny", "prompt": [5, 6, PoisonedWorker.TOKEN, 7], "max_tokens": 8}
            headers = {"Authorization": f"Bearer {KEY}"}
            return httpx.post(f"{master.url}/v1/completions", json=body, headers=headers, timeout=60)

        answer = poison()
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "worker_lost"
        assert poison().json()["error"]["code"] == "request_crashes_workers"
        for thread in threads:
            thread.join()
        assert answers == undisturbed
        ends = [worker.popen.poll() for worker in workers]
        assert sorted(ends, key=str) == [-signal.SIGABRT, -signal.SIGABRT, None, None]
        check_conservation(master)
    finally:
        for worker in workers:
            worker.close()
        master.close()


def test_tenants_are_served_by_weight_whatever_they_offer(tmp_path):
    """Two tenants, one with ten times the load of the other and a third of its weight."""
    keys = tmp_path / "keys"
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("flood", "heavy")}
    lines = [f"flood:{hashes['flood']}:developer:flood:0:1", f"heavy:{hashes['heavy']}:developer:heavy:0:3"]
    keys.write_text("\n".join(lines) + f"\ntest:{hashlib.sha256(KEY.encode()).hexdigest()}:admin\n")
    arguments = ["--bind", "127.0.0.1", "--model", TINY, "--model-name", "tiny", "--keys-file", keys]
    for port in ("http", "grpc", "admin", "link", "metrics"):
        arguments += [f"--{port}-port", 0]
    master = Server("shared", "fathom-master", [*arguments, *link_flags("master")], tmp_path, "http")
    link = f"127.0.0.1:{master.ports()['link']}"
    # Room for a few requests only, so that the others wait where the order is made.
    worker = SimWorker(tmp_path, link, "free,step_us=2000", kv_bytes=2 << 20, extra=["--max-sequences", 4])
    loads = {}
    try:
        worker.wait_ready()
        master.wait_ready()
        url = f"127.0.0.1:{master.ports()['http']}"
        for name, concurrency in (("flood", 200), ("heavy", 20)):
            command = [BIN / "fathom", "bench", "serve", "--url", url, "--key", name, "--model", "tiny", "--ignore-eos"]
            command += ["--duration", 8, "--concurrency", concurrency, "--input-len", 50, "--output-len", 50]
            command += ["--json", tmp_path / f"{name}.json", "--unary"]
            loads[name] = subprocess.Popen(
                [str(a) for a in command], stdout=subprocess.DEVNULL, env=clean_environment()
            )
        time.sleep(2)
        served = {}
        for moment in range(2):
            view = fathom(
                "requests",
                "--all",
                "--limit",
                100000,
                "--json",
                "--key",
                KEY,
                "--admin",
                f"127.0.0.1:{master.ports()['admin']}",
            )
            done = [r for r in json.loads(view.stdout)["requests"] if r["state"] == "ok"]
            for name in loads:
                tokens = sum(r["prompt_tokens"] + r["completion_tokens"] for r in done if r["tenant"] == name)
                served.setdefault(name, []).append(tokens)
            if moment == 0:
                time.sleep(5)
        share = {name: after - before for name, (before, after) in served.items()}
        assert share["heavy"] / share["flood"] == pytest.approx(3, rel=0.05), share
    finally:
        for load in loads.values():
            load.kill()
            load.wait()
        worker.close()
        master.close()

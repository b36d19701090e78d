"""A request that kills its workers kills two of them, whichever masters its client tries."""

import json
import signal
import threading

import httpx
import pytest
from conservation import check_conservation, wait_until_idle
from harness import BIN, KEY, TINY, Server, link_flags, wait_for
from pairs import Pair

TOKEN = 3000
HEADERS = {"Authorization": f"Bearer {KEY}"}
POISON = {"model": "tiny", "prompt": [5, 6, TOKEN, 7], "max_tokens": 8}


def poisoned_worker(folder, links, name, token=TOKEN):
    """Its process faults when it computes that token."""
    arguments = [f"poison:{token}", "--model", TINY, "--model-name", "tiny", "--id", name, "--metrics-port", 0]
    for link in links:
        arguments += ["--master", link]
    arguments += ["--threads", 1, "--kv-cache-bytes", 256 << 20, "--batch-invariant", "--exit-with-parent"]
    return Server(
        name, BIN.parent / "tests" / "fathom-failing-worker", [*arguments, *link_flags("worker")], folder, "metrics"
    )


@pytest.fixture
def pair(tmp_path):
    pair = Pair(tmp_path, poisoned_worker, workers=4)
    yield pair
    pair.close()


def ask(master, body, timeout=60):
    return httpx.post(f"{master.url}/v1/completions", json=body, headers=HEADERS, timeout=timeout)


def stream(master, seed):
    """The text of one that runs for a while."""
    body = {"model": "tiny", "prompt": "Tell me", "max_tokens": 1500, "ignore_eos": True, "stream": True, "seed": seed}
    text = ""
    with httpx.stream("POST", f"{master.url}/v1/completions", json=body, headers=HEADERS, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                assert "error" not in event, event
                text += event["choices"][0]["text"]
    return text


def code_of(answer):
    return answer.json()["error"]["code"]


def deaths(workers):
    ends = [worker.popen.poll() for worker in workers]
    assert set(ends) <= {None, -signal.SIGABRT}, ends
    return sum(end is not None for end in ends)


def test_the_other_master_refuses_it_at_once(pair):
    a, b = pair.masters
    undisturbed = {(a, seed): stream(a, seed) for seed in (1, 2, 3)}
    answers = {}
    threads = [threading.Thread(target=lambda k=k: answers.update({k: stream(*k)})) for k in undisturbed]
    for thread in threads:
        thread.start()
    wait_for(lambda: sum(map(pair.running, pair.workers)) == len(threads), "all run")
    assert code_of(ask(a, POISON)) == "worker_lost"
    wait_for(lambda: len(pair.ready(b)) == 2, "both deaths are known at the other master, too")
    refused = ask(b, POISON)
    assert (refused.status_code, code_of(refused)) == (400, "request_crashes_workers")
    assert code_of(ask(a, POISON)) == "request_crashes_workers"
    for thread in threads:
        thread.join()
    assert answers == undisturbed
    assert deaths(pair.workers) == 2
    for master in pair.masters:
        wait_until_idle(master)
        check_conservation(master)


def test_suspects_of_two_masters_do_not_meet(tmp_path):
    """What ran beside the cause, at the other master, is suspect too: both go for the one worker that there is then."""
    first = Pair(tmp_path, poisoned_worker, workers=1)
    links = [master.link_address for master in first.masters]
    workers = list(first.workers)
    answers = {}

    def run(key, act):
        threads.append(threading.Thread(target=lambda: answers.update({key: act()})))
        threads[-1].start()

    try:
        a, b = first.masters
        seeds = range(4)
        undisturbed = {seed: stream(b, seed) for seed in seeds}
        threads = []
        for seed in seeds:
            run(seed, lambda seed=seed: stream(b, seed))
        wait_for(lambda: first.running(workers[0]) == len(seeds), "the innocent run")
        run("poison", lambda: code_of(ask(a, POISON)))
        wait_for(lambda: deaths(workers) == 1, "the first death")
        workers.append(poisoned_worker(tmp_path, links, "next"))
        wait_for(lambda: deaths(workers) == 2, "the second death")
        workers += [poisoned_worker(tmp_path, links, f"last{i}") for i in range(2)]
        for thread in threads:
            thread.join()
        assert answers.pop("poison") == "worker_lost"
        assert answers == undisturbed
        assert deaths(workers) == 2
        assert code_of(ask(b, POISON)) == "request_crashes_workers"
        for master in first.masters:
            wait_until_idle(master)
            check_conservation(master)
    finally:
        first.close()
        for worker in workers:
            worker.close()


def test_the_other_master_knows_it_from_the_worker_alone(tmp_path):
    """The poison's master dies with the first worker, and can tell nobody."""
    first = Pair(tmp_path, poisoned_worker, workers=1)
    a, b = first.masters
    workers = list(first.workers)
    try:
        broken = threading.Thread(target=lambda: pytest.raises(httpx.HTTPError, ask, a, POISON))
        broken.start()
        wait_for(lambda: deaths(workers) == 1, "the first death")
        a.signal(signal.SIGKILL)
        broken.join()
        workers += [poisoned_worker(tmp_path, [b.link_address], f"late{i}") for i in range(3)]
        wait_for(lambda: len(first.ready(b)) == 3, "the new workers")
        assert code_of(ask(b, POISON)) == "worker_lost"
        assert code_of(ask(b, POISON)) == "request_crashes_workers"
        assert len(first.ready(b)) == 2
        wait_for(lambda: deaths(workers) == 2, "the second death, which its worker told before")
    finally:
        first.close()
        for worker in workers:
            worker.close()


def test_tried_again_at_once_at_either_master_it_kills_two(pair):
    """However fast its client is: the masters hear of what a worker ran when they hear of its crash."""
    for i in range(6):
        answer = ask(pair.masters[i % 2], POISON)
        assert code_of(answer) == ("worker_lost" if i == 0 else "request_crashes_workers")
    assert ask(pair.masters[0], POISON | {"prompt": [5, 6, 7]}).status_code == 200
    assert [len(pair.ready(master)) for master in pair.masters] == [2, 2]
    wait_for(lambda: deaths(pair.workers) == 2, "the second death, which its worker told before")


def test_one_death_at_each_master_is_all(tmp_path):
    """Its client leaves when one worker has died and tries the other master, with workers that nobody had then."""
    first = Pair(tmp_path, poisoned_worker, workers=1)
    links = [master.link_address for master in first.masters]
    workers = list(first.workers)
    try:
        a, b = first.masters
        with pytest.raises(httpx.ReadTimeout):
            ask(a, POISON, timeout=2)
        assert deaths(workers) == 1
        wait_until_idle(a)
        workers += [poisoned_worker(tmp_path, links, f"late{i}") for i in range(3)]
        wait_for(lambda: len(first.ready(a)) == 3 and len(first.ready(b)) == 3, "the new workers")
        assert code_of(ask(b, POISON)) == "worker_lost"
        wait_for(lambda: deaths(workers) == 2, "the second death, which its worker told before")
        for master in first.masters:
            wait_for(lambda m=master: code_of(ask(m, POISON)) == "request_crashes_workers", "it is known")
        assert deaths(workers) == 2
        assert ask(b, POISON | {"prompt": [5, 6, 7]}).status_code == 200
    finally:
        first.close()
        for worker in workers:
            worker.close()

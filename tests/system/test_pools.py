"""One master, two models, two pools: requests go where their model is placed, and wait for nobody else's workers."""

import threading
import time

import httpx
import pytest
from harness import KEY, TINY, Master, wait_for
from pairs import Pair
from test_bench import SimWorker

HEADERS = {"Authorization": f"Bearer {KEY}"}


def ask(master, model, **fields):
    body = {"model": model, "prompt": [1, 2, 3], "max_tokens": 8} | fields
    return httpx.post(f"{master.url}/v1/completions", json=body, headers=HEADERS, timeout=30)


def worker(folder, master, name, model, *extra):
    return SimWorker(folder, master.link_address, "free,step_us=2000", name=name, extra=extra, model_name=model)


@pytest.fixture
def master(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"""
master:
  models:
    - {{path: {TINY}, name: chat, pool: nlp}}
    - {{path: {TINY}, name: eyes, pool: cv}}
""")
    # The flags speak of the first model.
    with Master(tmp_path, model_name="chat", extra=["--config", config]) as master:
        yield master


def test_requests_go_to_their_models_pool(tmp_path, master):
    served = {m["id"] for m in httpx.get(f"{master.url}/v1/models", headers=HEADERS).json()["data"]}
    assert served == {"chat", "eyes"}
    with worker(tmp_path, master, "n1", "chat", "--pool", "nlp") as nlp:
        nlp.wait_ready()
        master.wait_ready()
        # It has the model, and is of the wrong pool.
        with worker(tmp_path, master, "stray", "eyes", "--pool", "nlp") as stray:
            stray.wait_ready()
            wait_for(lambda: len(Pair.ready(master)) == 2, "both workers")
            refused = ask(master, "eyes", timeout=0.5)
            assert refused.status_code == 503
            assert "no worker" in refused.json()["error"]["message"]
        # What waits for another pool holds nobody up.
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(ask(master, "eyes")))
        waiting.start()
        time.sleep(0.2)
        assert ask(master, "chat").status_code == 200
        assert not answers
        with worker(tmp_path, master, "c1", "eyes", "--pool", "cv"):
            waiting.join()
            assert answers[0].status_code == 200
            assert answers[0].json()["model"] == "eyes"
            pools = {w["id"]: w["labels"].get("pool") for w in Pair.ready(master)}
            assert pools == {"n1": "nlp", "c1": "cv"}


def test_priorities_order_what_waits(tmp_path, master):
    """Urgent ones first, as far as the key allows."""
    with worker(tmp_path, master, "n1", "chat", "--pool", "nlp", "--max-sequences", 1) as only:
        only.wait_ready()
        master.wait_ready()
        done = []

        def run(name, **fields):
            answer = ask(master, "chat", **fields)
            assert answer.status_code == 200, answer.text
            done.append(name)

        threads = [threading.Thread(target=run, args=("first",), kwargs={"max_tokens": 400})]
        threads[0].start()
        time.sleep(0.3)
        for name, priority in (("late", 9), ("middle", 5), ("urgent", 0)):
            threads.append(threading.Thread(target=run, args=(name,), kwargs={"priority": priority}))
            threads[-1].start()
            time.sleep(0.1)
        for thread in threads:
            thread.join()
        assert done == ["first", "urgent", "middle", "late"]
        assert ask(master, "chat", priority=10).status_code == 400


def test_a_model_that_nobody_can_ask_for_is_in_the_log(tmp_path, master):
    warning = "a worker has a model that is not in the catalogue"
    with (
        worker(tmp_path, master, "n1", "chat", "--pool", "nlp"),
        worker(tmp_path, master, "s1", "chta", "--pool", "nlp") as stray,
    ):
        stray.wait_ready()
        wait_for(lambda: warning in master.log(), "the warning", 20)
        time.sleep(2)
        lines = [line for line in master.log().splitlines() if warning in line]
        assert len(lines) == 1 and '"labels.worker":"s1"' in lines[0] and '"labels.model":"chta"' in lines[0]

"""Everything is restarted under load, one process after the other, and is of a newer release afterwards.

FATHOM_PREVIOUS_BIN names a folder with the programs of the earlier one (scripts/upgrade_test.sh builds them); without
it the same programs are restarted. Either way and in both orders nothing is lost, and no answer differs from the
undisturbed one.
"""

import collections
import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from conservation import wait_until_idle
from fathom_client import Client
from harness import BIN, KEY, Master, SimWorker, wait_for

PREVIOUS = Path(os.environ.get("FATHOM_PREVIOUS_BIN", BIN))
WORKERS = 3


class Cluster:
    def __init__(self, folder, programs, stack):
        self.folder, self.stack = folder, stack
        secret = folder / "secret"
        secret.write_text("s" * 40)
        secret.chmod(0o600)
        self.master_flags = ["--cluster-secret-file", secret, "--database", f"sqlite:{folder}/state.db"]
        self.masters, self.workers = [], {}
        for i in range(2):
            (folder / f"m{i}").mkdir()
            self.masters.append(self.start_master(i, programs))
        for i in range(WORKERS):
            self.start_worker(f"w{i}", programs)
        self.serve()

    def start_master(self, index, programs, ports=None):
        return self.stack.enter_context(
            Master(
                self.folder / f"m{index}",
                name=f"master-{index}-{programs.parent.name}",
                ports=ports,
                extra=[*self.master_flags, "--id", f"m{index}"],
                programs=programs,
            )
        )

    def start_worker(self, name, programs):
        links = [master.link_address for master in self.masters]
        worker = SimWorker(
            self.folder, links[0], "free,step_us=3000", name=name, programs=programs,
            extra=["--master", links[1], "--drain-seconds", 1],
        )  # fmt: skip
        self.workers[name] = self.stack.enter_context(worker)

    def serve(self):
        for process in [*self.workers.values(), *self.masters]:
            process.wait_ready()

    def replace_worker(self, name, programs):
        old = self.workers[name]
        old.signal(signal.SIGTERM)
        assert old.wait() == 0, old.log()[-2000:]
        self.start_worker(name, programs)
        self.serve()

    def replace_master(self, index, programs):
        old = self.masters[index]
        ports = old.ports()
        old.signal(signal.SIGTERM)
        assert old.wait() == 0, old.log()[-2000:]
        self.masters[index] = self.start_master(index, programs, ports)
        self.serve()


class Load:
    """Our client's streams and whole answers, one after the other; each must be what it was before."""

    def __init__(self, cluster, threads=8):
        self.urls = [master.url for master in cluster.masters]
        self.bodies = [
            {"model": "tiny", "max_tokens": 120 + 10 * i, "seed": i, "ignore_eos": True} for i in range(threads)
        ]
        with Client(self.urls, api_key=KEY) as client:
            self.expected = [self.ask(client, i) for i in range(threads)]
        self.ends = collections.Counter()
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(threads)]

    def ask(self, client, index):
        body = self.bodies[index]
        prompt = [1, 2, 3 + index]
        if index % 4 == 3:
            answer = client.complete(prompt, **body)
        else:
            answer = client.complete(prompt, stream=True, **body).collect()
        return answer.choices[0].text, answer.usage.completion_tokens

    def run(self, index):
        with Client(self.urls[index % 2 :] + self.urls[: index % 2], api_key=KEY) as client:
            while not self.stop.is_set():
                try:
                    end = "ok" if self.ask(client, index) == self.expected[index] else "another answer"
                except Exception as error:
                    end = repr(error)
                with self.lock:
                    self.ends[end] += 1

    def done(self):
        with self.lock:
            return sum(self.ends.values())

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.parametrize("first", ["workers", "masters"])
def test_a_rolling_upgrade_loses_nothing(tmp_path, first):
    with ExitStack() as stack:
        cluster = Cluster(tmp_path, PREVIOUS, stack)
        with Load(cluster) as load:

            def breathe():
                before = load.done()
                wait_for(lambda: load.done() >= before + 16, "answers")

            def workers():
                for i in range(WORKERS):
                    breathe()
                    cluster.replace_worker(f"w{i}", BIN)

            def masters():
                for i in range(2):
                    breathe()
                    cluster.replace_master(i, BIN)

            for step in (workers, masters) if first == "workers" else (masters, workers):
                step()
            breathe()
        assert set(load.ends) == {"ok"}, load.ends
        for master in cluster.masters:
            wait_until_idle(master)

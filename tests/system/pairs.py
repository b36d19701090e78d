"""Two masters that serve the same workers, for tests of what outlives a master."""

import hashlib
import json

from conservation import scrape
from harness import KEY, Master, Worker, fathom, wait_for
from test_bench import SimWorker

OTHER_KEY = "other-key"


class Pair:
    """Two masters that share a secret, and workers that serve both."""

    def __init__(self, folder, make_worker, workers=2):
        secret = folder / "secret"
        secret.write_text("s" * 40)
        secret.chmod(0o600)
        other = f"other:{hashlib.sha256(OTHER_KEY.encode()).hexdigest()}:developer:test\n"
        self.masters = []
        for name in ("a", "b"):
            home = folder / name
            home.mkdir()
            extra = ["--cluster-secret-file", secret, "--id", name]
            self.masters.append(Master(home, name=f"master-{name}", extra=extra, more_keys=other))
        links = [master.link_address for master in self.masters]
        self.workers = [make_worker(folder, links, f"w{i}") for i in range(workers)]
        for process in [*self.workers, *self.masters]:
            process.wait_ready()
        wait_for(lambda: all(len(self.ready(m)) == workers for m in self.masters), "all workers at both masters")

    @staticmethod
    def ready(master):
        done = fathom("workers", "--admin", f"127.0.0.1:{master.ports()['admin']}", "--key", KEY, "--json")
        assert done.returncode == 0, done.stderr
        return [w for w in json.loads(done.stdout)["workers"] if w["state"] == "ready"]

    def running(self, worker):
        return scrape(f"http://127.0.0.1:{worker.ports()['metrics']}")("fathom_worker_requests")

    def resumed(self, master, source):
        return scrape(f"http://127.0.0.1:{master.ports()['metrics']}")(
            "fathom_master_resumed_total", **{"from": source}
        )

    def close(self):
        for process in [*self.workers, *self.masters]:
            process.close()


def sim_worker(folder, links, name):
    return SimWorker(folder, links[0], "free,step_us=10000", name=name, extra=["--master", links[1]])


def real_worker(folder, links, name):
    return Worker(folder, links[0], name=name, extra=["--master", links[1], "--batch-invariant"])

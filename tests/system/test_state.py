"""The masters' shared state on a real PostgreSQL: who there is, who leads, and what happens without it."""

import hashlib
import json
import os
import signal
import subprocess
import time
from contextlib import ExitStack
from datetime import datetime
from itertools import pairwise

import httpx
import pytest
from harness import BIN, KEY, ROOT, Master, Process, SimWorker, clean_environment, fathom, wait_for
from postgresql import Postgresql
from prometheus_client.parser import text_string_to_metric_families

# What a master may need to notice that another is gone, or that its lease has ended.
LEASE_S = 4


@pytest.fixture
def postgresql():
    with Postgresql() as server:
        yield server


def secret_file(path, letter):
    path.write_text(letter * 40)
    path.chmod(0o600)
    return path


class Masters:
    """Masters that share a database, and a simulated worker that knows the first of them alone."""

    def __init__(self, folder, database, count, time_model="free,step_us=2000", more_keys=""):
        self.folder = folder
        self.more_keys = more_keys
        self.flags = ("--database", database.url, "--database-password-file", database.password_file)
        self.secret = secret_file(folder / "secret", "s")
        self.stack = ExitStack()
        self.all = [self.start(f"master-{i}") for i in range(count)]
        self.worker = self.stack.enter_context(SimWorker(folder, self.all[0].link_address, time_model))
        for master in self.all:
            master.wait_ready()

    def start(self, name, ports=None, master_id=None, secret=None):
        flags = (*self.flags, "--id", master_id or name, "--cluster-secret-file", secret or self.secret)
        master = Master(self.folder, name, ports=ports, extra=flags, more_keys=self.more_keys)
        return self.stack.enter_context(master)

    def restart(self, index):
        """The one that was killed, under its name and on its ports."""
        name = self.all[index].name
        ports = json.loads(self.all[index].ports_path.read_text())
        self.all[index].close()
        self.all[index] = self.start(name, ports)
        return self.all[index]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()


def listed(master):
    """What `fathom masters` says."""
    done = fathom("masters", "--admin", f"127.0.0.1:{master.ports()['admin']}", "--key", KEY, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def leader(*masters):
    """(id, epoch) of who leads, once all of these say the same of one that lives."""

    def one():
        said = set()
        for master in masters:
            answer = listed(master)
            leaders = [m["id"] for m in answer["masters"] if m["leader"]]
            if len(leaders) != 1:
                return None
            said.add((leaders[0], int(answer["epoch"])))
        return len(said) == 1 and said.pop()

    return wait_for(one, "one leader", 30)


def metric(master, name, labels=None):
    text = httpx.get(f"http://127.0.0.1:{master.ports()['metrics']}/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and all(sample.labels.get(k) == v for k, v in (labels or {}).items()):
                return sample.value
    raise AssertionError(f"{name} is no metric of {master.name}")


class Load:
    """`fathom bench serve` for some seconds; every token of every answer is checked."""

    def __init__(self, master, folder, seconds, *flags, key=KEY):
        self.report_path = folder / f"load-{master.name}.json"
        self.report_path.unlink(missing_ok=True)
        argv = [BIN / "fathom", "bench", "serve", "--url", master.url, "--key", key, "--check-simulated"]
        argv += ["--duration", seconds, "--json", self.report_path, *flags]
        self.process = Process(f"load-{master.name}", argv, folder)

    def report(self):
        self.process.wait(120)
        self.process.close()
        return json.loads(self.report_path.read_text())

    def check_all_ok(self):
        report = self.report()
        assert report["requests"]["failed"] == 0, report["requests"]
        assert report["requests"]["ok"] > 20


def leading_intervals(master, end):
    """[(since, until, epoch)] in seconds, as its log tells; one that was killed led until `end`."""
    intervals = []
    for line in master.log().splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        message = entry.get("message", "")
        if "this master leads" in message or "does not lead any more" in message:
            at = datetime.fromisoformat(entry["@timestamp"].replace("Z", "+00:00")).timestamp()
            if "does not" in message:
                intervals[-1][1] = at
            else:
                intervals.append([at, end, entry["labels.epoch"]])
    return [tuple(i) for i in intervals]


@pytest.mark.parametrize("name", ["master_state_test", "master_catalog_changes_test"])
def test_the_unit_tests_of_the_state_pass_on_postgresql_too(postgresql, name):
    program = BIN.parent / "tests" / name
    environment = {**clean_environment(), **postgresql.environment(), "FATHOM_TEST_DATABASE": postgresql.url}
    environment["FATHOM_SOURCE_DIR"] = str(ROOT)
    done = subprocess.run([program], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    failed = [line for line in done.stdout.splitlines() if "Failure" in line or "FAILED" in line]
    assert done.returncode == 0, "\n".join([*failed, done.stdout[-4000:], done.stderr[-2000:]])


def test_masters_find_each_other_and_workers_find_them(postgresql, tmp_path):
    with Masters(tmp_path, postgresql, 3) as masters:
        for master in masters.all:
            wait_for(lambda m=master: len(listed(m)["masters"]) == 3, f"three masters at {master.name}")
        answer = listed(masters.all[1])
        assert [m["id"] for m in answer["masters"]] == ["master-0", "master-1", "master-2"]
        assert [m["self"] for m in answer["masters"]] == [False, True, False]
        assert answer["database_up"]
        assert {m["link_address"] for m in answer["masters"]} == {m.link_address for m in masters.all}
        assert leader(*masters.all)[1] == 1
        text = fathom("masters", "--admin", f"127.0.0.1:{masters.all[0].ports()['admin']}", "--key", KEY).stdout
        assert "conflict" not in text
        assert "master-2" in text and "epoch 1" in text
        for master in masters.all:
            assert postgresql.password not in master.log()
        # One that goes says so.
        masters.all[2].signal(signal.SIGTERM)
        assert masters.all[2].wait() == 0
        wait_for(lambda: len(listed(masters.all[0])["masters"]) == 2, "two masters", 3)


def test_masters_that_do_not_fit_together_say_so(postgresql, tmp_path):
    with Masters(tmp_path, postgresql, 1) as masters:
        first = masters.all[0]
        other = masters.start("other", secret=secret_file(tmp_path / "another", "t"))
        twin = masters.start("twin", master_id="master-0")
        for master, kinds in ((first, {"secret": 1, "id": 1}), (other, {"secret": 2, "id": 0})):
            for kind, count in kinds.items():
                wait_for(
                    lambda m=master, k=kind, n=count: metric(m, "fathom_master_conflicts", {"kind": k}) == n,
                    f"{kind} at {master.name}",
                    20,
                )
        text = fathom("masters", "--admin", f"127.0.0.1:{first.ports()['admin']}", "--key", KEY).stdout
        assert "conflict: master 'other' has another cluster secret" in text
        assert "conflict: another master is named 'master-0' too" in text
        assert first.log().count("masters of this database do not fit together") == 2, "each once"
        twin.close()
        other.close()
        for kind in ("secret", "id"):
            wait_for(lambda k=kind: metric(first, "fathom_master_conflicts", {"kind": k}) == 0, "that it is over", 20)


def test_masters_of_one_machine_may_share_a_file(tmp_path):
    flags = ("--database", f"sqlite:{tmp_path / 'state.db'}")
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(Master(tmp_path, name, extra=(*flags, "--id", name))) for name in ("one", "two")
        )
        for master in (first, second):
            wait_for(lambda m=master: len(listed(m)["masters"]) == 2, f"two masters at {master.name}")
        led, epoch = leader(first)
        killed, other = (first, second) if led == "one" else (second, first)
        killed.signal(signal.SIGKILL)
        wait_for(lambda: leader(other) == (other.name, epoch + 1), "the other leads", 20)


def test_leadership_moves_when_the_leader_is_killed(postgresql, tmp_path):
    with Masters(tmp_path, postgresql, 3) as masters:
        told = []
        led, epoch = leader(*masters.all)
        epochs = [epoch]
        for _ in range(3):
            index = int(led.removeprefix("master-"))
            killed = masters.all[index]
            # The others know it from the lease, some time before it says so itself.
            wait_for(
                lambda m=killed, e=epochs[-1]: any(told == e for _, _, told in leading_intervals(m, 0)),
                f"{killed.name} says that it leads",
            )
            killed.signal(signal.SIGKILL)
            killed.wait()
            told += leading_intervals(killed, time.time())
            others = [master for master in masters.all if master is not killed]
            wait_for(lambda o=others, e=epochs[-1]: leader(*o)[1] != e, "another leader", 30)
            masters.restart(index).wait_ready()
            # Each of them has heard of it, or the next to be killed would be one that leads no more.
            led, epoch = leader(*masters.all)
            epochs.append(epoch)
        assert epochs == sorted(set(epochs)), "every change of leader has an epoch of its own"
        for master in masters.all:
            told += leading_intervals(master, time.time())
        told.sort()
        assert {epoch for _, _, epoch in told} >= set(epochs)
        for (_, until, epoch), (since, _, later) in pairwise(told):
            assert until <= since, "two led at once"
            assert since - until < 3 * LEASE_S
            assert epoch < later


def test_serving_goes_on_while_the_database_restarts_and_is_away(postgresql, tmp_path):
    with Masters(tmp_path, postgresql, 2) as masters:
        before = leader(masters.all[0])
        flags = ("--concurrency", 4, "--input-len", "8:40", "--output-len", "1:60")
        loads = [Load(master, tmp_path, 20, *flags) for master in masters.all]
        time.sleep(1)
        postgresql.restart()
        time.sleep(1)
        postgresql.stop()
        stopped = time.monotonic()
        wait_for(lambda: all(metric(m, "fathom_master_database_up") == 0 for m in masters.all), "down", 10)
        wait_for(lambda: all(metric(m, "fathom_master_leader") == 0 for m in masters.all), "nobody leads", 10)
        assert len(listed(masters.all[0])["masters"]) == 2, "the last that was known holds"
        time.sleep(max(0, stopped + 10 - time.monotonic()))
        assert all(m.is_ready() for m in masters.all)
        postgresql.start()
        wait_for(lambda: all(metric(m, "fathom_master_database_up") == 1 for m in masters.all), "up", 10)
        after = leader(masters.all[1])
        assert after[1] == before[1] + (after[0] != before[0])
        for load in loads:
            load.check_all_ok()


def test_a_master_starts_and_serves_without_its_database(postgresql, tmp_path):
    postgresql.stop()
    with Masters(tmp_path, postgresql, 1) as masters:
        assert metric(masters.all[0], "fathom_master_database_up") == 0
        Load(masters.all[0], tmp_path, 2).check_all_ok()
        # It may be in the catalogue, which nobody can read now.
        url, headers = f"{masters.all[0].url}/v1/completions", {"Authorization": f"Bearer {KEY}"}
        body = {"model": "other", "prompt": "x"}
        unknown = httpx.post(url, json=body, headers=headers)
        assert (unknown.status_code, "retry-after" in unknown.headers) == (503, True), unknown.text
        admin = f"127.0.0.1:{masters.all[0].ports()['admin']}"
        refused = fathom("model", "list", "--admin", admin, "--key", KEY)
        assert refused.returncode == 3 and "database" in refused.stderr, refused.stderr
        postgresql.start()
        assert leader(masters.all[0])[0] == "master-0"
        wait_for(lambda: httpx.post(url, json=body, headers=headers).status_code == 404, "it was read")


def test_a_schema_of_the_future_is_refused_with_its_number(postgresql, tmp_path):
    with Masters(tmp_path, postgresql, 1):
        pass
    postgresql.query("INSERT INTO schema_version VALUES (99, 1, 0, 'an expansion')")
    with Masters(tmp_path, postgresql, 1):
        pass
    postgresql.query("UPDATE schema_version SET min_reader = 99 WHERE version = 99")
    flags = ("--database", postgresql.url, "--database-password-file", postgresql.password_file)
    with Master(tmp_path, "refused", extra=flags) as refused:
        assert refused.wait() != 0
        assert "99" in refused.log()


LIMITED_KEY = "fathom-test-limited-key"


def limited(requests="", tokens=""):
    """A line of a keys file."""
    return f"limited:{hashlib.sha256(LIMITED_KEY.encode()).hexdigest()}:::::{requests}:{tokens}\n"


def served(masters, unit):
    """What all of them have served so far."""
    if unit == "requests":
        return sum(metric(m, "fathom_master_generations_total", {"outcome": "ok"}) for m in masters.all)
    kinds = ("prompt", "completion")
    return sum(metric(m, f"fathom_master_{kind}_tokens_total") for m in masters.all for kind in kinds)


@pytest.mark.parametrize(("unit", "a_minute", "loaded"), [("requests", 3000, 3), ("tokens", 120_000, 1)])
def test_a_keys_quota_holds_over_all_masters_together(postgresql, tmp_path, record_property, unit, a_minute, loaded):
    with Masters(tmp_path, postgresql, 3, more_keys=limited(**{unit: a_minute})) as masters:
        for master in masters.all:
            wait_for(lambda m=master: len(listed(m)["masters"]) == 3, f"three masters at {master.name}")
        # Far more than it may have, and for long enough that what the bucket held at first is gone.
        flags = ("--request-rate", 150 / loaded, "--input-len", "8:16", "--output-len", 24, "--ignore-eos")
        loads = [Load(m, tmp_path, 18, *flags, key=LIMITED_KEY) for m in masters.all[:loaded]]
        time.sleep(5)
        before, began = served(masters, unit), time.monotonic()
        time.sleep(12)
        count, seconds = served(masters, unit) - before, time.monotonic() - began
        quota = a_minute / 60 * seconds
        record_property(f"served of a quota of {unit}, {loaded} of 3 masters loaded", f"{count / quota:.1%}")
        assert count <= 1.05 * quota
        assert count >= 0.85 * quota
        for load in loads:
            report = load.report()
            assert set(report["requests"]["errors"]) == {"RESOURCE_EXHAUSTED"}
        rejected = sum(metric(m, "fathom_master_quota_rejections_total", {"quota": unit}) for m in masters.all)
        assert rejected > 100


def test_who_is_over_its_quota_hears_when_to_come_back(postgresql, tmp_path):
    with Masters(tmp_path, postgresql, 1, more_keys=limited(6, 100_000)) as masters:
        ask = {"model": "tiny", "prompt": "Hello", "max_tokens": 4}
        headers = {"Authorization": f"Bearer {LIMITED_KEY}"}
        url = f"{masters.all[0].url}/v1/completions"
        first = httpx.post(url, json=ask, headers=headers)
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-requests"] == "6"
        assert first.headers["x-ratelimit-limit-tokens"] == "100000"
        assert int(first.headers["x-ratelimit-remaining-tokens"]) > 1000
        second = httpx.post(url, json=ask, headers=headers)
        assert second.status_code == 429
        assert 5 < int(second.headers["retry-after"]) <= 11
        assert second.headers["x-ratelimit-remaining-requests"] == "0"
        assert second.json()["error"]["code"] == "rate_limit_exceeded"
        assert "6 requests a minute" in second.json()["error"]["message"]
        others = httpx.post(url, json=ask, headers={"Authorization": f"Bearer {KEY}"})
        assert others.status_code == 200 and "x-ratelimit-limit-requests" not in others.headers


def test_quotas_go_on_without_the_database(postgresql, tmp_path):
    with Masters(tmp_path, postgresql, 2, more_keys=limited(1200)) as masters:
        flags = ("--request-rate", 40, "--input-len", "8:16", "--output-len", 8)
        loads = [Load(m, tmp_path, 16, *flags, key=LIMITED_KEY) for m in masters.all]
        time.sleep(4)
        postgresql.stop()
        time.sleep(1)
        before, began = served(masters, "requests"), time.monotonic()
        time.sleep(8)
        rate = (served(masters, "requests") - before) / (time.monotonic() - began)
        assert 0.6 * 20 < rate < 1.6 * 20
        postgresql.start()
        for load in loads:
            assert set(load.report()["requests"]["errors"]) == {"RESOURCE_EXHAUSTED"}

"""The model catalogue: versions come, share a name, take each other's place and go, and no request minds."""

import collections
import hashlib
import json
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from conservation import scrape
from harness import KEY, TINY, Master, SimWorker, Worker, fathom, wait_for

HEADERS = {"Authorization": f"Bearer {KEY}"}
KV = ("--kv-cache", "64MiB")


class Site:
    """Masters with a database in common and workers that start without a model."""

    def __init__(self, folder, masters=1, workers=1, make_worker=None, configured=None):
        self.folder = folder
        self._stack = ExitStack()
        self.masters = []
        self.workers = {}
        secret = folder / "secret"
        secret.write_text("s" * 40)
        secret.chmod(0o600)
        developer = f"dev:{hashlib.sha256(b'dev-key').hexdigest()}:developer:test\n"
        for i in range(masters):
            extra = ["--database", f"sqlite:{folder}/state.db", "--cluster-secret-file", secret, "--id", f"m{i}"]
            home = folder / f"m{i}"
            home.mkdir()
            self.masters.append(
                self._stack.enter_context(
                    Master(home, name=f"master-{i}", model=configured, extra=extra, more_keys=developer)
                )
            )
        self._make_worker = make_worker or self.simulated
        for i in range(workers):
            self.add_worker(f"w{i}")

    def simulated(self, name, links, extra):
        return SimWorker(self.folder, links[0], "free,step_us=2000", name=name, model=None, extra=[*extra, *links[1:]])

    def add_worker(self, name, *extra):
        links = [self.masters[0].link_address]
        for master in self.masters[1:]:
            links += ["--master", master.link_address]
        worker = self._stack.enter_context(self._make_worker(name, links, extra))
        self.workers[name] = worker
        worker.wait_ready()
        return worker

    def model(self, *arguments, master=0, key=KEY, fails=False):
        admin = f"127.0.0.1:{self.masters[master].ports()['admin']}"
        done = fathom("model", *arguments, "--admin", admin, "--key", key)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done

    def catalogue(self, master=0, *flags):
        answer = json.loads(self.model("list", "--json", *flags, master=master).stdout)
        return {v["model"]: v for v in answer["versions"]}

    def workers_of(self, model):
        return {w["worker"] for w in self.catalogue()[model]["workers"] if w["phase"] == "ready"}

    def routes(self, master=0):
        answer = json.loads(self.model("list", "--json", master=master).stdout)
        return {r["name"]: {t["model"]: t["weight"] for t in r["targets"]} for r in answer.get("routes", [])}

    def ask(self, model, master=0, client=httpx, **fields):
        body = {"model": model, "prompt": [1, 2, 3], "max_tokens": 8} | fields
        return client.post(f"{self.masters[master].url}/v1/completions", json=body, headers=HEADERS, timeout=60)

    def drawn(self, name, count, master=0):
        """Which models that many requests for the name got."""
        models = collections.Counter()
        with httpx.Client() as client:
            for _ in range(count):
                answer = self.ask(name, master, client, max_tokens=1)
                assert answer.status_code == 200, answer.text
                models[answer.json()["model"]] += 1
        return models

    def close(self):
        self._stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path) as site:
        yield site


class Load:
    """Threads that stream one answer after the other, whatever happens, and keep what became of each."""

    def __init__(self, site, name, threads=6, tokens=40):
        self._site, self._name, self._tokens = site, name, tokens
        self._stop = threading.Event()
        self.ends = collections.Counter()
        self.models = collections.Counter()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]

    def _run(self, index):
        master = self._site.masters[index % len(self._site.masters)]
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                body = {
                    "model": self._name, "prompt": [1, 2, index + 3], "max_tokens": self._tokens,
                    "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
                }  # fmt: skip
                end, model = self._stream(client, master.url, body)
                with self._lock:
                    self.ends[end] += 1
                    self.models[model] += 1

    def _stream(self, client, url, body):
        model, usage = None, None
        try:
            with client.stream("POST", f"{url}/v1/completions", json=body, headers=HEADERS) as answer:
                if answer.status_code != 200:
                    return f"{answer.status_code} {answer.read().decode()}", None
                for line in answer.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:
                        return event["error"]["message"], model
                    if model not in (None, event["model"]):
                        return f"{model} became {event['model']}", model
                    model = event["model"]
                    usage = event.get("usage") or usage
        except httpx.HTTPError as error:
            return repr(error), model
        tokens = (usage or {}).get("completion_tokens")
        return "ok" if tokens == self._tokens else f"{tokens} tokens", model

    def done(self):
        with self._lock:
            return sum(self.ends.values())

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        wait_for(self.done, "the first answers")
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_model_is_loaded_served_and_unloaded(site):
    assert site.ask("chat").status_code == 404
    assert httpx.get(f"{site.masters[0].url}/ready").status_code == 503
    done = site.model("load", TINY, "--name", "chat", *KV)
    assert "chat@1 is in the catalogue" in done.stdout and "chat@1 is ready" in done.stdout
    for name in ("chat", "chat@1"):
        answer = site.ask(name)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == "chat@1"
    listed = [m["id"] for m in httpx.get(f"{site.masters[0].url}/v1/models", headers=HEADERS).json()["data"]]
    assert listed == ["chat", "chat@1"]
    site.masters[0].wait_ready()
    assert "requests for 'chat' go to chat@1" in site.model("unload", "chat@1", fails=True).stderr
    assert "may not do this" in site.model("alias", "mine", "chat@1", key="dev-key", fails=True).stderr
    site.model("unload", "chat")
    assert site.ask("chat").status_code == 404
    assert site.catalogue() == {}
    assert site.catalogue(0, "--all")["chat@1"]["state"] == "retired"
    audit = [json.loads(line) for line in site.masters[0].log().splitlines() if '"log.logger":"audit"' in line]
    assert [(a["message"], a["event.outcome"], a["user.id"]) for a in audit] == [
        ("load model", "success", "test"),
        ("unload model", "failure", "test"),
        ("set route", "failure", "dev"),
        ("unload model", "success", "test"),
    ]


def test_unloading_a_model_does_not_take_a_name_from_another_one(site):
    site.model("load", TINY, "--name", "chat", *KV)
    site.model("alias", "front", "chat@1")
    site.model("load", TINY, "--name", "front", *KV)
    assert "requests for 'front' go to chat@1" in site.model("unload", "front", fails=True).stderr
    site.model("unload", "front@1")
    assert site.drawn("front", 3) == {"chat@1": 3}


def test_a_canary_gets_its_share_and_rolls_back(site):
    site.model("load", TINY, "--name", "chat", *KV)
    site.model("load", TINY, "--name", "chat", *KV)
    assert site.drawn("chat", 20) == {"chat@1": 20}, "a version gets no requests by itself"
    assert site.drawn("chat@2", 5) == {"chat@2": 5}
    site.model("canary", "chat", "chat@2", 20)
    wait_for(lambda: site.routes() == {"chat": {"chat@1": 80, "chat@2": 20}}, "the canary")
    drawn = site.drawn("chat", 400)
    assert 50 <= drawn["chat@2"] <= 110 and sum(drawn.values()) == 400
    metric = scrape(f"http://127.0.0.1:{site.masters[0].ports()['metrics']}")
    assert metric("fathom_master_model_generations_total", model="chat@2", outcome="ok") == drawn["chat@2"] + 5
    assert metric("fathom_master_model_ready_workers", model="chat@2") == 1
    site.model("alias", "chat-prod", "chat@2")
    assert site.drawn("chat-prod", 5) == {"chat@2": 5}
    assert "chat -> chat@1\n" in site.model("rollback", "chat").stdout
    wait_for(lambda: site.drawn("chat", 20) == {"chat@1": 20}, "the way back")
    # What has been unloaded comes back first.
    site.model("alias", "chat", "chat@2")
    site.model("unload", "chat@1")
    done = site.model("rollback", "chat")
    assert "chat@1 had been unloaded" in done.stdout and "chat@1 is ready" in done.stdout
    assert site.routes() == {"chat": {"chat@1": 100}, "chat-prod": {"chat@2": 100}}
    site.model("alias", "chat-prod", "--drop")
    wait_for(lambda: site.ask("chat-prod").status_code == 404, "the name's end")
    # KServe's versions are the catalogue's.
    ready = f"{site.masters[0].url}/v2/models/chat/versions/2/ready"
    assert httpx.get(ready, headers=HEADERS).status_code == 200
    metadata = httpx.get(f"{site.masters[0].url}/v2/models/chat", headers=HEADERS).json()
    assert metadata["versions"] == ["1", "2"]
    assert httpx.get(f"{site.masters[0].url}/v2/models/chat/versions/3", headers=HEADERS).status_code == 404


def test_reloads_under_load_drop_nothing(tmp_path):
    with Site(tmp_path, masters=2, workers=2) as site:
        site.model("load", TINY, "--name", "chat", "--replicas", 2, *KV)
        wait_for(lambda: site.ask("chat", 1).status_code == 200, "the other master")
        with Load(site, "chat") as load:
            for version in (2, 3):
                site.model("reload", "chat")
                before = load.done()
                wait_for(lambda before=before: load.done() > before + 20, "answers after it")
                wait_for(lambda v=version: site.catalogue(0, "--all")[f"chat@{v - 1}"]["state"] == "retired", "its end")
            site.model("load", TINY, "--name", "chat", "--replicas", 2, *KV, "--replace")
            site.model("rollback", "chat")
            wait_for(lambda: site.routes()["chat"] == {"chat@3": 100}, "the rollback")
            before = load.done()
            wait_for(lambda: load.done() > before + 20, "answers after it")
        assert set(load.ends) == {"ok"}, load.ends
        assert set(load.models) == {"chat@1", "chat@2", "chat@3", "chat@4"}
        for master in site.masters:
            metric = scrape(f"http://127.0.0.1:{master.ports()['metrics']}")
            assert metric("fathom_master_migrations_total") == 0, "nothing had to go on elsewhere"


def test_a_version_that_cannot_be_loaded_harms_nobody(tmp_path):
    with Site(tmp_path, make_worker=lambda name, links, extra: real_worker(tmp_path, name, links, extra)) as site:
        site.model("load", TINY, "--name", "chat", *KV)
        broken = tmp_path / "broken"
        shutil.copytree(TINY, broken)
        weights = next(broken.glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:5000])
        done = site.model("load", broken, "--name", "chat", "--replace", *KV, fails=True)
        assert weights.name in done.stderr, done.stderr
        version = site.catalogue()["chat@2"]
        assert version["state"] == "failed" and version["workers"][0]["phase"] == "failed"
        assert site.routes() == {"chat": {"chat@1": 100}}
        assert site.ask("chat").json()["model"] == "chat@1"
        # Mended, it is loaded without being asked for again.
        shutil.copy(TINY / weights.name, weights)
        wait_for(lambda: site.routes() == {"chat": {"chat@2": 100}}, "the second try")
        assert site.ask("chat").json()["model"] == "chat@2"
        # What a master cannot read is refused at once, with the reason.
        (broken / "tokenizer.json").unlink()
        done = site.model("load", broken, "--name", "chat", fails=True)
        assert "tokenizer.json" in done.stderr
        assert "chat@3" not in site.catalogue(0, "--all")
        # What fits nowhere waits and says so.
        site.model("load", TINY, "--name", "huge", "--kv-cache", "1000GiB", "--no-wait")
        wait_for(lambda: "no worker has" in site.catalogue().get("huge@1", {}).get("detail", ""), "the reason")
        site.model("unload", "huge")


def real_worker(folder, name, links, extra):
    return Worker(folder, links[0], name=name, model=None, extra=[*extra, *links[1:]])


def test_who_waits_for_a_version_that_is_unloaded_everywhere_hears_of_it(site):
    site.model("load", TINY, "--name", "chat", "--pool", "none", "--no-wait", *KV)
    with ThreadPoolExecutor() as pool:
        wait_for(lambda: "chat@1" in site.catalogue(), "the version")
        waiting = pool.submit(site.ask, "chat@1")
        metrics = f"http://127.0.0.1:{site.masters[0].ports()['metrics']}"
        wait_for(lambda: scrape(metrics)("fathom_master_queue_length") == 1, "a request that waits")
        site.model("unload", "chat")
        answer = waiting.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unloaded"), answer.text


def test_replicas_come_back_when_their_worker_dies(tmp_path):
    with Site(tmp_path, workers=3) as site:
        site.model("load", TINY, "--name", "chat", "--replicas", 2, *KV)
        holders = {w["worker"] for w in site.catalogue()["chat@1"]["workers"]}
        assert len(holders) == 2
        with Load(site, "chat") as load:
            site.workers[sorted(holders)[0]].signal(signal.SIGKILL)
            spare = ({"w0", "w1", "w2"} - holders).pop()
            wait_for(lambda: spare in site.workers_of("chat@1"), "a new replica")
            before = load.done()
            wait_for(lambda: load.done() > before + 10, "answers after it")
        assert set(load.ends) == {"ok"}, load.ends


def test_another_leader_goes_on(tmp_path):
    with Site(tmp_path, masters=2, workers=2) as site:
        site.model("load", TINY, "--name", "chat", *KV)
        masters = json.loads(
            fathom("masters", "--json", "--admin", f"127.0.0.1:{site.masters[0].ports()['admin']}", "--key", KEY).stdout
        )["masters"]
        leader = next(i for i, m in enumerate(masters) if m["leader"])
        other = 1 - leader
        site.masters[leader].signal(signal.SIGKILL)
        site.model("load", TINY, "--name", "chat", "--replace", *KV, master=other)
        assert site.drawn("chat", 3, other) == {"chat@2": 3}


def test_who_comes_back_gets_the_model_of_before(tmp_path):
    with Site(tmp_path, masters=2) as site:
        site.model("load", TINY, "--name", "chat", *KV)
        site.model("load", TINY, "--name", "chat", *KV)
        site.model("alias", "chat", "chat@2")
        wait_for(lambda: site.drawn("chat", 1, 1) == {"chat@2": 1}, "the other master")
        body = {"model": "chat", "prompt": [4, 5, 6], "max_tokens": 400, "ignore_eos": True, "stream": True}
        body = json.dumps(body)
        texts, last = [], None
        url = f"{site.masters[0].url}/v1/completions"
        with httpx.stream(
            "POST", url, content=body, headers=HEADERS | {"X-Fathom-Resume": "30s"}, timeout=60
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    last = line[4:]
                elif line.startswith("data: {"):
                    texts.append(json.loads(line[6:])["choices"][0]["text"])
                    if len(texts) == 5:
                        break
        assert ".m" in last
        site.model("alias", "chat", "chat@1")
        wait_for(lambda: site.drawn("chat", 1, 1) == {"chat@1": 1}, "the change")
        url = f"{site.masters[1].url}/v1/completions"
        models = set()
        with httpx.stream("POST", url, content=body, headers=HEADERS | {"Last-Event-ID": last}, timeout=60) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    models.add(event["model"])
                    texts.append(event["choices"][0]["text"])
        assert models == {"chat@2"}
        seed = {"seed": 1, "temperature": 0}
        whole = site.ask("chat@2", prompt=[4, 5, 6], max_tokens=400, ignore_eos=True, **seed)
        assert "".join(texts) == whole.json()["choices"][0]["text"]


def test_only_operators_change_what_is_served(site):
    done = site.model("load", TINY, "--name", "chat", key="dev-key", fails=True)
    assert "developer" in done.stderr
    assert "developer" in site.model("list", key="dev-key", fails=True).stderr
    assert site.catalogue() == {}
    for arguments in (
        ["load", "relative/../../../nowhere"],
        ["alias", "x", "chat@1"],
        ["canary", "chat", "chat@1", 5],
        ["rollback", "chat"],
        ["unload", "chat@1"],
        ["reload", "chat"],
        ["alias", "a b", "chat@1"],
    ):
        done = site.model(*arguments, fails=True)
        assert done.stderr.startswith("fathom: "), done.stderr


def test_a_configured_model_shares_its_name_with_versions(tmp_path):
    def with_model(name, links, extra):
        return SimWorker(tmp_path, links[0], "free,step_us=2000", name=name, extra=[*extra, *links[1:]])

    with Site(tmp_path, configured=TINY, make_worker=with_model) as site:
        site.masters[0].wait_ready()
        site.model("load", TINY, "--name", "tiny", *KV)
        assert site.drawn("tiny", 5) == {"tiny": 5}
        site.model("canary", "tiny", "tiny@1", 50)
        wait_for(lambda: set(site.drawn("tiny", 30)) == {"tiny", "tiny@1"}, "both")
        site.model("alias", "tiny", "tiny@1")
        wait_for(lambda: site.drawn("tiny", 10) == {"tiny@1": 10}, "all of it")
        site.model("unload", "tiny")
        assert site.drawn("tiny", 5) == {"tiny": 5}, "what the configuration serves is there again"
        assert "goes with its workers" in site.model("unload", "tiny", fails=True).stderr


def test_the_catalogue_outlives_its_masters(tmp_path):
    with Site(tmp_path) as site:
        site.model("load", TINY, "--name", "chat", *KV)
        ports = site.masters[0].ports()
        extra = ["--database", f"sqlite:{tmp_path}/state.db", "--cluster-secret-file", tmp_path / "secret"]
        site.masters[0].close()
        started = time.monotonic()
        with Master(tmp_path / "m0", name="again", model=None, extra=[*extra, "--id", "m0"], ports=ports) as again:
            wait_for(again.is_ready, "the master again")
            site.masters[0] = again
            assert site.ask("chat").json()["model"] == "chat@1"
            assert site.workers_of("chat@1") == {"w0"}
            # Nothing is loaded twice while workers link again.
            wait_for(lambda: time.monotonic() > started + 5, "a while")
            assert "worker told to load" not in again.log()

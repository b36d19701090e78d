"""The `fathom` command as a user runs it."""

import hashlib
import json
import os
import pty
import signal
import subprocess

import httpx
import pytest
from harness import BIN, EVAL_DATA, KEY, Cluster, examples, fathom, sample, wait_for

ANSWER = "Fathom is a distributed inference server for large language models."


@pytest.fixture
def to(cluster):
    return ("--url", cluster.url, "--key", KEY)


def test_help_and_version():
    for command in (
        (),
        ("up",),
        ("chat",),
        ("key",),
        ("eval",),
        ("version",),
        ("bench", "serve"),
        ("chaos",),
        ("tokenize",),
        ("completion",),
    ):
        shown = fathom(*command, "--help")
        assert shown.returncode == 0
        assert "Usage" in shown.stdout
    assert fathom("version").stdout.startswith("fathom ")


@pytest.mark.parametrize(
    "arguments",
    [(), ("nothing",), ("up", "--workers", "0"), ("up", "--no-such-flag"), ("eval",), ("chat", "--temperature", "hot")],
    ids=str,
)
def test_wrong_usage_exits_with_2(arguments):
    done = fathom(*arguments)
    assert done.returncode == 2
    assert done.stderr


def test_key_is_made_once_and_hashed(tmp_path):
    state = tmp_path / "state"
    key = fathom("key", "--state-dir", state).stdout.strip()
    assert key.startswith("fathom-") and len(key) == len("fathom-") + 64
    assert fathom("key", "--state-dir", state).stdout.strip() == key
    assert fathom("key", "--hash", "--state-dir", state).stdout.strip() == hashlib.sha256(key.encode()).hexdigest()
    assert (state.stat().st_mode & 0o777, (state / "key").stat().st_mode & 0o777) == (0o700, 0o600)


def test_key_refuses_a_folder_that_others_read(tmp_path):
    tmp_path.chmod(0o755)
    done = fathom("key", "--state-dir", tmp_path)
    assert done.returncode == 4
    assert "0700" in done.stderr


def test_chat_answers_one_prompt(to):
    done = fathom("chat", "What", "is", "Fathom?", "--temperature", 0, "--stats", *to)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ANSWER + "\n"
    assert "TTFT" in done.stderr and "tokens/s" in done.stderr


def test_chat_reads_the_prompt_from_stdin(to):
    for arguments in ((), ("-",)):
        done = fathom("chat", *arguments, "--temperature", 0, *to, stdin="What is Fathom?")
        assert (done.returncode, done.stdout) == (0, ANSWER + "\n"), done.stderr
        assert done.stderr == ""
    assert fathom("chat", *to, stdin=" \n").returncode == 2


def test_chat_passes_flags_on(to):
    stopped = fathom("chat", "What is Fathom?", "--temperature", 0, "--stop", "inference", *to)
    assert stopped.stdout.strip() == "Fathom is a distributed"
    short = fathom("chat", "What is Fathom?", "--temperature", 0, "--max-tokens", 1, "--stats", *to)
    assert "length" in short.stderr
    refused = fathom("chat", "Hi", "--temperature", -1, *to)
    assert refused.returncode == 2
    assert "temperature" in refused.stderr


def test_chat_keeps_the_talk_in_mind(to):
    example = examples("memory")[0]
    asked = [m["content"] for m in example["messages"] if m["role"] == "user"]
    controller, terminal = pty.openpty()
    argv = [BIN / "fathom", "chat", "--temperature", "0", *to]
    with subprocess.Popen(argv, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as talk:
        os.close(terminal)
        os.write(controller, ("\n".join(asked) + "\n").encode() + b"\x04")
        out, err = talk.communicate(timeout=60)
        os.close(controller)
    assert talk.returncode == 0, err
    assert out.splitlines()[-1].strip() == example["expected"]
    assert err.count("TTFT") == len(asked) > 1


def test_ctrl_c_in_an_answer_stops_it(to):
    argv = [BIN / "fathom", "chat", "Tell me a story.", *to]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as talk:
        talk.send_signal(signal.SIGINT)
        talk.communicate(timeout=30)
    assert talk.returncode in (0, 130, -signal.SIGINT)  # 0: it had answered before


def test_errors_have_exit_codes(cluster, tmp_path):
    nobody = fathom("chat", "Hi", "--url", "http://127.0.0.1:1")
    assert (nobody.returncode, nobody.stdout) == (3, "")
    no_cluster = fathom("chat", "Hi", "--state-dir", tmp_path / "s")
    assert no_cluster.returncode == 3
    assert "fathom up" in no_cluster.stderr
    assert fathom("chat", "Hi", "--url", cluster.url, "--key", "wrong").returncode == 4
    assert fathom("chat", "Hi", "--url", cluster.url, "--key", KEY, "--model", "none").returncode == 1
    assert fathom("chat", "Hi", "--url", "https://127.0.0.1").returncode == 2


@pytest.mark.parametrize(("concurrency", "limit"), [(1, 60), (16, sample(1500)), (64, sample(1500))])
@pytest.mark.timeout(600)
def test_eval_is_the_same_at_any_concurrency(to, tmp_path, concurrency, limit, record_property):
    report = tmp_path / "report.json"
    flags = ("--concurrency", concurrency, "--limit", limit, "--json", report, "--min", 0.99)
    done = fathom("eval", "--data", EVAL_DATA, *flags, *to, limit_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(report.read_text())
    assert result["count"] == limit
    assert result["errors"] == 0
    assert result["exact_match"] >= (0.995 if limit == 1500 else 0.99)
    assert len(result["tasks"]) == 15
    assert "exact_match" in done.stdout and "\r" not in done.stderr
    record_property(
        f"eval at {concurrency}", f"{result['exact_match']:.4f}, {result['tokens_per_second']:.0f} tokens/s"
    )


@pytest.mark.parametrize(
    "flags", [("--dtype", "f32"), ("--dtype", "bf16"), ("--batch-invariant",), ("--backend", "ref")]
)
def test_eval_is_the_same_however_it_is_computed(tmp_path, flags):
    with Cluster(tmp_path, worker_extra=flags) as running:
        to = ("--url", running.url, "--key", KEY)
        done = fathom("eval", "--data", EVAL_DATA, "--limit", 45, "--min", 1, *to, limit_s=100)
    assert done.returncode == 0, done.stdout + done.stderr


def test_eval_starts_a_cluster_when_none_runs(tmp_path):
    done = fathom("eval", "--data", EVAL_DATA, "--limit", 15, "--state-dir", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "starting one" in done.stderr


def test_eval_judges(to, tmp_path):
    data = tmp_path / "data.jsonl"
    example = examples("add")[0]
    data.write_text(json.dumps(example | {"expected": "wrong"}) + "\n")
    assert fathom("eval", "--data", data, *to).returncode == 0
    below = fathom("eval", "--data", data, "--min", 0.5, *to)
    assert below.returncode == 1
    assert "--min" in below.stderr
    data.write_text("\n{}\n")
    damaged = fathom("eval", "--data", data, *to)
    assert damaged.returncode == 2
    assert "line 2" in damaged.stderr
    data.write_text(json.dumps(example | {"messages": [{"role": "nobody"}]}) + "\n")
    failed = fathom("eval", "--data", data, *to)
    assert failed.returncode in (1, 2)
    assert "1 of 1 requests failed" in failed.stderr
    assert fathom("eval", "--data", tmp_path / "missing", *to).returncode == 1


def test_cli_finds_the_cluster_of_its_state_folder(start_up):
    up = start_up()
    info = up.info()
    assert wait_for(lambda: "curl" in up.log() and "fathom chat" in up.log(), "the greeting")
    assert info["http"] in up.log()
    assert up.key() not in up.log()
    done = fathom("chat", "What is Fathom?", "--temperature", 0, env={"FATHOM_STATE_DIR": str(up.state)})
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n"), done.stderr


def test_open_cluster_needs_no_key(start_up):
    up = start_up("--open")
    info = up.info()
    done = fathom("chat", "What is Fathom?", "--temperature", 0, "--url", info["http"])
    assert (done.returncode, done.stdout) == (0, ANSWER + "\n"), done.stderr


def test_a_cluster_of_two_masters_outlives_one(start_up):
    up = start_up("--masters", 2, "--workers", 1, "--open")
    up.info()
    ports = [json.loads((up.state / f"master-{i}.ports.json").read_text()) for i in (0, 1)]
    assert wait_for(lambda: "Ctrl-C" in up.log(), "the greeting")
    assert f":{ports[1]['http']}/v1" in up.log()
    os.kill(up.child("fathom-master")[0], signal.SIGSTOP)
    answers = []
    for port in ports:
        url = f"http://127.0.0.1:{port['http']}"
        try:
            answers.append(httpx.get(f"{url}/ready", timeout=2).status_code)
            done = fathom("chat", "What is Fathom?", "--temperature", 0, "--url", url)
            assert (done.returncode, done.stdout) == (0, ANSWER + "\n"), done.stderr
        except httpx.TimeoutException:
            answers.append(None)
    assert sorted(answers, key=str) == [200, None]


def test_a_worker_that_is_drained_has_a_successor(start_up):
    up = start_up("--workers", 2)
    admin = ("--admin", up.info()["admin"], "--key", up.key())
    for _ in range(3):
        before = set(up.child("fathom-worker"))
        assert fathom("workers", "drain", "worker-0", *admin).returncode == 0
        wait_for(lambda seen=before: len(set(up.child("fathom-worker")) - seen) == 1, "the successor")
        wait_for(lambda: fathom("workers", *admin).stdout.count("ready") == 2, "both ready")
    assert up.log().count("the worker-0 left") == 3 and "starting it again" not in up.log()

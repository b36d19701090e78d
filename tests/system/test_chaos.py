"""`fathom chaos` as users run it: what it counts, and that it would see what goes wrong."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from harness import BIN, children_of, fathom, is_alive, wait_for

SIMULATED = ("--simulated", "free,step_us=4000")
WRONGS = ("duplicated_tokens", "missing_tokens", "wrong_tokens", "wrong_usage", "wrong_ends")


def chaos(tmp_path, *flags):
    report = tmp_path / "report.json"
    report.unlink(missing_ok=True)
    environment = {"TMPDIR": str(tmp_path)}
    done = fathom("chaos", "--json", report, *flags, env=environment, limit_s=110)
    assert report.exists(), done.stdout + done.stderr
    return done, json.loads(report.read_text())


def check_promises(report, done):
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["broken_promises"] == []
    assert report["conservation"]["checks"] > 0
    for counts in report["clients"].values():
        assert counts["requests"] > 0
        assert [counts[wrong] for wrong in WRONGS] == [0] * len(WRONGS)


def met(report, kind):
    return sum(c["by_fault"].get(kind, {"requests": 0})["requests"] for c in report["clients"].values())


@pytest.mark.parametrize(
    "flags",
    [(*SIMULATED, "--workers", 4), ("--workers", 3, "--concurrency", 12)],
    ids=["simulated", "models/tiny"],
)
def test_nothing_is_lost_with_a_worker(tmp_path, flags):
    done, report = chaos(tmp_path, *flags, "--seconds", 8, "--faults", "kill,stop,cut", "--rate", 2)
    check_promises(report, done)
    assert all(report["faults"][counter] >= 1 for counter in ("kills", "stops", "cuts"))
    # Not each of them: some workers have nothing to do when they are struck.
    assert sum(met(report, kind) for kind in ("kill", "stop", "cut")) > 0
    for counts in report["clients"].values():
        assert counts["lost"] == counts["hung"] == 0
    assert report["history"]["read"] > 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("fathom-chaos-")]
    assert "STALL P50" in done.stdout


def test_clients_that_resume_lose_nothing_with_a_master(tmp_path):
    faults = "master-kill,both,kill,master-restart"
    done, report = chaos(tmp_path, *SIMULATED, "--masters", 2, "--seconds", 10, "--faults", faults, "--rate", 1)
    check_promises(report, done)
    assert report["faults"]["master_kills"] >= 1 and report["faults"]["boths"] >= 1
    for client in ("ours", "resuming"):
        assert report["clients"][client]["lost"] == 0
        assert report["clients"][client]["resumed"] > 0
    # It cannot know what it was not told: its connection died.
    plain = report["clients"]["plain"]
    assert plain["lost"] > 0 and plain["resumed"] == 0


def test_restarts_slow_and_stopped_ones_lose_nothing(tmp_path):
    faults = "slow,restart,master-stop,rolling"
    done, report = chaos(tmp_path, *SIMULATED, "--masters", 2, "--seconds", 10, "--faults", faults, "--rate", 2)
    check_promises(report, done)
    assert all(report["faults"][counter] >= 1 for counter in ("slows", "restarts", "master_stops", "rollings"))


@pytest.fixture
def open_tmp_path():
    """A folder that PostgreSQL's user may pass as well."""
    with tempfile.TemporaryDirectory(prefix="fathom-test-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def postgresql_processes(folder):
    """Those whose command line names the folder; what they fork has its title instead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"/postgres") and str(folder).encode() in b" ".join(words):
            found.append(int(path.parent.name))
    return found


def test_nothing_is_lost_with_the_database(open_tmp_path):
    faults = "database-restart,database-stop,kill,master-kill"
    flags = ("--masters", 2, "--seconds", 12, "--faults", faults, "--rate", 1)
    done, report = chaos(open_tmp_path, *SIMULATED, *flags)
    check_promises(report, done)
    for kind, counter in (("database-restart", "database_restarts"), ("database-stop", "database_stops")):
        assert report["faults"][counter] >= 1
        # Every client had something under way.
        for client in ("ours", "resuming"):
            counts = report["clients"][client]["by_fault"][kind]
            assert counts["requests"] > 0 and counts["lost"] == 0
    assert report["leaders"] == 1
    assert report["history"]["read"] > 0
    assert postgresql_processes(open_tmp_path) == []


def test_a_database_ends_with_the_run_that_is_killed_while_it_is_stopped(open_tmp_path):
    command = [BIN / "fathom", "chaos", *SIMULATED, "--workers", "2", "--faults", "database-stop", "--rate", "10"]
    environment = os.environ | {"TMPDIR": str(open_tmp_path)}
    with subprocess.Popen([str(a) for a in command], env=environment, stderr=subprocess.PIPE, text=True) as run:

        def stopped():
            """All of the database's processes, once they stand still."""
            servers = postgresql_processes(open_tmp_path)
            pids = [*servers, *(child for server in servers for child in children_of(server))]
            try:
                states = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in pids]
            except (FileNotFoundError, ProcessLookupError):
                return None
            return len(pids) > 1 and set(states) == {"T"} and pids

        pids = wait_for(stopped, "a database that is stopped")
        run.kill()
        run.wait(20)
        wait_for(lambda: not any(is_alive(pid) for pid in pids), "the end of the database", 20)


def test_a_cut_past_which_workers_may_go_is_refused():
    done = fathom("chaos", "--faults", "cut,database-stop")
    assert done.returncode == 2 and "database" in done.stderr


def test_without_migration_the_losses_are_seen(tmp_path):
    flags = ("--seconds", 4, "--faults", "kill", "--rate", 3, "--no-migration", "--clients", "plain")
    done, report = chaos(tmp_path, *SIMULATED, *flags)
    assert done.returncode == 1
    plain = report["clients"]["plain"]
    assert plain["lost"] > 0 and "requests lost" in done.stderr
    assert any("worker that ran this request was lost" in error for error in plain["errors"])
    # What it needs to be looked into is kept.
    folders = [path for path in tmp_path.iterdir() if path.name.startswith("fathom-chaos-")]
    assert len(folders) == 1 and (folders[0] / "journal.jsonl").exists()
    assert str(folders[0]) in done.stderr


@pytest.mark.parametrize(
    ("kind", "counter"), [("duplicate", "duplicated_tokens"), ("gap", "missing_tokens"), ("swap", "wrong_tokens")]
)
@pytest.mark.parametrize("workers", [SIMULATED, ("--workers", 1)], ids=["simulated", "models/tiny"])
def test_what_is_injected_is_caught(tmp_path, workers, kind, counter):
    flags = ("--seconds", 3, "--faults", "none", "--inject", kind, "--clients", "ours,resuming")
    done, report = chaos(tmp_path, *workers, *flags)
    assert done.returncode == 1
    assert report["injected"] > 0
    assert sum(client[counter] for client in report["clients"].values()) > 0
    assert all(client["lost"] == 0 for client in report["clients"].values())


def test_slowness_is_not_taken_for_death(tmp_path):
    flags = ("--seconds", 6, "--faults", "none", "--busy-threads", 8, "--concurrency", 8)
    done, report = chaos(tmp_path, *SIMULATED, *flags)
    check_promises(report, done)
    assert report["migrations"] == 0


def test_an_undisturbed_run_is_quiet_and_its_journal_whole(tmp_path):
    journal = tmp_path / "journal.jsonl"
    flags = ("--seconds", 2, "--faults", "none", "--clients", "plain,ours", "--journal", journal)
    done, report = chaos(tmp_path, *SIMULATED, *flags)
    check_promises(report, done)
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    begun = [r["n"] for r in records if r["record"] == "begin"]
    ended = [r["n"] for r in records if r["record"] == "end"]
    assert sorted(begun) == sorted(ended) and len(begun) == len(set(begun))
    assert len(begun) == sum(client["requests"] for client in report["clients"].values())
    assert all(r["ended"] == "ok" and r["ids"] for r in records if r["record"] == "end")
    assert report["output_tokens"] == sum(r["tokens"] for r in records if r["record"] == "end") > 0


@pytest.mark.parametrize(
    "flags",
    [("--faults", "nothing"), ("--clients", "others"), ("--inject", "x"), ("--workers", 0), ("--input-len", "5")],
    ids=str,
)
def test_wrong_usage(flags):
    done = fathom("chaos", *flags)
    assert done.returncode == 2 and done.stderr


def test_an_interrupted_run_leaves_nothing_running(tmp_path):
    command = [BIN / "fathom", "chaos", *SIMULATED, "--seconds", "60", "--workers", "2"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([str(a) for a in command], env=environment, stdout=subprocess.PIPE, text=True) as run:

        def children():
            return [int(p) for p in open(f"/proc/{run.pid}/task/{run.pid}/children").read().split()]

        wait_for(lambda: len(children()) == 3, "the cluster")
        pids = children()
        time.sleep(1)
        run.terminate()
        assert run.wait(60) == 130
        assert "CLIENT" in run.stdout.read()
    assert not any(is_alive(pid) for pid in pids)


def test_twice_interrupted_it_does_not_wait(tmp_path):
    flags = ("--simulated", "free,step_us=200000", "--workers", "2", "--output-len", "3000", "--deadline", "600")
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [str(BIN / "fathom"), "chaos", *flags]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as run:
        wait_for(lambda: list(tmp_path.glob("fathom-chaos-*/journal.jsonl")), "the load")
        for _ in range(2):
            run.terminate()
            time.sleep(0.5)
        assert run.wait(20) == 130

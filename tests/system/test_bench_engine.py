"""`fathom bench engine`: the engine measured on this machine, with the tiny model and a second or two of time."""

import json

import pytest
from harness import TINY, fathom

QUICK = ("--batch", "1,3", "--context", "64", "--prompt", "32,100", "--seconds", "0.05", "--limit", "60")


def test_measures_a_model_and_says_so_twice(tmp_path):
    report = tmp_path / "bench.json"
    done = fathom("bench", "engine", "--model", TINY, "--threads", 1, *QUICK, "--json", report)
    assert done.returncode == 0, done.stderr
    assert "of read bandwidth" in done.stdout and "of oneDNN" in done.stdout
    assert "\r" not in done.stderr
    result = json.loads(report.read_text())
    assert (result["model"], result["weights"], result["threads"], result["left_out"]) == ("tiny", "checkpoint", 1, 0)
    bandwidth = result["read_bandwidth"]
    assert bandwidth["buffer_bytes"] >= 1 << 29
    assert bandwidth["one_thread"] > 0 and bandwidth["all_threads"] > 0
    assert [(cell["batch"], cell["context"]) for cell in result["decode"]] == [(1, 64), (3, 64)]
    for cell in result["decode"]:
        assert cell["steps"] >= 3
        assert cell["tokens_per_second"] == pytest.approx(cell["batch"] / cell["ms_per_step"] * 1e3)
        assert cell["bytes_per_step"] > 14_000_000  # 7 M parameters in BF16
        assert cell["of_read_bandwidth"] > 0
    assert [cell["prompt"] for cell in result["prefill"]] == [32, 100]
    for cell in result["prefill"]:
        assert cell["tokens_per_second"] == pytest.approx(cell["prompt"] / cell["ms"] * 1e3)
        assert 0 < cell["of_onednn"] < 10
        assert cell["flop"] > 2 * 5_000_000 * cell["prompt"]


def test_leaves_out_what_the_time_is_too_short_for(tmp_path):
    report = tmp_path / "bench.json"
    cells = ("--batch", "1", "--context", "16,32", "--prompt", "16", "--seconds", "3", "--limit", "1")
    done = fathom("bench", "engine", "--model", TINY, "--threads", 1, *cells, "--json", report)
    assert done.returncode == 0, done.stderr
    result = json.loads(report.read_text())
    assert result["left_out"] + len(result["decode"]) + len(result["prefill"]) == 3
    assert result["left_out"] >= 1
    assert "left out" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--model"),
        (("--model", TINY, "--dummy-weights", "qwen2.5-0.5b"), 2, "excludes"),
        (("--model", TINY, "--batch", "0"), 2, "--batch"),
        (("--model", TINY, "--prompt", "many"), 2, "--prompt"),
        (("--model", TINY, "--no-such-flag"), 2, "--no-such-flag"),
        (("--dummy-weights", "none"), 1, "qwen2.5-0.5b"),
        (("--model", "/nowhere"), 1, "/nowhere"),
        (("--model", TINY, "--context", "1000000"), 1, "context"),
    ],
    ids=str,
)
def test_says_what_is_wrong(arguments, code, said):
    done = fathom("bench", "engine", *arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr


def test_help_lists_the_flags():
    shown = fathom("bench", "engine", "--help")
    assert shown.returncode == 0
    assert "--dummy-weights" in shown.stdout and "llama-3.1-8b" in shown.stdout

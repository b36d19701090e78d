"""`fathom tokenize` and `fathom completion`: no server needed."""

import json
import re
import shutil
import subprocess

import pytest
from harness import BIN, TINY, fathom

TEXT = "What is Fathom?\n\tÄ 2+2 <|im_end|>"


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "fathom.bash"
    path.write_text(fathom("completion", "bash").stdout)
    return path


def completed(script, line):
    """What bash offers at the end of `line`."""
    words = line.split(" ")
    commands = [
        f"source {script}",
        f"COMP_WORDS=({' '.join(repr(w) for w in words)})",
        f"COMP_CWORD={len(words) - 1}",
        "_fathom",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    done = subprocess.run(["bash", "-euc", "\n".join(commands)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_tokenize_and_back():
    ids = fathom("tokenize", TEXT).stdout
    assert re.fullmatch(r"\d+( \d+)*\n", ids)
    assert fathom("tokenize", "--model", TINY, stdin=TEXT).stdout == ids
    assert fathom("tokenize", "-", "--count", stdin=TEXT).stdout == f"{len(ids.split())}\n"
    assert fathom("tokenize", "--decode", *ids.split()).stdout == TEXT
    assert fathom("tokenize", "--decode", stdin=json.dumps([int(i) for i in ids.split()])).stdout == TEXT
    report = json.loads(fathom("tokenize", "--json", TEXT).stdout)
    assert report["token_ids"] == [int(i) for i in ids.split()]
    assert report["count"] == len(report["tokens"]) == len(report["token_ids"])
    assert "<|im_end|>" in report["tokens"]
    assert json.loads(fathom("tokenize", "--json", "--decode", ids).stdout) == {"text": TEXT}


def test_tokenize_says_what_is_wrong(tmp_path):
    assert fathom("tokenize", "x", "--model", tmp_path).returncode == 1
    for ids in ("x", "-1", "999999999", "99999999999999"):
        done = fathom("tokenize", "--decode", stdin=ids)
        assert done.returncode == 2
        assert ids in done.stderr
    assert fathom("tokenize", "x", "--json", "--count").returncode == 2


def test_bash_offers_commands_options_and_values(script):
    assert {"up", "chat", "bench", "completion"} <= set(completed(script, "fathom "))
    assert completed(script, "fathom ben") == ["bench"]
    assert "serve" in completed(script, "fathom bench ")
    assert completed(script, "fathom bench serve --proto") == ["--protocol"]
    assert completed(script, "fathom bench serve --protocol ") == ["openai-chat", "openai", "grpc"]
    assert completed(script, "fathom bench serve --requests ") == []
    # The value of an option is no command, even where it is spelled like one.
    assert "--stats" in completed(script, "fathom chat --model bench --st")


def test_bash_offers_files_and_folders(script, tmp_path):
    (tmp_path / "data.jsonl").touch()
    (tmp_path / "folder").mkdir()
    assert completed(script, f"fathom eval --data {tmp_path}/da") == [f"{tmp_path}/data.jsonl"]
    assert completed(script, f"fathom tokenize --model {tmp_path}/") == [f"{tmp_path}/folder"]


def test_completion_knows_what_help_knows(script):
    """Every option that any command's help shows is offered."""

    def check(path):
        if path == ["bench", "engine"]:
            return  # hands all it gets to fathom-worker, whose help it shows
        shown = fathom(*path, "--help").stdout
        offered = completed(script, " ".join(["fathom", *path, ""]))
        for option in re.findall(r"^  (?:-\w,)?(--[\w-]+)", shown, flags=re.MULTILINE):
            assert option in offered, (path, option)
        _, _, commands = shown.partition("Subcommands:")
        for command in re.findall(r"^  ([a-z]+) ", commands, flags=re.MULTILINE):
            assert command in offered, (path, command)
            check([*path, command])

    check([])


@pytest.mark.parametrize(("shell", "check"), [("zsh", "-n"), ("fish", "--no-execute")])
def test_scripts_of_other_shells(shell, check, tmp_path):
    done = fathom("completion", shell)
    assert done.returncode == 0
    assert "serve" in done.stdout and "--protocol" in done.stdout.replace("-l ", "--")
    if shutil.which(shell):
        path = tmp_path / f"script.{shell}"
        path.write_text(done.stdout)
        subprocess.run([shell, check, path], check=True, timeout=20)
    assert fathom("completion", "csh").returncode == 2
    assert (BIN / "fathom").exists()

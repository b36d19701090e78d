"""The archive of scripts/bundle.sh runs without the libraries of the machine that built it."""

import re
import subprocess

import pytest
from harness import BIN, ROOT

PRESET = BIN.parent.name
# What every machine has of its own, and what CUDA's part needs.
OF_THE_MACHINE = re.compile(r"(ld-linux-x86-64|lib(c|m|dl|rt|pthread|resolv|cublasLt))\.so")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    if PRESET not in ("release", "cuda"):
        pytest.skip(f"the preset {PRESET} is not for other machines")
    folder = tmp_path_factory.mktemp("bundle")
    archive = folder / "fathom.tar.xz"
    command = [ROOT / "scripts" / "bundle.sh", "--preset", PRESET, "--no-build", archive]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", folder], check=True)
    (root,) = (path for path in folder.iterdir() if path.is_dir())
    return root, done.stdout


def run(root, *arguments):
    """Ran with an empty environment: (standard output, paths of the libraries that were loaded)."""
    program = root / "bin" / arguments[0]
    done = subprocess.run(
        [program, *arguments[1:]], env={"LD_DEBUG": "libs"}, capture_output=True, text=True, timeout=60
    )
    if PRESET == "cuda" and "libcublasLt" in done.stderr and done.returncode == 127:
        pytest.skip("no libcublasLt on this machine")
    assert done.returncode == 0, done.stderr
    return done.stdout, set(re.findall(r"calling init: (\S+)", done.stderr))


@pytest.mark.parametrize("command", [("fathom", "version"), ("fathom-master", "--help"), ("fathom-worker", "--help")])
def test_programs_load_nothing_of_the_machine_but_glibc(bundle, command):
    root, _ = bundle
    output, libraries = run(root, *command)
    assert "fathom" in output
    assert any("libstdc++" in path for path in libraries)
    foreign = [p for p in libraries if not p.startswith(f"{root}/") and not OF_THE_MACHINE.search(p.rsplit("/", 1)[1])]
    assert not foreign


def test_the_model_is_inside(bundle):
    root, _ = bundle
    output, _ = run(root, "fathom", "tokenize", "Hello")
    assert re.fullmatch(r"\d+( \d+)*\n", output)


def test_it_tells_its_size_and_what_is_inside(bundle):
    root, said = bundle
    size = float(re.match(r"\S+: ([\d.]+) MiB packed", said)[1])
    assert 5 < size <= 40
    assert "bin/fathom-worker" in said
    assert "left to the machine: libc.so.6" in said
    assert "oneDNN" in said
    assert (root / "share" / "fathom" / "licenses").is_dir()
    assert not list(root.rglob("*eval*"))

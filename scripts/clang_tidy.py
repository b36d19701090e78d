#!/usr/bin/env python3
"""clang-tidy over our own sources, in parallel: clang_tidy.py BUILD_DIR [--changed BASE] [--jobs N]

A file that passed is not checked again until it, a header it includes, or the configuration changes; what passed is
remembered in .cache/clang-tidy. --changed checks only what differs from the commit BASE, headers counted.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "clang-tidy"


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def own_sources(build):
    """{source: the object ninja makes of it} for the sources under src/, benchmarks/, examples/ and tests/."""
    sources = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        file = Path(entry["directory"], entry["file"]).resolve()
        if any(file.is_relative_to(ROOT / folder) for folder in ("src", "benchmarks", "examples", "tests")):
            words = shlex.split(entry["command"])
            sources[file] = words[words.index("-o") + 1]
    return sources


def included_files(build):
    """{object: files it was compiled from}, as ninja recorded them; nothing for what was not built yet."""
    deps, current = {}, None
    for line in output_of("ninja", "-C", str(build), "-t", "deps").splitlines():
        if line.startswith("    "):
            current.append(os.path.normpath(build / line.strip()))
        elif ": #deps" in line:
            current = deps.setdefault(line.split(":")[0], [])
    return deps


class Digests:
    """Digests of files: of their content for ours, of size and time for the system's."""

    def __init__(self):
        self.known = {}

    def of(self, path):
        if path not in self.known:
            if path.startswith(str(ROOT)):
                self.known[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            else:
                status = os.stat(path)
                self.known[path] = f"{status.st_size} {status.st_mtime_ns}"
        return self.known[path]


def changed_files(base):
    names = output_of("git", "diff", "--name-only", base).splitlines()
    names += output_of("git", "ls-files", "--others", "--exclude-standard").splitlines()
    return {str(ROOT / name) for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--changed", metavar="BASE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    build = arguments.build.resolve()

    deps, digests = included_files(build), Digests()
    setup = output_of("clang-tidy", "--version") + (ROOT / ".clang-tidy").read_text()
    changed = changed_files(arguments.changed) if arguments.changed else None
    todo = {}
    sources = own_sources(build)
    for source, target in sources.items():
        files = deps.get(target)
        if changed is not None and not changed & {str(source), *(files or [])}:
            continue
        stamp = None
        if files:
            parts = [setup, str(source.relative_to(ROOT))] + [f"{f} {digests.of(f)}" for f in sorted(files)]
            stamp = CACHE / hashlib.sha256("\n".join(parts).replace(str(ROOT), "").encode()).hexdigest()
            if stamp.exists():
                continue
        todo[source] = stamp

    def check(source):
        done = subprocess.run(
            ["clang-tidy", "--quiet", "-p", str(build), str(source)], capture_output=True, text=True, cwd=ROOT
        )
        return source, done.returncode, done.stdout

    CACHE.mkdir(parents=True, exist_ok=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for source, code, text in pool.map(check, todo):
            if code != 0:
                failed += 1
                print(text, end="", flush=True)
            elif todo[source]:
                todo[source].touch()
    print(f"clang-tidy: {len(todo)} of {len(sources)} files checked, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

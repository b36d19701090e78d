"""Every source file is named by the CMakeLists.txt of its folder or of one above."""

import re
from pathlib import PurePosixPath

SOURCES = (".cc", ".cu", ".h", ".cuh", ".proto")
NAMED = re.compile(r"[\w./${}-]+")


def check(tree):
    words = {p: set(NAMED.findall(_without_comments(tree.read(p)))) for p in tree.paths if p.endswith("CMakeLists.txt")}
    problems = []
    for folder in ("src/", "proto/", "benchmarks/", "examples/", "tests/fuzz/"):
        for path in tree.below(folder, *SOURCES):
            if not _is_named(path, words):
                problems.append(f"{path}:1: no CMakeLists.txt names it")
    return problems


def _without_comments(text):
    return "\n".join(line.split("#")[0] for line in text.splitlines())


def _is_named(path, words):
    """By its path relative to the CMakeLists.txt, or by its stem where a loop adds the suffix (`${name}.cc`)."""
    file = PurePosixPath(path)
    for folder in file.parents:
        named = words.get((folder / "CMakeLists.txt").as_posix())
        if not named:
            continue
        relative = file.relative_to(folder)
        if relative.as_posix() in named:
            return True
        looped = any("}" + file.suffix in word for word in named)
        if looped and relative.with_suffix("").as_posix() in named:
            return True
    return False

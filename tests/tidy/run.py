#!/usr/bin/env python3
"""Runs the tidy checks: run.py [CHECK...]; all of them without arguments. Exits 1 when one finds something."""

import sys
from pathlib import Path

import cmake_sources
import includes
import text_rules
from tree import Tree

CHECKS = {
    "includes": includes.check,
    "cmake_sources": cmake_sources.check,
    "length": text_rules.check_length,
    "owners": text_rules.check_owners,
    "names": text_rules.check_names,
    "headers": text_rules.check_headers,
    "coroutines": text_rules.check_coroutines,
    "protos": text_rules.check_protos,
}


def main(arguments):
    tree = Tree(Path(__file__).resolve().parents[2])
    names = arguments or list(CHECKS)
    if unknown := [n for n in names if n not in CHECKS]:
        print(f"unknown check {unknown[0]}; there are: {' '.join(CHECKS)}", file=sys.stderr)
        return 2
    problems = [f"{p} [{name}]" for name in names for p in CHECKS[name](tree)]
    print("\n".join(problems) if problems else f"tidy: {', '.join(names)}: {len(tree.paths)} files, nothing to say")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

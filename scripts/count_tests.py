#!/usr/bin/env python3
"""Sums the JUnit files of a folder: prints `N passed, N failed` last; fails when a test failed or no test ran."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def outcomes(path):
    """(name, "passed" | "failed" | "skipped") of every test case of one file."""
    for case in ElementTree.parse(path).iter("testcase"):
        name = ".".join(filter(None, (case.get("classname"), case.get("name"))))
        if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
            yield name, "failed"
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            yield name, "skipped"
        else:
            yield name, "passed"


def main(folder):
    count = {"passed": 0, "failed": 0, "skipped": 0}
    for path in sorted(Path(folder).glob("*.xml")):
        for name, outcome in outcomes(path):
            count[outcome] += 1
            if outcome == "failed":
                print(f"FAILED {name}")
    if count["skipped"]:
        print(f"{count['skipped']} skipped")
    print(f"{count['passed']} passed, {count['failed']} failed")
    return 1 if count["failed"] or not count["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

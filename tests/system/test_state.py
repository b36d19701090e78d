"""The masters' shared state on a real PostgreSQL."""

import os
import subprocess

import pytest
from harness import BIN, clean_environment
from postgresql import Postgresql


@pytest.fixture(scope="module")
def postgresql():
    with Postgresql() as server:
        yield server


def test_the_unit_tests_of_the_state_pass_on_postgresql_too(postgresql):
    program = BIN.parent / "tests" / "master_state_test"
    environment = {**clean_environment(), **postgresql.environment(), "FATHOM_TEST_DATABASE": postgresql.url}
    done = subprocess.run([program], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

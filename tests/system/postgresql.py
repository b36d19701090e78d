"""A PostgreSQL server of its own for a test: Debian's binaries, a temporary folder, a free port of the loopback."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from harness import wait_for

BINARIES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
# The server refuses to run as root, so root lends it a user that can do nothing else here.
USER = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Postgresql:
    """A context manager; `url` is what a master takes. Passwords are asked of `fathom`, the one user with rights."""

    password = "state-test-password"

    def __init__(self):
        assert BINARIES is not None, "no PostgreSQL server here; scripts/setup.sh installs it"
        self.folder = Path(tempfile.mkdtemp(prefix="fathom-postgresql-"))
        self.port = free_port()
        self.password_file = self.folder / "password"
        self.password_file.write_text(self.password + "\n")
        if os.getuid() == 0:
            shutil.chown(self.folder, USER, USER)
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self._run(
            "initdb", "--pgdata", self.data, "--username", "fathom", "--auth", "scram-sha-256",
            "--pwfile", self.password_file, "--no-sync", "--encoding", "UTF8", "--locale", "C",
        )  # fmt: skip
        self.start()

    def _run(self, program, *arguments, check=True):
        command = [str(BINARIES / program), *map(str, arguments)]
        if os.getuid() == 0:
            command = ["runuser", "-u", USER, "--", *command]
        return subprocess.run(command, check=check, capture_output=True, text=True, cwd="/", timeout=60)

    def _control(self, *arguments, check=True):
        # The server inherits the pipes of pg_ctl, which then never end: its output goes to the log alone.
        command = [str(BINARIES / "pg_ctl"), "--pgdata", str(self.data), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", USER, "--", *command]
        subprocess.run(command, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", timeout=60)

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._control("--log", str(self.folder / "server.log"), "--options", options, "--wait", "start")
        wait_for(self.answers, "PostgreSQL")

    def stop(self, mode="immediate"):
        self._control("--mode", mode, "--wait", "stop")

    def restart(self):
        """As after a crash: connections break, nothing is said to anybody."""
        self.stop("immediate")
        self.start()

    def answers(self):
        return self._run("pg_isready", "--host", "127.0.0.1", "--port", self.port, check=False).returncode == 0

    @property
    def url(self):
        return f"postgresql://fathom@127.0.0.1:{self.port}/postgres"

    def environment(self):
        """For libpq's own programs and for tests that have no file of the password."""
        return {"PGPASSWORD": self.password}

    def query(self, sql):
        """Rows as lists of texts."""
        command = [BINARIES / "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--field-separator", "\t"]
        done = subprocess.run(
            [*map(str, command), "--dbname", self.url, "--command", sql],
            check=True, capture_output=True, text=True, env={**os.environ, **self.environment()}, timeout=60,
        )  # fmt: skip
        return [line.split("\t") for line in done.stdout.splitlines() if line]

    def close(self):
        self._control("--mode", "immediate", "stop", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

"""Mutual TLS between masters and workers, over real processes."""

import json
import socket
import ssl
import stat
import subprocess
import time

import httpx
from harness import BIN, KEY, TINY, Master, Worker, certificates, clean_environment, fathom, link_flags, wait_for


def _serial(address, folder):
    """The serial number of the certificate that a link port shows, by TLS 1.3 with a worker's certificate."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(folder / "worker" / "cert.pem", folder / "worker" / "key.pem")
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain) as secure:
        return secure.getpeercert()["serialNumber"]


def _chat(url):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "What is Fathom?"}], "max_tokens": 4}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=30)


def test_renewed_certificates_are_taken_up_without_a_restart(tmp_path):
    folder = tmp_path / "certificates"
    assert fathom("cert", folder).returncode == 0
    with Master(tmp_path, extra=link_flags("master", folder)) as master:
        with Worker(tmp_path, master.link_address, extra=link_flags("worker", folder)) as worker:
            worker.wait_ready()
            before = _serial(master.link_address, folder)
            assert _serial(master.link_address, folder) == before
            renewed = fathom("cert", folder, "--days", 2)
            assert renewed.returncode == 0 and "new CA" not in renewed.stderr
            wait_for(lambda: _serial(master.link_address, folder) != before, "the new certificate", 30)
            master.wait_ready()
            assert _chat(master.url).status_code == 200
        # A worker with the new certificate meets a master with it.
        with Worker(tmp_path, master.link_address, name="next", extra=link_flags("worker", folder)) as worker:
            worker.wait_ready()
            master.wait_ready()
            assert _chat(master.url).status_code == 200


def test_a_worker_of_another_ca_is_refused_and_both_say_why(tmp_path):
    other = tmp_path / "other"
    assert fathom("cert", other).returncode == 0
    master = Master(tmp_path)
    with master, Worker(tmp_path, master.link_address, extra=link_flags("worker", other)) as worker:
        wait_for(lambda: "master not reached" in worker.log(), "the worker's log")
        wait_for(lambda: "certificate verify failed" in worker.log(), "the worker's log")
        time.sleep(0.5)
        assert not master.is_ready()
        assert "worker linked" not in master.log()
        # What gRPC has to say is no line of its own form.
        for log in (worker.log(), master.log()):
            for line in log.splitlines():
                assert json.loads(line)["service.name"]


def test_a_master_names_whom_it_refuses_and_not_at_every_dial(tmp_path):
    other = tmp_path / "other"
    assert fathom("cert", other).returncode == 0
    # Takes the master for what it is, and shows a certificate that the master does not know.
    both = tmp_path / "both.pem"
    both.write_text((certificates() / "ca.pem").read_text() + (other / "ca.pem").read_text())
    flags = link_flags("worker", other)
    flags[1] = both

    def lines_of(process, said):
        lines = [json.loads(line) for line in process.log().splitlines()]
        return [line for line in lines if said in line.get("error.message", line["message"])]

    with Master(tmp_path) as master:
        with Worker(tmp_path, master.link_address, extra=[*flags, "--log-level", "debug"]) as worker:
            wait_for(lambda: len(lines_of(worker, "Socket closed")) >= 5, "several dials")
            assert not master.is_ready()
        refused = lines_of(master, "certificate verify failed")
    assert [line["message"] for line in refused] == ["peer refused"], refused
    assert refused[0]["source.address"] == "127.0.0.1" and refused[0]["log.level"] == "warn"
    assert refused[0]["labels.held_back"] == 0


def test_nothing_older_than_tls_1_3_is_spoken(cluster):
    command = ["openssl", "s_client", "-connect", cluster.master.link_address, "-tls1_2", "-alpn", "h2"]
    old = subprocess.run(command, input="", capture_output=True, text=True, timeout=20, env=clean_environment())
    assert old.returncode != 0 and "BEGIN CERTIFICATE" not in old.stdout


def test_cert_makes_what_the_programs_take(tmp_path):
    folder = tmp_path / "c"
    made = fathom("cert", folder)
    assert made.returncode == 0 and "new CA" in made.stderr
    lines = made.stdout.splitlines()
    assert lines[0].startswith("fathom-master --link-ca ") and lines[1].startswith("fathom-worker --link-ca ")
    for secret in (folder / "ca.key", folder / "master" / "key.pem", folder / "worker" / "key.pem"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    authority = (folder / "ca.pem").read_text()
    # Where the CA's key is kept elsewhere, another CA must not take its place.
    (folder / "ca.key").unlink()
    again = fathom("cert", folder)
    assert again.returncode == 1 and "ca.key" in again.stderr
    assert (folder / "ca.pem").read_text() == authority
    swapped = [BIN / "fathom-master", "--open", "--model", TINY, *link_flags("worker", folder)]
    for name in ("http", "grpc", "admin", "link", "metrics"):
        swapped += [f"--{name}-port", "0"]
    ended = subprocess.run(swapped, capture_output=True, text=True, timeout=20, env=clean_environment())
    assert ended.returncode == 78 and "fathom-master" in ended.stderr

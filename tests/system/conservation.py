"""Nothing gets lost: every generation that began has ended in one of three ways, or is in flight."""

import time

import httpx
from harness import wait_for
from prometheus_client.parser import text_string_to_metric_families

ENDS = ("ok", "error", "cancelled")


class Count:
    """What one scrape of a master says of its generations."""

    def __init__(self, master):
        text = httpx.get(f"http://127.0.0.1:{master.ports()['metrics']}/metrics", timeout=10).text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

        def value(name, **labels):
            return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

        self.accepted = value("fathom_master_generations_accepted_total")
        self.in_flight = value("fathom_master_requests_in_flight")
        self.ended = {end: value("fathom_master_generations_total", outcome=end) for end in ENDS}

    @property
    def astray(self):
        return self.accepted - sum(self.ended.values()) - self.in_flight

    def __repr__(self):
        return f"accepted {self.accepted:.0f}, ended {self.ended}, in flight {self.in_flight:.0f}"


def check_conservation(master, limit_s=10):
    """Under load a scrape reads one number before the other, so a difference must last to count."""
    deadline = time.monotonic() + limit_s
    while (count := Count(master)).astray and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not count.astray, count
    return count


def wait_until_idle(master, limit_s=20):
    """Nothing in flight, nothing astray."""
    count = wait_for(lambda: (c := Count(master)).in_flight == 0 and c, "nothing in flight", limit_s)
    assert check_conservation(master).in_flight == 0, count

"""Nothing gets lost: at every moment each generation that began has ended in one of three ways, or is in flight."""

import httpx
from harness import wait_for
from prometheus_client.parser import text_string_to_metric_families

ENDS = ("ok", "error", "cancelled")


def scrape(url):
    """A function of a metric's name and labels: the sum of what matches."""
    text = httpx.get(f"{url}/metrics", timeout=20).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def value(name, **labels):
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    return value


class Count:
    """What one scrape of a master says of its generations."""

    def __init__(self, master, port="metrics"):
        value = scrape(f"http://127.0.0.1:{master.ports()[port]}")
        self.accepted = value("fathom_master_generations_accepted_total")
        self.in_flight = value("fathom_master_requests_in_flight")
        self.ended = {end: value("fathom_master_generations_total", outcome=end) for end in ENDS}

    @property
    def astray(self):
        return self.accepted - sum(self.ended.values()) - self.in_flight

    def __repr__(self):
        return f"accepted {self.accepted:.0f}, ended {self.ended}, in flight {self.in_flight:.0f}"


def check_conservation(master, port="metrics"):
    """Of this very scrape, whatever goes on meanwhile."""
    count = Count(master, port)
    assert not count.astray, count
    return count


def wait_until_idle(master, limit_s=20):
    """Nothing in flight, nothing astray."""
    return wait_for(lambda: (c := check_conservation(master)).in_flight == 0 and c, "nothing in flight", limit_s)


def worker_requests(cluster):
    """Requests that the worker has taken on and not finished."""
    return scrape(f"http://127.0.0.1:{cluster.worker.ports()['metrics']}")("fathom_worker_requests")

"""Fixtures of the tests of the chat page, for modules that name this one in pytest_plugins."""

import pytest
from browser import Page, mock_server, start_chromium


@pytest.fixture(scope="session")
def chromium():
    driver = start_chromium()
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium):
    """Fails a test whose page complained on the console, as it does when the policy of its headers is violated."""
    made = Page(chromium)
    yield made
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert made.console() == []


@pytest.fixture(scope="session")
def mock(cluster):
    with mock_server(cluster.url) as server:
        yield server


@pytest.fixture
def chat(page, mock):
    """chat(*answers) opens the page before the scripted server."""

    def start(*answers):
        mock.script, mock.requests = list(answers), []
        mock.gone.clear()
        return page.open(mock.url).wait_models()

    return start

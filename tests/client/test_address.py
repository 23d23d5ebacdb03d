"""A client finds its daemon."""

import pathlib

import pytest

from bertd import addresses
from bertd.client import admin, channel, sync


def test_a_given_address_wins(monkeypatch):
    """An argument beats the environment, and a bare path means a socket."""
    monkeypatch.setenv("BERTD_SERVER", "elsewhere:1")
    assert channel.admin_target("here:2") == "here:2"
    assert channel.data_target("/run/x.sock") == "unix:/run/x.sock"


def test_the_environment_names_the_daemon(monkeypatch):
    """BERTD_SERVER is the address of every verb and of the clients."""
    monkeypatch.setenv("BERTD_SERVER", "elsewhere:1")
    with sync.Client() as client, admin.AdminClient() as operator:
        assert (client.address, operator.address) == ("elsewhere:1", "elsewhere:1")


def test_the_admin_socket_is_preferred_where_it_exists(monkeypatch, tmp_path):
    """An application on the daemon's own machine needs no configuration."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    socket = pathlib.Path(tmp_path, "bertd", "admin.sock")
    assert channel.data_target(None) == addresses.DATA
    socket.parent.mkdir()
    socket.touch()
    assert channel.data_target(None) == f"unix:{socket}"


def test_the_admin_is_only_on_its_socket():
    """Verbs never fall back to the data port: it knows no Admin."""
    assert channel.admin_target(None) == "unix:/nonexistent/bertd/admin.sock"


@pytest.mark.parametrize("key", ["retryPolicy", "retryThrottling", "round_robin"])
def test_the_service_config_is_the_published_one(key):
    """Retries, their throttling and the balancing are what the documents promise."""
    assert key in channel.SERVICE_CONFIG

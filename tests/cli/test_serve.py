"""`serve`: what the daemon is told."""

import sys
from pathlib import Path

import pytest

from bertd import addresses, daemon, errors


@pytest.fixture
def told(monkeypatch) -> list[daemon.Options]:
    """What the daemon was started with; it ends at once, because another one is there."""
    seen: list[daemon.Options] = []

    def main(options: daemon.Options) -> None:
        seen.append(options)
        raise errors.Conflict("another daemon is there")

    monkeypatch.setattr(daemon, "main", main)
    return seen


def test_the_defaults_need_no_options(bertd, told, monkeypatch):
    """Loopback ports, a private socket, state in the user's own folder (D14)."""
    monkeypatch.delenv("BERTD_SERVER")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    assert bertd("serve").code == 4
    assert told == [
        daemon.Options(
            state_dir=Path("/home/me/state/bertd"),
            listen=("127.0.0.1:50051",),
            admin="unix:/run/user/7/bertd/admin.sock",
            metrics="127.0.0.1:9464",
        )
    ]


def test_every_option_arrives(bertd, told):
    """Addresses may be paths of sockets, and --listen may be repeated."""
    bertd(
        "serve", "--state-dir", "/s", "--listen", "0.0.0.0:1", "--listen", "/run/d.sock",
        "--admin", "/run/a.sock", "--metrics", "", "--health", "127.0.0.1:2", "--lanes", "3",
        "--reflection", "--log-format", "json",
    )  # fmt: skip
    assert told == [
        daemon.Options(
            state_dir=Path("/s"),
            listen=("0.0.0.0:1", "unix:/run/d.sock"),
            admin="unix:/run/a.sock",
            metrics="",
            health="127.0.0.1:2",
            lanes=3,
            log_format="json",
            reflection=True,
        )
    ]


def test_serve_listens_where_verbs_look(bertd, told, address, monkeypatch):
    """A socket in BERTD_SERVER is the admin socket; a port there is somebody else's daemon."""
    bertd("serve")
    assert told[0].admin == address
    monkeypatch.setenv("BERTD_SERVER", "far.example:443")
    bertd("serve")
    assert told[1].admin.endswith("/admin.sock")


def test_the_daemon_is_for_linux(bertd, told, monkeypatch):
    """Elsewhere it is refused with a remedy."""
    monkeypatch.setattr(sys, "platform", "darwin")
    ran = bertd("serve")
    assert ran.code == 2
    assert "BERTD_SERVER" in ran.err
    assert told == []


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"BERTD_SERVER": "h:1"}, "h:1"),
        ({"BERTD_SERVER": "/x.sock"}, "unix:/x.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, "unix:/run/user/7/bertd/admin.sock"),
        ({}, "unix:/tmp/bertd-7/admin.sock"),
    ],
)
def test_where_verbs_look(environ, wanted):
    """BERTD_SERVER, else the user's runtime directory, else a folder of the user in /tmp."""
    assert addresses.server(environ, 7) == wanted


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/bertd"),
        ({"HOME": "/h"}, "/h/.local/state/bertd"),
        ({}, "/var/tmp/bertd-7"),
    ],
)
def test_where_state_is_kept(environ, wanted):
    """The user's state directory, by the XDG rules."""
    assert addresses.state_dir(environ, 7) == wanted

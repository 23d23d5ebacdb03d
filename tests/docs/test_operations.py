"""The operator's page names everything that an operator can meet, and nothing else."""

import re
from pathlib import Path

import prometheus_client
import pytest

from bertd import metrics
from bertd.cli import exits
from bertd.serving import health, status

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
LIBRARY = ROOT / "bertd" / "batcher"  # no operator meets it
SOURCES = "\n".join(
    path.read_text()
    for path in sorted((ROOT / "bertd").rglob("*.py"))
    if LIBRARY not in path.parents
)
# `reason="DiskFull"`, wherever an error or a condition is made.
RAISED = sorted(set(re.findall(r'\breason="([A-Z][A-Za-z]+)"', SOURCES)))
WORDS = re.compile(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)*)`")


def section(title: str) -> str:
    """The text under one heading of the page."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def exported() -> set[str]:
    """The names of all metrics of bertd's own, as Prometheus shows them."""
    registry = prometheus_client.CollectorRegistry()
    metrics.Metrics(registry)
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
        if family.name.startswith("bertd_")
    }


@pytest.mark.parametrize("reason", RAISED)
def test_every_reason_is_explained(reason: str) -> None:
    """Whatever reason a condition or a status carries stands on the page."""
    assert f"`{reason}`" in PAGE


def test_no_reason_is_invented() -> None:
    """Every reason that the page explains is one that the code gives."""
    explained = set(WORDS.findall(section("Conditions").partition("| reason |")[2]))
    assert {reason for reason in explained if f'"{reason}"' not in SOURCES} == set()


def test_every_metric_is_listed() -> None:
    """The page lists exactly the metrics that exist."""
    assert set(re.findall(r"`(bertd_[a-z_]+)`", section("Metrics").partition("Worth")[0])) == (
        exported()
    )


@pytest.mark.parametrize("code", sorted({code.name for code in status.TABLE.values()}))
def test_every_status_code_is_listed(code: str) -> None:
    """Every gRPC status that an error becomes stands in the table of status codes."""
    assert f"| `{code}` |" in section("Status codes")


@pytest.mark.parametrize("name", [name for name in health.DAEMON_NAMES if name])
def test_every_health_name_is_listed(name: str) -> None:
    """Every name that health knows by itself stands in the table of health."""
    assert f"`{name}`" in section("Health")


def test_every_exit_code_is_listed() -> None:
    """The table of exit codes has each code of the command line, in order."""
    listed = re.findall(r"^\| (\d) \|", section("Exit codes of the other verbs"), re.MULTILINE)
    known = [value for value in vars(exits).values() if isinstance(value, int)]
    assert list(map(int, listed)) == sorted(known)

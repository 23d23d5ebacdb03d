"""`get --watch`: what is there, then a line for each change, in every form."""

import json

import grpc
import pytest

from tests.cli import daemon as fake


@pytest.fixture
def news(daemon):
    """An adapter that is added, changes and goes, and another one."""
    cola = daemon.add("Adapter", "cola", {"model": "english", "source": "/c"})
    later = type(cola).FromString(cola.SerializeToString())
    fake.set_ready(later)
    other = daemon.add("Adapter", "german/x", {"model": "german", "source": "/x"})
    gone = type(cola)(ref=cola.ref)
    daemon.news = [
        ("added", [cola, other]),
        ("synced", []),
        ("modified", [later]),
        ("deleted", [gone, type(cola)(ref=other.ref)]),
    ]
    return daemon


def test_changes_as_a_table(bertd, news):
    """One header; of what is gone only the name is left; the daemon's end is an error."""
    ran = bertd("get", "adapters", "-w")
    assert ran.out.splitlines() == [
        "CHANGE   NAME       MODEL     READY   REASON    DIGEST",
        "added    cola       english   False   Loading   -",
        "added    german/x   german    False   Loading   -",
        "modified   cola       english   True    Serving   abababababab",
        "deleted    cola       -         -       -         -",
        "deleted    german/x   -         -       -         -",
    ]
    assert ran.code == 1
    assert ran.err == "error: the daemon stopped\nhint: watch again when it is back\n"
    (request,) = news.requests
    assert (request.kind, request.name) == ("Adapter", "")


def test_changes_as_a_wide_table(bertd, news):
    """-o wide has the columns of a wide listing."""
    lines = bertd("get", "adapters", "--watch", "-o", "wide").out.splitlines()
    assert lines[0].split()[-3:] == ["GENERATION", "LABELS", "MESSAGE"]
    assert lines[1].endswith("reading the weights")


def test_changes_as_names(bertd, news):
    """Like what apply prints."""
    assert bertd("get", "adapters", "-w", "-o", "name").out.splitlines() == [
        "adapter/cola added",
        "adapter/german/x added",
        "adapter/cola modified",
        "adapter/cola deleted",
        "adapter/german/x deleted",
    ]


def test_changes_as_json(bertd, news):
    """A value per line; the end of the listing is one too."""
    values = [
        json.loads(line) for line in bertd("get", "adapters", "-w", "-o", "json").out.splitlines()
    ]
    assert [each["type"] for each in values] == [
        "added", "added", "synced", "modified", "deleted", "deleted",
    ]  # fmt: skip
    assert values[3]["object"]["metadata"]["name"] == "cola"
    assert values[3]["object"]["status"]["digest"].startswith("sha256:")


def test_changes_of_one_models_adapters(bertd, news):
    """Also when one of them goes, or leaves that Model."""
    assert bertd("get", "adapters", "-w", "--model", "english", "-o", "name").out.splitlines() == [
        "adapter/cola added",
        "adapter/cola modified",
        "adapter/cola deleted",
    ]


def test_one_object_can_be_watched(bertd, news):
    """By both ways of naming it."""
    for words in (["adapter/german/x"], ["adapter", "german/x"]):
        bertd("get", *words, "-w")
        assert (news.requests[-1].kind, news.requests[-1].name) == ("Adapter", "german/x")


def test_a_new_listing_is_announced(bertd, daemon):
    """Whoever was too slow is told that what follows is not new."""
    daemon.news = [("restarted", [])]
    assert "warning: too many changes were missed" in bertd("get", "models", "-w").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model/a", "model/b"], "must name one object or one kind"),
        (["models", "-o", "yaml"], "`--output` must not be 'yaml' with `--watch`"),
        (["pods"], "a kind must be"),
    ],
)
def test_a_watch_that_makes_no_sense_is_invalid(bertd, daemon, words, said):
    """Before the daemon is asked."""
    ran = bertd("get", *words, "-w")
    assert (ran.code, said in ran.err, daemon.requests) == (2, True, [])


def test_a_refused_watch_leaves_with_its_code(bertd, daemon):
    """As every other verb does."""
    daemon.refusal = (grpc.StatusCode.UNAVAILABLE, "too many watch (hint: later)")
    assert bertd("get", "models", "-w").code == 1


def test_a_name_cannot_write_to_the_terminal(bertd, daemon):
    """Control characters are not printed, also of what is gone."""
    shown = daemon.add("Adapter", "a\x1b[31m", {})
    daemon.news = [("added", [shown]), ("deleted", [shown])]
    assert "\x1b" not in bertd("get", "adapters", "-w").out

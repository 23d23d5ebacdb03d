"""`get`, `describe`, `delete` and `wait`: what they print, byte for byte."""

import json

import pytest
import yaml

from tests.cli import conftest
from tests.cli import daemon as fake

MODEL_SPEC = {"base": {"source": "/srv/minilm"}, "maxLength": 128}


@pytest.fixture
def objects(daemon):
    """Two models, one Ready; an adapter of its own and an inline one."""
    english = daemon.add("Model", "english", MODEL_SPEC, labels={"team": "search"})
    fake.set_ready(english)
    english.status.details_json = json.dumps({"adapters": ["sst2"], "precision": "fp32"})
    daemon.add("Model", "german", MODEL_SPEC)
    fake.set_ready(
        daemon.add("Adapter", "acme", {"model": "english", "source": "/srv/a.safetensors"})
    )
    daemon.add("Adapter", "english/sst2", {"source": "/srv/sst2.safetensors"})
    return daemon


def test_models_as_a_table(bertd, objects):
    """Aligned columns, `-` for what is not there."""
    assert bertd("get", "models").out == (
        "NAME      READY   REASON    REVISION       ADAPTERS\n"
        "english   True    Serving   english-1a2b   1\n"
        "german    False   Loading   -              -\n"
    )


def test_adapters_as_a_wide_table(bertd, objects):
    """-o wide adds generation, labels and message, and for models the digest."""
    assert bertd("get", "adapters", "-o", "wide").out.splitlines() == [
        "NAME           MODEL     READY   REASON    DIGEST         GENERATION   LABELS   MESSAGE",
        "acme           english   True    Serving   abababababab   1            -        "
        "all is well",
        "english/sst2   english   False   Loading   -              1            -        "
        "reading the weights",
    ]


def test_adapters_of_one_model(bertd, objects):
    """--model leaves the others out; it means nothing for other kinds or for one object."""
    objects.add("Adapter", "other", {"model": "german", "source": "/srv/o.safetensors"})
    assert bertd("get", "adapters", "--model", "german", "-o", "name").out == "adapter/other\n"
    assert bertd("get", "adapters", "--model", "nobody").err == (
        "no adapters of model 'nobody' are declared\n"
    )
    for words in (["models"], ["adapter/acme"], ["models", "-w"], ["adapter/acme", "-w"]):
        ran = bertd("get", *words, "--model", "german")
        assert (ran.code, "`--model` must be" in ran.err) == (2, True)


def test_a_long_list_is_printed_page_by_page(bertd, daemon):
    """In every form the same as in one piece; columns only grow (issue 3)."""
    names = ["a", "b", "c", "d-is-longer", "e"]
    for name in names:
        fake.set_ready(daemon.add("Model", name, MODEL_SPEC))
    in_pages = {form: bertd("get", "models", *form) for form in FORMS}
    lists = [each for each in daemon.requests if hasattr(each, "page_token")]
    assert [each.page_token for each in lists[:3]] == ["", "b", "d-is-longer"]
    daemon.page_rows = 100
    for form in FORMS[1:]:
        assert bertd("get", "models", *form) == in_pages[form], form
    assert in_pages[()].out.splitlines() == [
        "NAME   READY   REASON    REVISION   ADAPTERS",
        "a      True    Serving   a-1a2b     -",
        "b      True    Serving   b-1a2b     -",
        "c             True    Serving   c-1a2b             -",
        "d-is-longer   True    Serving   d-is-longer-1a2b   -",
        "e             True    Serving   e-1a2b             -",
    ]


FORMS = [(), ("-o", "yaml"), ("-o", "json"), ("-o", "name")]


@pytest.mark.parametrize("words", [["model/english"], ["model", "english"], ["models", "english"]])
def test_one_object_by_name(bertd, objects, words):
    """An object is named as model/NAME or as KIND NAME; -o name prints it back."""
    assert bertd("get", *words, "-o", "name").out == "model/english\n"


def test_yaml_applies_unchanged(bertd, daemon, manifest):
    """`get -o yaml` piped back into apply prints unchanged, and warns of nothing (checklist 17)."""
    bertd("apply", manifest)
    for kind in ("models", "adapters"):
        printed = bertd("get", kind, "-o", "yaml")
        again = bertd("apply", "-f", "-", stdin=printed.out)
        assert again.code == 0
        assert again.err == ""
        assert again.out.endswith(" unchanged\n")


def test_yaml_is_the_manifest_alone(bertd, objects):
    """One document per object, without status; inline adapters are a comment."""
    printed = bertd("get", "models", "-o", "yaml").out
    assert list(yaml.safe_load_all(printed)) == [
        {
            "apiVersion": "bertd.dev/v1",
            "kind": "Model",
            "metadata": {"name": "english", "labels": {"team": "search"}},
            "spec": MODEL_SPEC,
        },
        {
            "apiVersion": "bertd.dev/v1",
            "kind": "Model",
            "metadata": {"name": "german"},
            "spec": MODEL_SPEC,
        },
    ]
    adapters = bertd("get", "adapters", "-o", "yaml").out
    assert "# english/sst2 is declared inside model/english" in adapters
    assert len(list(yaml.safe_load_all(adapters))) == 1


def test_json_has_the_status(bertd, objects):
    """One object for one name, a list for a kind, everything in it (checklist 38)."""
    one = json.loads(bertd("get", "model/english", "-o", "json").out)
    assert one["metadata"] == {"name": "english", "labels": {"team": "search"}, "generation": 1}
    assert one["spec"] == MODEL_SPEC
    assert one["status"]["conditions"] == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Serving",
            "message": "all is well",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
            "observedGeneration": 1,
        }
    ]
    assert one["status"]["details"] == {"adapters": ["sst2"], "precision": "fp32"}
    several = json.loads(bertd("get", "models", "-o", "json").out)
    assert [each["metadata"]["name"] for each in several] == ["english", "german"]


def test_describe_shows_versions(bertd, objects):
    """Newest first, with the time since when each was served (issue 3)."""
    versions = objects.objects["Adapter", "english/sst2"].status.versions
    versions.add(digest="sha256:d2", since="2026-01-02T00:00:00Z")
    versions.add(digest="sha256:d1", since="2026-01-01T00:00:00Z")
    assert (
        "\n\nVersions:\n"
        "  sha256:d2 since 2026-01-02T00:00:00Z\n"
        "  sha256:d1 since 2026-01-01T00:00:00Z\n"
        "\nSpec:\n"
    ) in bertd("describe", "adapter", "english/sst2").out
    assert "Versions" not in bertd("describe", "adapter/acme").out
    shown = json.loads(bertd("get", "adapter/english/sst2", "-o", "json").out)
    assert shown["status"]["versions"][1] == {
        "digest": "sha256:d1",
        "since": "2026-01-01T00:00:00Z",
    }


def test_describe_prints_everything(bertd, objects):
    """Facts, conditions with reasons, and the spec."""
    assert bertd("describe", "model/english").out == (
        "Name:       english\n"
        "Kind:       Model\n"
        "Labels:     team=search\n"
        "Generation: 1 (observed: 1)\n"
        "Revision:   english-1a2b\n"
        f"Digest:     sha256:{'ab' * 32}\n"
        'Adapters:   ["sst2"]\n'
        "Precision:  fp32\n"
        "\n"
        "CONDITION   STATUS   REASON    SINCE                  MESSAGE\n"
        "Ready       True     Serving   2026-01-02T03:04:05Z   all is well\n"
        "\n"
        "Spec:\n"
        "  base:\n"
        "    source: /srv/minilm\n"
        "  maxLength: 128\n"
    )


def test_an_empty_daemon_prints_no_data(bertd, daemon):
    """Without objects stdout is empty, a JSON list is empty, and stderr says why."""
    assert bertd("get", "models") == conftest.Ran(0, "", "no models are declared\n")
    assert bertd("get", "models", "-o", "json").out == "[]\n"


def test_a_message_cannot_write_to_the_terminal(bertd, daemon):
    """Control characters in a condition's message do not reach the screen."""
    shown = daemon.add("Model", "english", MODEL_SPEC)
    fake.set_condition(shown, "Ready", "False", "Bad", "\x1b[31mred\nline")
    assert "\x1b" not in bertd("get", "models", "-o", "wide").out
    assert len(bertd("get", "models", "-o", "wide").out.splitlines()) == 2
    assert "\x1b" not in bertd("describe", "model/english").out


@pytest.mark.parametrize("verb", ["get", "describe", "delete", "wait"])
def test_an_unknown_object_is_an_error(bertd, daemon, verb):
    """A name that nothing has: exit code 1, naming it."""
    ran = bertd(verb, "model/nobody")
    assert ran.code == 1
    assert "nobody" in ran.err
    assert ran.out == ""


@pytest.mark.parametrize("words", [["pods"], ["pod/x"], ["model/"], ["model"]])
def test_an_unknown_kind_is_invalid(bertd, daemon, words):
    """What is no object's name is refused before the daemon is asked."""
    assert bertd("delete", *words).code == 2
    assert daemon.requests == []


def test_delete_prints_what_is_gone(bertd, objects):
    """Both ways of naming; one line each."""
    assert bertd("delete", "model/english", "adapter/acme").out == (
        "model/english deleted\nadapter/acme deleted\n"
    )
    assert bertd("delete", "model", "german").out == "model/german deleted\n"
    assert [name for _, name in objects.objects] == ["english/sst2"]


def test_wait_returns_when_the_condition_is_met(bertd, objects):
    """The default goal is Ready; the transition shows on stderr."""
    assert bertd("wait", "model/english").out == "model/english condition met\n"
    objects.then(lambda: objects.ready("Model", "german"))
    ran = bertd("wait", "model/german", "--for", "condition=Ready=True", "--timeout", "10s")
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == "model/german: Ready=True Serving: all is well"


def test_wait_can_wait_for_another_status(bertd, objects):
    """condition=TYPE=STATUS."""
    ran = bertd("wait", "model/german", "--for=condition=Ready=False", "--timeout", "0")
    assert ran.code == 0


def test_wait_for_deletion(bertd, objects):
    """An object that is gone, or goes, satisfies delete."""
    assert bertd("wait", "model/nobody", "--for=delete").out == "model/nobody deleted\n"
    objects.then(lambda: objects.objects.pop(("Model", "english")))
    assert bertd("wait", "model/english", "--for=delete", "--timeout", "10s").code == 0
    ran = bertd("wait", "model/german", "--for=delete", "--timeout", "0")
    assert ran.code == 3
    assert "model/german still exists" in ran.err


def test_wait_times_out_with_the_blocking_condition(bertd, objects):
    """A timeout of 0 looks once: exit code 3 and the reason (checklist 35, 36)."""
    ran = bertd("wait", "model/german", "--timeout", "0")
    assert ran.code == 3
    assert "model/german: Ready=False Loading: reading the weights" in ran.err
    ran = bertd("wait", "model/german", "--for", "condition=Loaded", "--timeout", "0")
    assert "model/german has no condition Loaded yet" in ran.err


@pytest.mark.parametrize("goal", ["Ready", "condition", "condition=", "deleted"])
def test_a_goal_that_is_none_is_invalid(bertd, objects, goal):
    """Only condition=TYPE[=STATUS] and delete."""
    assert bertd("wait", "model/german", "--for", goal).code == 2

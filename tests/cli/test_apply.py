"""`apply` and `diff`: a line per object, mistakes without a daemon, waiting for a generation."""

from pathlib import Path

import grpc
import pytest

from bertd.cli import waiting
from bertd.v1 import admin_pb2
from tests.cli import conftest
from tests.cli import daemon as fake


def test_apply_prints_one_line_per_object(bertd, daemon, manifest):
    """Created, unchanged and configured, in the manifest's order (checklist 31)."""
    ran = bertd("apply", manifest)
    assert ran == conftest.Ran(0, "model/english created\nadapter/acme created\n", "")
    assert bertd("apply", "-f", manifest).out == (
        "model/english unchanged\nadapter/acme unchanged\n"
    )
    Path(manifest).write_text(conftest.MANIFEST.replace("acme.safe", "acme2.safe"))
    assert bertd("apply", manifest).out == "model/english unchanged\nadapter/acme configured\n"


def test_a_dry_run_says_so_and_changes_nothing(bertd, daemon, manifest):
    """Every line carries the suffix, and the daemon was told (checklist 31, 32)."""
    ran = bertd("apply", manifest, "--dry-run", "--wait")
    assert ran.out == "model/english created (dry run)\nadapter/acme created (dry run)\n"
    assert daemon.objects == {}


def test_sources_begin_at_the_manifests_own_directory(bertd, daemon, manifest, tmp_path):
    """The daemon gets the directory of each file, whatever the working directory is."""
    bertd("apply", manifest)
    assert daemon.requests[-1].base_dir == str(tmp_path)
    assert daemon.requests[-1].file_name == manifest
    assert f'"{tmp_path}/minilm"' in daemon.objects["Model", "english"].spec_json


def test_stdin_has_no_directory(bertd, daemon):
    """From stdin, absolute sources work and relative ones are refused with their position."""
    absolute = conftest.MANIFEST.replace("./", "/srv/")
    assert bertd("apply", "-", stdin=absolute).out.startswith("model/english created")
    ran = bertd("apply", "-f", "-", stdin=conftest.MANIFEST)
    assert ran.code == 2
    assert ran.err.startswith("-:5:18: spec.base.source: must be an absolute path")


def test_a_directory_is_its_manifests_in_order(bertd, daemon, manifest, tmp_path):
    """All *.yaml and *.yml of a directory, sorted; other files are not read."""
    (tmp_path / "a.yml").write_text(conftest.MANIFEST.replace("english", "a").replace("acme", "b"))
    (tmp_path / "README.md").write_text("no manifest")
    lines = bertd("apply", str(tmp_path)).out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "model/a", "adapter/b", "model/english", "adapter/acme",
    ]  # fmt: skip


def test_mistakes_need_no_daemon(bertd, manifest, tmp_path):
    """All mistakes of all files are printed with their places, exit code 2, no daemon running."""
    Path(manifest).write_text(conftest.MANIFEST.replace("source: ./minilm", "sauce: ./minilm"))
    other = tmp_path / "other.yaml"
    other.write_text("kind: Modell\n")
    ran = bertd("apply", manifest, str(other))
    assert ran.code == 2
    assert ran.out == ""
    assert f"{manifest}:5:10: spec.base.sauce: " in ran.err
    assert f"{other}:1:" in ran.err


@pytest.mark.parametrize("verb", ["apply", "diff", "validate"])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.yaml", None, "cannot be read: No such file"),
        ("bad.yaml", b"a: b\nkind: \xff\n", "bad.yaml:2:7: (document): must be UTF-8"),
        ("huge.yaml", b"#" * 300_000, "huge.yaml:"),
        ("empty.yaml", b"", "must declare at least one object"),
    ],
)  # fmt: skip
def test_unreadable_manifests_are_invalid(bertd, tmp_path, verb, name, content, said):
    """A file that is missing, binary, huge or empty: exit code 2 and its name."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    ran = bertd(verb, str(path))
    assert ran.code == 2
    assert said in ran.err
    assert name in ran.err


def test_nothing_named_is_a_mistake(bertd, tmp_path):
    """No file, or an empty directory, is not silently nothing."""
    assert bertd("apply").code == 2
    ran = bertd("apply", str(tmp_path))
    assert ran.code == 2
    assert "must hold 1 to 1000 files" in ran.err


def test_the_daemons_warnings_go_to_stderr(bertd, daemon, manifest):
    """A written status is ignored with a warning, and stdout stays data."""
    Path(manifest).write_text(conftest.MANIFEST + "status: {}\n")
    ran = bertd("apply", manifest)
    assert ran.code == 0
    assert "status" not in ran.out
    assert ran.err.startswith("warning: ")
    assert "is ignored" in ran.err


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.ABORTED, 4),
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 3),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.UNAVAILABLE, 1),
    ],
)
def test_a_refusal_leaves_with_its_code(bertd, daemon, manifest, status, code):
    """What the daemon answers decides the exit code; message and hint get a line each."""
    daemon.refusal = (status, "it must not be (hint: try another)")
    ran = bertd("apply", manifest)
    assert ran == conftest.Ran(code, "", "error: it must not be\nhint: try another\n")


def test_waiting_ends_when_ready(bertd, daemon, manifest):
    """--wait shows each transition on stderr and returns 0 (checklist 34)."""
    daemon.then(lambda: daemon.ready("Model", "english"))
    Path(manifest).write_text(conftest.MANIFEST.split("---")[0])
    ran = bertd("apply", manifest, "--wait", "--timeout", "10s")
    assert ran.code == 0
    assert ran.out == "model/english created\n"
    assert ran.err.splitlines() == [
        "model/english: Ready=False Loading: reading the weights",
        "model/english: Ready=True Serving: all is well",
    ]


def test_waiting_includes_inline_adapters(bertd, daemon, manifest):
    """A Model is waited for together with the adapters that it declares."""
    Path(manifest).write_text(conftest.MANIFEST.split("---")[0])
    daemon.then(lambda: daemon.ready("Model", "english"), looks=1)
    daemon.then(lambda: daemon.ready("Adapter", "english/sst2"))
    daemon.add("Adapter", "english/sst2", {})
    daemon.add("Adapter", "elsewhere/never", {})
    ran = bertd("apply", manifest, "--wait", "--timeout", "10s")
    assert ran.code == 0
    assert "adapter/english/sst2: Ready=True Serving" in ran.err
    assert "elsewhere" not in ran.err


def test_the_timeout_names_what_blocks(bertd, daemon, manifest):
    """Exit code 3, and the blocking condition's type, reason and message (checklist 35)."""
    ran = bertd("apply", manifest, "--wait", "--timeout", "200ms")
    assert ran.code == 3
    last = ran.err.splitlines()[-3:]
    assert last == [
        "model/english: Ready=False Loading: reading the weights",
        "adapter/acme: Ready=False Loading: reading the weights",
        "error: timed out after 0.2 s",
    ]


def test_many_objects_are_waited_for_by_pages(bertd, daemon, manifest, monkeypatch):
    """Thousands are not asked for one by one, and what blocks is not printed whole (issue 3)."""
    monkeypatch.setattr(waiting, "MOST_GETS", 10)
    adapter = conftest.MANIFEST.split("---")[1]
    documents = [adapter.replace("acme", f"acme{number}") for number in range(30)]
    Path(manifest).write_text("---".join(documents))
    ran = bertd("apply", manifest, "--wait", "--timeout", "1ms")
    assert ran.code == 3
    assert ran.err.splitlines()[-2] == f"and {30 - waiting.MOST_LINES} more"
    for kind, name in daemon.objects:
        daemon.ready(kind, name)
    assert bertd("apply", manifest, "--wait", "--timeout", "10s").code == 0
    assert not any(isinstance(each, admin_pb2.GetRequest) for each in daemon.requests)


def test_the_old_generation_is_not_enough(bertd, daemon, manifest):
    """A Ready that was observed of an earlier generation does not count (checklist 34)."""
    Path(manifest).write_text(conftest.MANIFEST.split("---")[0])
    bertd("apply", manifest)
    shown = daemon.objects["Model", "english"]
    fake.set_ready(shown)
    shown.status.conditions[0].observed_generation = 0
    ran = bertd("apply", manifest, "--wait", "--timeout", "200ms")
    assert ran.code == 3
    assert "generation 1 is not observed yet" in ran.err


def test_somebody_elses_change_is_a_conflict(bertd, daemon, manifest):
    """Waiting for a generation that was replaced or deleted ends with exit code 4."""
    bertd("apply", manifest)
    shown = daemon.objects["Model", "english"]
    daemon.then(lambda: setattr(shown, "generation", 7))
    ran = bertd("apply", manifest, "--wait", "--timeout", "10s")
    assert ran.code == 4
    assert "generation 7 took the place of 1" in ran.err
    daemon.then(daemon.objects.clear)
    ran = bertd("apply", manifest, "--wait", "--timeout", "10s")
    assert ran.code == 4
    assert "was deleted" in ran.err


def test_a_bad_timeout_is_invalid(bertd, daemon, manifest):
    """A duration without a unit is refused before anything is applied."""
    ran = bertd("apply", manifest, "--wait", "--timeout", "30")
    assert ran.code == 2
    assert "`--timeout` must be a duration" in ran.err
    assert daemon.objects == {}


def test_diff_tells_a_difference_by_its_code(bertd, daemon, manifest):
    """0 nothing, 1 something, 2 or more an error; prints the diff and the plan (checklist 33)."""
    ran = bertd("diff", manifest)
    assert ran.code == 1
    assert ran.out.splitlines()[:7] == [
        "model/english created",
        "--- old",
        "+++ new",
        "@@ -1 +1 @@",
        "-a: 1",
        "+a: 2",
        "plan: load the base",
    ]
    assert daemon.objects == {}
    bertd("apply", manifest)
    assert bertd("diff", manifest) == conftest.Ran(0, "", "")
    daemon.refusal = (grpc.StatusCode.INTERNAL, "no")
    assert bertd("diff", manifest).code == 2
    assert bertd("diff", "nowhere.yaml").code == 2

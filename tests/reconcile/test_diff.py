"""What a changed field means, and how differences print."""

import pytest

from bertd import errors
from bertd.manifest import fields, spec, writing
from bertd.reconcile import diff, state
from tests.reconcile import pictures

RELOAD, ADAPTER, IN_PLACE = diff.Effect.RELOAD, diff.Effect.ADAPTER_ONLY, diff.Effect.IN_PLACE
FIELDS = [path for part in (spec.ModelSpec, spec.AdapterSpec) for path, _ in fields.leaves(part)]


def entries(**changed: object) -> dict[str, object]:
    """A Model's spec as it is stored."""
    return writing.spec_to_dict(pictures.model_spec(**changed))


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_has_an_effect(field: str) -> None:
    """The one list says of every field of the spec whether its change reloads (checklist 33)."""
    assert diff.effect(field) in diff.Effect


def test_the_list_names_only_fields_that_exist() -> None:
    """A field that is renamed or removed must leave the list too."""
    known = {*FIELDS, "adapters"}
    for field in FIELDS:
        parts = field.split(".")
        known |= {".".join(parts[:length]) for length in range(1, len(parts))}
    assert diff.EFFECTS.keys() <= known


@pytest.mark.parametrize(
    ("field", "effect"),
    [
        ("base.source", RELOAD),
        ("precision", RELOAD),
        ("pooling.mode", RELOAD),
        ("compression.stages[].quantize.scheme", RELOAD),
        ("offload.device", RELOAD),
        ("offload.budget.gpu", RELOAD),
        ("offload.idle.after", IN_PLACE),
        ("batching.maxDelay", IN_PLACE),
        ("adapters[].source", ADAPTER),
        ("adapters[].weight", IN_PLACE),
        ("labelNames", IN_PLACE),
        ("source", ADAPTER),
    ],
)
def test_effects_are_as_designed(field: str, effect: diff.Effect) -> None:
    """Adapters, labels, batching, shares and idle policy never reload; base, precision, do."""
    assert diff.effect(field) is effect


def test_an_unlisted_field_is_a_bug() -> None:
    """Nothing has an effect by accident."""
    with pytest.raises(errors.Bug, match="replicas"):
        diff.effect("replicas")


def test_changes_are_labelled() -> None:
    """Each change prints its effect, path and values (checklist 33)."""
    old = entries(
        adapters=[{"name": "cola", "source": "/a", "temperature": 1}, {"source": "/t/[ab]/*.st"}]
    )
    new = entries(
        precision="bf16",
        maxLength=64,
        adapters=[
            {"name": "cola", "source": "/b", "thresholds": {"x": 0.5}},
            {"source": "/t/[ab]/*.st", "labelNames": ["x", "y"]},
        ],
    )
    assert [str(change) for change in diff.changes(old, new)] == [
        'in-place: adapters[/t/[ab]/*.st].labelNames (unset) -> ["x", "y"]',
        "adapter-only: adapters[cola].source /a -> /b",
        "in-place: adapters[cola].temperature 1 -> (unset)",
        'in-place: adapters[cola].thresholds (unset) -> {"x": 0.5}',
        "in-place: maxLength (unset) -> 64",
        "reload: precision auto -> bf16",
    ]


def test_equal_specs_have_no_changes() -> None:
    """The same spec, written with or without its defaults, differs in nothing."""
    assert diff.changes(entries(), entries(precision="auto", batching={"maxDelay": "0s"})) == ()
    assert diff.unified(entries(), entries(), "model/english") == ""


def test_differences_print_as_yaml() -> None:
    """The unified diff shows YAML lines with context, as `diff -u` would."""
    old, new = entries(maxLength=64), entries(maxLength=128)
    assert (
        diff.unified(old, new, "model/english")
        == """\
--- stored model/english
+++ declared model/english
@@ -1,7 +1,7 @@
 base:
   source: /m
 precision: auto
-maxLength: 64
+maxLength: 128
 onTooLong: truncate
 offload:
   device: auto
"""
    )


@pytest.mark.parametrize(("old", "new", "sign"), [(None, {"a": 1}, "+"), ({"a": 1}, None, "-")])
def test_an_absent_side_prints_as_nothing(
    old: dict[str, object] | None, new: dict[str, object] | None, sign: str
) -> None:
    """A created object is all plus lines, a removed one all minus lines."""
    assert diff.unified(old, new, "x").splitlines()[-1] == f"{sign}a: 1"


RELOADING = [
    ({"precision": "fp32"}, {"precision": "bf16"}),
    ({"pooling": {"mode": "cls"}}, {"pooling": {"mode": "max"}}),
    ({"pooling": {"mode": "cls"}}, {}),
    ({"offload": {"device": "auto"}}, {"offload": {"device": "cpu"}}),
    ({"compression": None}, {"compression": {"stages": [{"quantize": {"scheme": "int8"}}]}}),
    ({"offload": {}}, {"offload": {"budget": {"gpu": "512MiB"}}}),
]
STAYING: list[tuple[dict[str, object], dict[str, object]]] = [
    ({}, {"base": {"source": "/elsewhere"}}),
    ({}, {"maxLength": 64}),
    ({}, {"onTooLong": "reject"}),
    ({}, {"pooling": {"normalize": True}}),
    ({}, {"batching": {"maxTokens": 1}}),
    ({}, {"offload": {"idle": {"after": "10m"}}}),
    ({}, {"update": {"strategy": "recreate"}}),
    ({}, {"adapters": [{"name": "a", "source": "/a"}]}),
    ({}, {"allowInlineAdapters": True}),
]


def key(changed: dict[str, object]) -> str:
    """The reload key of a Model on one base."""
    model = pictures.model_spec(**changed)
    wanted = state.DesiredModel(name="english", generation=1, spec=model, base=pictures.BASE)
    return state.reload_key(wanted)


@pytest.mark.parametrize(("old", "new"), RELOADING)
def test_reload_fields_change_the_key(old: dict[str, object], new: dict[str, object]) -> None:
    """A change that reloads gives the revision another name."""
    assert key(old) != key(new)


@pytest.mark.parametrize(("old", "new"), STAYING)
def test_other_fields_keep_the_key(old: dict[str, object], new: dict[str, object]) -> None:
    """A change that reloads nothing leaves the revision's name alone."""
    assert key(old) == key(new)

"""Whole plans as text: what the reconciler decides in each situation."""

import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bertd.reconcile import plan, state
from tests.reconcile import pictures

adapter, desired, running = pictures.adapter, pictures.desired, pictures.running
OTHER = state.ResolvedBase(digest="b2", blobs=(("config.json", "c1"), ("tokenizer.json", "t1")))


def planned(wanted: list[state.DesiredModel], observed: list[state.ObservedModel]) -> str:
    """The plan's text, revisions by name only where keys do not matter."""
    text = plan.text(plan.plan(wanted, observed))
    for model in wanted:
        if model.base is not None:
            text = text.replace(state.reload_key(model), "NEW")
    for revision in observed:
        text = text.replace(revision.reload_key, "OLD")
    return text


def test_an_unchanged_manifest_needs_nothing() -> None:
    """The plan for a state that is already as declared is empty (checklist 23)."""
    english = desired(adapter("cola"), adapter("sst2", temperature=1.5))
    german = desired(name="german")
    assert plan.plan([english, german], [running(english), running(german)]) == ()
    assert plan.plan([], []) == ()


def test_a_new_model_is_started_filled_and_switched_to() -> None:
    """A Model's first revision holds its adapters before it gets requests."""
    model = desired(adapter("sst2", "d2"), adapter("cola", "sha256:0123456789abcdef"))
    assert (
        planned([model], [])
        == """\
start revision english-NEW (no revision serves)
load adapter english/cola 0123456789ab into english-NEW (new adapter)
load adapter english/sst2 d2 into english-NEW (new adapter)
switch model english to english-NEW (no revision serves)"""
    )


def test_a_reload_is_blue_green() -> None:
    """A changed reload field builds the new revision beside the old, then retires the old."""
    before, after = desired(adapter("cola")), desired(adapter("cola"), precision="bf16")
    assert (
        planned([after], [running(before)])
        == """\
start revision english-NEW (changed: precision)
load adapter english/cola d1 into english-NEW (new adapter)
switch model english to english-NEW (changed: precision)
retire revision english-OLD (superseded by english-NEW)"""
    )


def test_new_bytes_under_the_same_path_reload() -> None:
    """What a source resolves to is desired state: other bytes are another base (checklist 19)."""
    assert (
        planned([desired(base=OTHER)], [running(desired())])
        == """\
start revision english-NEW (changed: base)
switch model english to english-NEW (changed: base)
retire revision english-OLD (superseded by english-NEW)"""
    )


def test_a_new_tokenizer_reloads() -> None:
    """A file that answers requests counts even where the encoder's digest is the same."""
    base = state.ResolvedBase(digest="b1", blobs=(("config.json", "c1"), ("tokenizer.json", "t2")))
    first, *_ = planned([desired(base=base)], [running(desired())]).split("\n")
    assert first == "start revision english-NEW (changed: base file 'tokenizer.json')"


def test_several_changes_are_all_named() -> None:
    """The cause of a reload names every field that changed."""
    after = desired(base=OTHER, precision="bf16", pooling={"mode": "cls"})
    first, *_ = planned([after], [running(desired())]).split("\n")
    assert first == "start revision english-NEW (changed: base, pooling.mode, precision)"


def test_a_moved_source_changes_nothing() -> None:
    """The same bytes under another path need no operation at all."""
    model = desired(adapter("cola"))
    moved = dataclasses.replace(model, spec=pictures.model_spec(base={"source": "/elsewhere"}))
    assert plan.plan([moved], [running(model)]) == ()


def test_limits_change_in_place() -> None:
    """Batching, lengths and normalisation are applied by the front, base and adapters untouched."""
    before = desired(adapter("cola"))
    after = desired(
        adapter("cola"),
        maxLength=64,
        onTooLong="reject",
        pooling={"normalize": False},
        batching={"maxRows": 128, "maxDelay": "5ms"},
    )
    assert planned([after], [running(before)]) == (
        "update limits english (batching.maxRows 256 -> 128, batching.maxDelay 0ms -> 5ms, "
        "maxLength (unset) -> 64, onTooLong truncate -> reject, "
        "pooling.normalize (unset) -> false)"
    )


def test_a_reload_takes_new_limits_along() -> None:
    """A new revision starts with the new limits, so that they need no operation of their own."""
    after = desired(precision="bf16", batching={"maxRows": 1})
    assert "update limits" not in planned([after], [running(desired())])


def test_adapters_come_change_and_go() -> None:
    """Adapter changes touch only adapters; what frees a slot comes first."""
    before = desired(adapter("a"), adapter("b", "sha256:old"), adapter("c"), adapter("z"))
    after = desired(
        adapter("a"), adapter("b", "sha256:new"), adapter("c", temperature=1.3), adapter("d", "d4")
    )
    assert (
        planned([after], [running(before)])
        == """\
unload adapter english/z from english-NEW (no longer declared)
replace adapter english/b by new in english-NEW (content was old)
update output english/c (temperature (unset) -> 1.3)
load adapter english/d d4 into english-NEW (new adapter)"""
    )


def test_labels_and_thresholds_reload_nothing() -> None:
    """Other labels, temperature and thresholds are one operation without loading."""
    before = desired(adapter("a", label_names=("x", "y"), temperature=1.0))
    after = desired(adapter("a", label_names=("no", "yes"), thresholds=(("yes", 0.7),)))
    assert planned([after], [running(before)]) == (
        'update output english/a (labelNames ["x", "y"] -> ["no", "yes"], '
        'temperature 1.0 -> (unset), thresholds (unset) -> {"yes": 0.7})'
    )


def test_another_share_reloads_nothing() -> None:
    """Another weight is an update of the front alone."""
    before, after = desired(adapter("a")), desired(adapter("a", weight=4.0))
    assert planned([after], [running(before)]) == "update output english/a (weight 1.0 -> 4.0)"


def test_every_setting_has_a_name() -> None:
    """Whatever may change without a reload can be shown as the manifest names it."""
    fields = (*dataclasses.fields(state.Limits), *dataclasses.fields(state.OutputSettings))
    assert {field.name for field in fields} == set(plan.FIELD_NAMES)


def test_new_content_takes_new_output_along() -> None:
    """An adapter whose file and output both change is replaced once."""
    before, after = desired(adapter("a", "d1")), desired(adapter("a", "d2", temperature=2.0))
    assert planned([after], [running(before)]) == (
        "replace adapter english/a by d2 in english-NEW (content was d1)"
    )


def test_a_removed_model_goes_first() -> None:
    """Models that are no longer declared free their memory before others are started."""
    german = desired(name="german")
    leftover = running(desired(name="french"), serving=False)
    assert (
        planned([german], [running(desired(adapter("cola"))), leftover])
        == """\
remove model english (no longer declared)
remove model french (no longer declared)
start revision german-NEW (no revision serves)
switch model german to german-NEW (no revision serves)"""
    )


def test_an_unresolved_base_leaves_what_runs() -> None:
    """A base that cannot be resolved never stops the revision that serves (checklist 19)."""
    before = desired(adapter("cola"))
    broken = desired(adapter("cola"), base=None, precision="bf16")
    assert plan.plan([broken], [running(before)]) == ()
    assert plan.plan([broken], []) == ()


def test_adapters_change_under_an_unresolved_base() -> None:
    """While a new base is broken, adapters and limits of the serving revision still follow."""
    broken = desired(adapter("sst2"), base=None, batching={"maxRows": 1})
    before = running(desired(adapter("cola")))
    assert (
        planned([broken], [before])
        == """\
update limits english (batching.maxRows 256 -> 1)
unload adapter english/cola from english-OLD (no longer declared)
load adapter english/sst2 d1 into english-OLD (new adapter)"""
    )


def test_an_unresolved_adapter_leaves_what_runs() -> None:
    """An adapter whose file is gone or broken serves on, whatever else its declaration says."""
    before = running(desired(adapter("cola", label_names=("a", "b"))))
    assert plan.plan([desired(adapter("cola", None), adapter("new", None))], [before]) == ()


def test_an_unresolved_adapter_moves_along_on_the_same_base() -> None:
    """A reload for another reason carries the content that serves to the new revision."""
    before = running(desired(adapter("cola", "d7", temperature=2.0)))
    text = planned([desired(adapter("cola", None), precision="bf16")], [before])
    assert "load adapter english/cola d7 into english-NEW (new adapter)" in text


def test_an_unresolved_adapter_stays_behind_on_another_base() -> None:
    """Content that was made for the old base is not carried to a new one."""
    before = running(desired(adapter("cola")))
    text = planned([desired(adapter("cola", None), base=OTHER)], [before])
    assert "load adapter" not in text


def test_an_interrupted_swap_is_finished() -> None:
    """A revision that was built but not switched to is completed, not built again."""
    before, after = desired(adapter("cola")), desired(adapter("cola"), precision="bf16")
    built = running(after, revision="english-built", serving=False, adapters={})
    assert (
        planned([after], [built, running(before, revision="english-old")])
        == """\
load adapter english/cola d1 into english-built (new adapter)
switch model english to english-built (changed: precision)
retire revision english-old (superseded by english-built)"""
    )


def test_a_return_to_the_old_spec_drops_the_new_revision() -> None:
    """When the declaration goes back mid-swap, the serving revision stays and the other goes."""
    before, after = desired(), desired(precision="bf16")
    operations = plan.plan([before], [running(after, serving=False), running(before)])
    assert plan.text(operations) == (
        f"retire revision {running(after).revision} (superseded by {running(before).revision})"
    )


def test_leftovers_are_retired() -> None:
    """Revisions that neither serve nor are wanted go, in order of names."""
    leftovers = [
        running(desired(), revision=f"english-{i}", reload_key=f"k{i}", serving=False)
        for i in (2, 1)
    ]
    operations = plan.plan([desired()], [*leftovers, running(desired())])
    retired = [one.revision for one in operations if isinstance(one, plan.RetireRevision)]
    assert retired == ["english-1", "english-2"]
    assert len(operations) == 2


def test_revision_names_tell_the_content() -> None:
    """A revision is named by its Model and what it was built from, equal inputs equal names."""
    first, again = desired(), desired(adapter("cola"), batching={"maxRows": 1})
    assert state.revision_name(first) == state.revision_name(again)
    assert state.revision_name(first) != state.revision_name(desired(base=OTHER))
    prefix, _, key = state.revision_name(first).rpartition("-")
    assert prefix == "english"
    assert len(key) == state.RELOAD_KEY_CHARACTERS


MODELS = st.sampled_from(["english", "german"])
OUTPUTS = st.fixed_dictionaries(
    {}, optional={"temperature": st.sampled_from([1.0, 2.0]), "weight": st.sampled_from([1.0, 4.0])}
)
ADAPTERS = st.dictionaries(
    st.sampled_from("abc"), st.tuples(st.sampled_from(["d1", "d2", None]), OUTPUTS)
)
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "precision": st.sampled_from(["fp32", "bf16"]),
        "maxLength": st.sampled_from([64, 128]),
        "pooling": st.sampled_from([{"mode": "cls"}, {"normalize": True}]),
        "batching": st.just({"maxRows": 1}),
    },
)
WORLDS = st.dictionaries(
    MODELS, st.tuples(ADAPTERS, SPECS, st.sampled_from([pictures.BASE, OTHER, None]))
)
World = dict[str, tuple[dict[str, Any], dict[str, Any], state.ResolvedBase | None]]


def wanted_of(world: World) -> list[state.DesiredModel]:
    """The wanted Models of a generated world."""
    return [
        desired(
            *(adapter(a, digest, **output) for a, (digest, output) in adapters.items()),
            name=name,
            base=base,
            **entries,
        )
        for name, (adapters, entries, base) in world.items()
    ]


def execute(
    operations: tuple[plan.Operation, ...],
    wanted: list[state.DesiredModel],
    observed: list[state.ObservedModel],
) -> list[state.ObservedModel]:
    """What exists after the operations ran; fails on an operation that cannot run."""
    models = {model.name: model for model in wanted}
    world = {one.revision: one for one in observed}
    for one in operations:
        match one:
            case plan.RemoveModel():
                world = {n: each for n, each in world.items() if each.name != one.model}
            case plan.StartRevision():
                assert one.revision not in world
                started = running(models[one.model], serving=False, adapters={})
                world[one.revision] = started
            case plan.SwitchRevision():
                for n, each in world.items():
                    if each.name == one.model:
                        world[n] = dataclasses.replace(each, serving=n == one.revision)
                assert world[one.revision].serving
            case plan.RetireRevision():
                assert not world.pop(one.revision).serving
            case plan.UpdateLimits():
                world[one.revision] = dataclasses.replace(world[one.revision], limits=one.limits)
            case _:
                world[one.revision] = settle_adapter(one, world[one.revision], models[one.model])
    return list(world.values())


def settle_adapter(
    one: plan.LoadAdapter | plan.ReplaceAdapter | plan.UnloadAdapter | plan.UpdateOutput,
    revision: state.ObservedModel,
    model: state.DesiredModel,
) -> state.ObservedModel:
    """The revision after an adapter operation."""
    held = dict(revision.adapters)
    outputs = {each.name: each.output for each in model.adapters}
    match one:
        case plan.UnloadAdapter():
            del held[one.adapter]
        case plan.UpdateOutput():
            held[one.adapter] = dataclasses.replace(held[one.adapter], output=one.output)
        case _:
            assert (one.adapter in held) == isinstance(one, plan.ReplaceAdapter)
            held[one.adapter] = state.ObservedAdapter(
                digest=one.digest, output=outputs[one.adapter]
            )
    return dataclasses.replace(revision, adapters=held)


@settings(max_examples=300, deadline=None)
@given(first=WORLDS, second=WORLDS)
def test_a_plan_converges_in_one_go(first: World, second: World) -> None:
    """Running a plan leaves nothing to plan, from any world to any other (checklist 23)."""
    world: list[state.ObservedModel] = []
    for generated in (first, second):
        wanted = wanted_of(generated)
        world = execute(plan.plan(wanted, world), wanted, world)
        assert plan.plan(wanted, world) == ()
        assert {each.name for each in world} <= {model.name for model in wanted}


@settings(max_examples=300, deadline=None)
@given(first=WORLDS, second=WORLDS)
def test_a_model_that_serves_never_stops(first: World, second: World) -> None:
    """At every step of a plan each still declared Model has a revision that serves."""
    before = wanted_of(first)
    world = execute(plan.plan(before, []), before, [])
    up = {each.name for each in world if each.serving}
    wanted = wanted_of(second)
    for one in plan.plan(wanted, world):
        world = execute((one,), wanted, world)
        kept = up & {model.name for model in wanted}
        assert kept <= {each.name for each in world if each.serving}


@given(second=WORLDS)
def test_plans_do_not_depend_on_order(second: World) -> None:
    """The plan is the same in whatever order Models, revisions and adapters are listed."""
    wanted = wanted_of(second)
    observed = [running(desired(adapter("a"))), running(desired(name="german"))]
    backwards = [
        dataclasses.replace(model, adapters=model.adapters[::-1]) for model in reversed(wanted)
    ]
    assert plan.plan(wanted, observed) == plan.plan(backwards, observed[::-1])


def test_every_operation_prints_one_line_with_its_cause() -> None:
    """Each operation is one line that ends in its cause in parentheses."""
    before = desired(adapter("a"), adapter("b"), adapter("c"))
    after = desired(adapter("b", "d2"), adapter("c", temperature=2.0), adapter("d"), maxLength=64)
    reload = desired(name="german", precision="bf16")
    operations = plan.plan(
        [after, reload],
        [running(before), running(desired(name="german")), running(desired(name="french"))],
    )
    assert {type(one) for one in operations} == set(plan.Operation.__args__)
    for one in operations:
        assert str(one).endswith(f"({one.cause})")
        assert "\n" not in str(one)

"""What the store declares, read for the reconciler and checked for an apply."""

from collections.abc import Iterator, Sequence

from bertd import errors
from bertd.manifest import parsing, spec, views, writing
from bertd.reconcile import desire
from bertd.store import objects

KINDS: tuple[views.Kind, ...] = ("Model", "Adapter")


def read(store: objects.Objects, name: str) -> desire.Declared | None:
    """A Model with the Adapter objects that name it; None when there is no such Model."""
    try:
        stored = store.get("Model", name)
    except errors.NotFound:
        return None
    adapters = adapters_of(store, name)
    return desire.Declared(
        name=name,
        generation=stored.generation,
        spec=model_spec(stored),
        adapters={each.name: adapter_spec(each) for each in adapters},
        generations={each.name: each.generation for each in adapters},
    )


def adapters_of(store: objects.Objects, model: str) -> Sequence[objects.Stored]:
    """The Adapter objects that name a Model, which need not exist."""
    return [each for each in store.every("Adapter") if each.spec["model"] == model]


def models(store: objects.Objects) -> set[str]:
    """Every Model that is declared or named by an Adapter object."""
    named = {str(each.spec["model"]) for each in store.every("Adapter")}
    return named | {each.name for each in store.every("Model")}


def wanted(declared: parsing.Declared) -> objects.Wanted:
    """What an apply asks of the store."""
    return objects.Wanted(
        kind=declared.kind,
        name=declared.name,
        labels=declared.labels,
        spec=writing.spec_to_dict(declared.spec),
    )


def touched(store: objects.Objects, declared: parsing.Declared) -> Iterator[str]:
    """The Models that an apply touches; an Adapter may leave the one that it names so far."""
    if not isinstance(declared.spec, spec.AdapterSpec):
        yield declared.name
        return
    yield declared.spec.model
    try:
        yield str(store.get("Adapter", declared.name).spec["model"])
    except errors.NotFound:
        return


def check_unique(store: objects.Objects, parsed: parsing.Manifest) -> None:
    """Proves (model, adapter) unique across what is applied and what is stored already.

    Raises:
        InvalidManifest: naming the place of the declaration that is one too many.
    """
    inline: dict[tuple[str, str], str] = {}
    separate: dict[tuple[str, str], str] = {}
    for each in (*_kept(store, parsed), *parsed.objects):
        if isinstance(each.spec, spec.ModelSpec):
            inline |= {(each.name, a.name): each.where for a in each.spec.adapters if a.name}
        else:
            separate[each.spec.model, each.name] = each.where
    for model, adapter in sorted(inline.keys() & separate.keys()):
        where = inline[model, adapter] or separate[model, adapter]
        raise errors.InvalidManifest(
            f"{where}: adapter '{adapter}' of model '{model}' must be declared once: either "
            "inside the Model or as an object of its own"
        )


def _kept(store: objects.Objects, parsed: parsing.Manifest) -> Iterator[parsing.Declared]:
    """What is stored and not replaced by this manifest."""
    replaced = {(each.kind, each.name) for each in parsed.objects}
    for kind in KINDS:
        for stored in store.every(kind):
            if (kind, stored.name) not in replaced:
                read_spec = writing.spec_from_dict(kind, stored.spec)
                yield parsing.Declared(kind=kind, name=stored.name, labels={}, spec=read_spec)


def model_spec(stored: objects.Stored) -> spec.ModelSpec:
    """The spec of a stored Model."""
    found = writing.spec_from_dict("Model", stored.spec)
    assert isinstance(found, spec.ModelSpec)  # by its kind
    return found


def adapter_spec(stored: objects.Stored) -> spec.AdapterSpec:
    """The spec of a stored Adapter."""
    found = writing.spec_from_dict("Adapter", stored.spec)
    assert isinstance(found, spec.AdapterSpec)  # by its kind
    return found

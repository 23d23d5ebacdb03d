"""What the store declares, read for the reconciler and checked for an apply.

Only what is asked about is read: one Adapter among 100,000 costs as much as one among ten.
"""

from collections.abc import Mapping, Sequence

from bertd import errors
from bertd.manifest import parsing, spec, writing
from bertd.reconcile import desire
from bertd.store import objects

Raw = Mapping[str, object]


class Declarations:
    """Reads Models with their Adapters; a spec that did not change stays the same object."""

    def __init__(self, store: objects.Objects) -> None:
        self._store = store
        self._models: dict[str, tuple[Raw, spec.ModelSpec]] = {}
        self._adapters: dict[str, dict[str, tuple[Raw, spec.AdapterSpec]]] = {}  # by Model

    def read(self, name: str, only: frozenset[str] | None = None) -> desire.Declared | None:
        """A Model with the Adapter objects that name it; None when there is no such Model.

        Args:
            name: the Model's.
            only: the adapters that matter; None: all.
        """
        try:
            stored = self._store.get("Model", name)
        except errors.NotFound:
            self._models.pop(name, None)
            self._adapters.pop(name, None)
            return None
        raw, declared = self._models.get(name, ({}, None))
        if declared is None or raw != stored.spec:
            declared = model_spec(stored)
            self._models[name] = stored.spec, declared
        adapters = self._of_model(name, only)
        return desire.Declared(
            name=name,
            generation=stored.generation,
            spec=declared,
            adapters={each.name: read for each, read in adapters},
            generations={each.name: each.generation for each, _ in adapters},
            only=only,
        )

    def models(self) -> set[str]:
        """Every Model that is declared or named by an Adapter object."""
        return self._store.models_of_adapters() | self.declared_models()

    def declared_models(self) -> set[str]:
        """Every Model that is declared."""
        return {each.name for each in self._store.every("Model")}

    def orphans(self, model: str) -> Sequence[objects.Stored]:
        """The Adapter objects that name a Model, which need not exist."""
        return tuple(self._store.of_model(model))

    def _of_model(
        self, model: str, only: frozenset[str] | None
    ) -> Sequence[tuple[objects.Stored, spec.AdapterSpec]]:
        """What is remembered may be less than what was read: two threads may read one Model."""
        known = self._adapters.setdefault(model, {})
        if only is None:
            found = tuple(self._store.of_model(model))
        else:
            some = self._store.some("Adapter", sorted(only))
            found = tuple(each for each in some if each.spec["model"] == model)
        read = [(each, _kept(known.get(each.name), each)) for each in found]
        now = {each.name: (each.spec, declared) for each, declared in read}
        if only is None:
            self._adapters[model] = now
        else:
            known.update(now)
        return read


def _kept(known: tuple[Raw, spec.AdapterSpec] | None, stored: objects.Stored) -> spec.AdapterSpec:
    return known[1] if known is not None and known[0] == stored.spec else adapter_spec(stored)


def wanted(declared: parsing.Declared) -> objects.Wanted:
    """What an apply asks of the store."""
    return objects.Wanted(
        kind=declared.kind,
        name=declared.name,
        labels=declared.labels,
        spec=writing.spec_to_dict(declared.spec),
    )


def touched(store: objects.Objects, parsed: parsing.Manifest) -> dict[str, set[str] | None]:
    """The Models that an apply touches, with the adapters that matter; None: all of it.

    An Adapter may leave the Model that it names so far; that one is looked at as a whole.
    """
    found: dict[str, set[str] | None] = {}
    named = {
        each.name: each.spec.model
        for each in parsed.objects
        if isinstance(each.spec, spec.AdapterSpec)
    }
    for name, model in named.items():
        names = found.setdefault(model, set())
        assert names is not None  # nothing is a whole Model yet
        names.add(name)
    before = {each.name: str(each.spec["model"]) for each in store.some("Adapter", sorted(named))}
    found |= {model: None for name, model in before.items() if model != named[name]}
    models = (each.name for each in parsed.objects if each.kind == "Model")
    return found | dict.fromkeys(models)


def check_unique(store: objects.Objects, parsed: parsing.Manifest) -> None:
    """Proves (model, adapter) unique across what is applied and what is stored already.

    Raises:
        InvalidManifest: naming the place of the declaration that is one too many.
    """
    inline: dict[tuple[str, str], str] = {}
    separate: dict[tuple[str, str], str] = {}
    for each in parsed.objects:
        if isinstance(each.spec, spec.ModelSpec):
            inline |= {(each.name, a.name): each.where for a in each.spec.adapters if a.name}
        else:
            separate[each.spec.model, each.name] = each.where
    replaced = {(each.kind, each.name) for each in parsed.objects}
    models = {model for model, _ in separate if ("Model", model) not in replaced}
    names = {adapter for _, adapter in inline if ("Adapter", adapter) not in replaced}
    stored_inline = _stored_inline(store, sorted(models))
    stored_separate = {(str(s.spec["model"]), s.name) for s in store.some("Adapter", sorted(names))}
    for model, adapter in sorted(
        (inline.keys() & (separate.keys() | stored_separate)) | (separate.keys() & stored_inline)
    ):
        where = inline.get((model, adapter)) or separate[model, adapter]
        raise errors.InvalidManifest(
            f"{where}: adapter '{adapter}' of model '{model}' must be declared once: either "
            "inside the Model or as an object of its own"
        )


def _stored_inline(store: objects.Objects, models: Sequence[str]) -> set[tuple[str, str]]:
    """(model, adapter) of every adapter that these stored Models name."""
    return {
        (stored.name, str(adapter["name"]))
        for stored in store.some("Model", models)
        for adapter in stored.spec["adapters"]
        if "name" in adapter
    }


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

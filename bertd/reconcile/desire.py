"""What a Model and its adapters stand for right now: declarations resolved to content.

Blocks on the disk (through `resolving`). One adapter's fault never hides another: every outcome is
kept by name, an `errors.Error` beside the things that could be resolved.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bertd import errors
from bertd.checkpoint import sources
from bertd.manifest import sources as manifest_sources
from bertd.manifest import spec as specs
from bertd.reconcile import outputs, resolving, state
from bertd.runtime import router

Declaration = specs.InlineAdapter | specs.AdapterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A stored Model with the Adapter objects that name it."""

    name: str
    generation: int
    spec: specs.ModelSpec
    adapters: Mapping[str, specs.AdapterSpec] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)  # of `adapters`

    @property
    def names(self) -> set[str]:
        """Every adapter that is named; those of globs are known when they were expanded."""
        return {*self.adapters, *(each.name for each in self.spec.adapters if each.name)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An adapter that can be loaded, and how its logits become answers."""

    file: resolving.Adapter
    output: router.Output
    settings: state.OutputSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """A Model with everything that its sources stand for, or why they stand for nothing."""

    declared: Declared
    base: resolving.Base | errors.Error
    adapters: Mapping[str, Found | errors.Error]
    sources: Mapping[str, str]  # of `adapters`, globs expanded

    @property
    def failures(self) -> dict[str, errors.Error]:
        """What could not be resolved, by adapter, "" for the base; a new dict."""
        found = {"": self.base, **self.adapters}
        return {name: error for name, error in found.items() if isinstance(error, errors.Error)}

    def picture(self) -> state.DesiredModel:
        """What the plan looks at."""
        base = None
        if isinstance(self.base, resolving.Base):
            blobs = tuple(sorted(self.base.blobs.items()))
            base = state.ResolvedBase(digest=self.base.description.digest, blobs=blobs)
        return state.DesiredModel(
            name=self.declared.name,
            generation=self.declared.generation,
            spec=self.declared.spec,
            base=base,
            adapters=tuple(_picture(name, found) for name, found in self.adapters.items()),
            are_all_named=not any(manifest_sources.is_glob(name) for name in self.failures),
        )


def resolve(
    declared: Declared, resolver: resolving.Resolver, serving: resolving.Base | None
) -> Desired:
    """Looks at every source of a Model.

    Args:
        declared: the Model and its Adapter objects.
        resolver: copies files into the blob store.
        serving: the base that serves now; adapters are held against it while the declared base
            cannot be resolved.
    """
    base = _base(declared.spec.base, resolver)
    against = base if isinstance(base, resolving.Base) else serving or base
    named = list(_named(declared))
    return Desired(
        declared=declared,
        base=base,
        adapters={
            name: _adapter(source, declaration, resolver, against)
            for name, source, declaration in named
        },
        sources={
            name: source if isinstance(source, str) else declaration.source
            for name, source, declaration in named
        },
    )


def _base(declared: specs.Base, resolver: resolving.Resolver) -> resolving.Base | errors.Error:
    try:
        return resolver.base(declared)
    except errors.Error as error:
        return error


def _adapter(
    source: str | errors.Error,
    declaration: Declaration,
    resolver: resolving.Resolver,
    base: resolving.Base | errors.Error,
) -> Found | errors.Error:
    if isinstance(source, errors.Error):
        return source
    if isinstance(base, errors.Error):
        # Waits as its base does: for another try, or for a change.
        kind = errors.BadArtifact if isinstance(base, errors.BadArtifact) else errors.Temporary
        return kind("the base is not resolved", reason="BaseNotResolved")
    try:
        file = resolver.adapter(source, base.description)
        output = outputs.of_adapter(file.info, declaration)
    except errors.Error as error:
        return error
    return Found(file=file, output=output, settings=state.output_settings(declaration))


def _named(declared: Declared) -> Iterator[tuple[str, str | errors.Error, Declaration]]:
    """(name, source or why there is none, declaration); the first of two equal names counts."""
    seen: set[str] = set()
    for name, source, declaration in _all(declared):
        if name not in seen:
            seen.add(name)
            yield name, source, declaration


def _all(declared: Declared) -> Iterator[tuple[str, str | errors.Error, Declaration]]:
    for name, adapter in declared.adapters.items():
        yield name, adapter.source, adapter
    for inline in declared.spec.adapters:
        if inline.name is not None:
            yield inline.name, inline.source, inline
    for inline in declared.spec.adapters:
        if inline.name is None:
            yield from _expanded(inline)


def _expanded(inline: specs.InlineAdapter) -> Iterator[tuple[str, str | errors.Error, Declaration]]:
    try:
        paths: Sequence[str] = [str(path) for path in sources.expand(inline.source)]
    except errors.Error as error:
        yield inline.source, error, inline
        return
    for path in paths:
        yield manifest_sources.stem(path), path, inline


def _picture(name: str, found: Found | errors.Error) -> state.DesiredAdapter:
    if isinstance(found, errors.Error):
        return state.DesiredAdapter(name=name, digest=None)
    return state.DesiredAdapter(name=name, digest=found.file.digest, output=found.settings)

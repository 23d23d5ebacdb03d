"""What a Model and its adapters stand for right now: declarations resolved to content.

Blocks on the disk (through `resolving`). One adapter's fault never hides another: every outcome is
kept by name, an `errors.Error` beside the things that could be resolved. What did not change since
the last look is the same object as then, so that comparing thousands is cheap.
"""

import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bertd import errors
from bertd.checkpoint import sources
from bertd.manifest import sources as manifest_sources
from bertd.manifest import spec as specs
from bertd.reconcile import outputs, resolving, state
from bertd.runtime import router

Declaration = specs.InlineAdapter | specs.AdapterSpec
SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A stored Model with the Adapter objects that name it, or those of `only`."""

    name: str
    generation: int
    spec: specs.ModelSpec
    adapters: Mapping[str, specs.AdapterSpec] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)  # of `adapters`
    only: frozenset[str] | None = None

    @property
    def names(self) -> set[str]:
        """Every adapter that is named; those of globs are known when they were expanded."""
        return {*self.adapters, *(each.name for each in self.spec.adapters if each.name)}

    @property
    def globs(self) -> list[specs.InlineAdapter]:
        """The declarations that stand for many files."""
        return [each for each in self.spec.adapters if each.name is None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An adapter that can be loaded, and how its logits become answers."""

    file: resolving.Adapter
    output: router.Output
    declaration: Declaration
    wanted: state.DesiredAdapter
    held: state.ObservedAdapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """A Model with everything that its sources stand for, or why they stand for nothing.

    With `only`, `adapters` and `sources` say something of these names alone.
    """

    declared: Declared
    base: resolving.Base | errors.Error
    adapters: Mapping[str, Found | errors.Error]
    sources: Mapping[str, str]  # of `adapters`, globs expanded
    only: frozenset[str] | None = None

    @property
    def failures(self) -> dict[str, errors.Error]:
        """What could not be resolved, by adapter, "" for the base; a new dict."""
        found = itertools.chain((("", self.base),), self.adapters.items())
        return {name: error for name, error in found if isinstance(error, errors.Error)}

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
            only=self.only,
        )


def resolve(
    declared: Declared,
    resolver: resolving.Resolver,
    serving: resolving.Base | None,
    known: Mapping[str, Found] | None = None,
    base: resolving.Base | errors.Error | None = None,
) -> Desired:
    """Looks at every source of a Model, or at those of `declared.only`.

    Args:
        declared: the Model and its Adapter objects.
        resolver: copies files into the blob store.
        serving: the base that serves now; adapters are held against it while the declared base
            cannot be resolved, and the only one that matters to a look at some adapters.
        known: what was found the last time.
        base: what the base was found to be just now; None looks.
    """
    if base is None:
        is_partial = declared.only is not None and serving is not None
        base = serving if is_partial and serving else _base(declared.spec.base, resolver)
    against = base if isinstance(base, resolving.Base) else serving or base
    named: dict[str, tuple[Place, Declaration]] = {}
    for name, place, declaration in _all(declared):
        named.setdefault(name, (place, declaration))  # the first of two equal names counts
    listed = [place for place, _ in named.values() if isinstance(place, sources.Listed)]
    files = iter(_files(listed, resolver, against))
    found = {
        name: place
        if isinstance(place, errors.Error)
        else _found(name, next(files), declaration, (known or {}).get(name))
        for name, (place, declaration) in named.items()
    }
    places = {
        name: declaration.source if isinstance(place, errors.Error) else place.path
        for name, (place, declaration) in named.items()
    }
    return Desired(declared=declared, base=base, adapters=found, sources=places, only=declared.only)


def could_appear(globs: Sequence[specs.InlineAdapter], name: str) -> bool:
    """Whether a file is there that a glob names so, though nobody has looked at it yet."""
    paths = [_path(each, name) for each in globs]
    return any(path is not None and os.path.exists(path) for path in paths)


def _base(declared: specs.Base, resolver: resolving.Resolver) -> resolving.Base | errors.Error:
    try:
        return resolver.base(declared)
    except errors.Error as error:
        return error


def _files(
    places: Sequence[sources.Listed],
    resolver: resolving.Resolver,
    base: resolving.Base | errors.Error,
) -> Sequence[resolving.Adapter | errors.Error]:
    if isinstance(base, errors.Error):
        # Waits as its base does: for another try, or for a change.
        kind = errors.BadArtifact if isinstance(base, errors.BadArtifact) else errors.Temporary
        return [kind("the base is not resolved", reason="BaseNotResolved")] * len(places)
    return resolver.each_adapter(places, base.description)


def _found(
    name: str,
    file: resolving.Adapter | errors.Error,
    declaration: Declaration,
    known: Found | None,
) -> Found | errors.Error:
    if isinstance(file, errors.Error):
        return file
    if known is not None and known.file is file and known.declaration is declaration:
        return known
    try:
        output = outputs.declared(file.output, declaration)
    except errors.Error as error:
        return error
    settings = state.output_settings(declaration)
    return Found(
        file=file,
        output=output,
        declaration=declaration,
        wanted=state.DesiredAdapter(name=name, digest=file.digest, output=settings),
        held=state.ObservedAdapter(digest=file.digest, output=settings),
    )


Place = sources.Listed | errors.Error


def _all(declared: Declared) -> Iterator[tuple[str, Place, Declaration]]:
    """(name, where it is or why nowhere, declaration): objects, then named ones, then globs."""
    only = declared.only
    for name, adapter in declared.adapters.items():
        yield name, sources.Listed(adapter.source, None), adapter
    for inline in declared.spec.adapters:
        if inline.name is not None and (only is None or inline.name in only):
            yield inline.name, sources.Listed(inline.source, None), inline
    for inline in declared.globs:
        yield from _expanded(inline) if only is None else _appeared(inline, only)


def _expanded(inline: specs.InlineAdapter) -> Iterator[tuple[str, Place, Declaration]]:
    try:
        listed = sources.listing(inline.source)
    except errors.Error as error:
        yield inline.source, error, inline
        return
    for place in listed:
        yield manifest_sources.stem(place.path), place, inline


def _appeared(
    inline: specs.InlineAdapter, only: Collection[str]
) -> Iterator[tuple[str, Place, Declaration]]:
    for name in only:
        path = _path(inline, name)
        signature = sources.signature(path) if path else None
        if path is not None and signature is not None:
            yield name, sources.Listed(path, signature), inline


def _path(glob: specs.InlineAdapter, name: str) -> str | None:
    """Where a glob would find an adapter of this name: in its own folder, or nowhere."""
    return None if "/" in name else sources.matches(glob.source, name + SUFFIX)


def _picture(name: str, found: Found | errors.Error) -> state.DesiredAdapter:
    if isinstance(found, errors.Error):
        return state.DesiredAdapter(name=name, digest=None)
    return found.wanted

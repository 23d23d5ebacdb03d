"""Builders of small pictures for plans."""

import dataclasses
from typing import Any

from bertd.manifest import spec, writing
from bertd.reconcile import state

BASE = state.ResolvedBase(digest="b1", blobs=(("config.json", "c1"), ("tokenizer.json", "t1")))


def model_spec(**entries: Any) -> spec.ModelSpec:
    """A Model's spec from YAML names."""
    read = writing.spec_from_dict("Model", {"base": {"source": "/m"}, **entries})
    assert isinstance(read, spec.ModelSpec)
    return read


def adapter(name: str, digest: str | None = "d1", **output: Any) -> state.DesiredAdapter:
    """A wanted adapter; `output` as in `state.OutputSettings`."""
    return state.DesiredAdapter(name=name, digest=digest, output=state.OutputSettings(**output))


def desired(
    *adapters: state.DesiredAdapter,
    name: str = "english",
    base: state.ResolvedBase | None = BASE,
    **entries: Any,
) -> state.DesiredModel:
    """A wanted Model."""
    return state.DesiredModel(
        name=name, generation=1, spec=model_spec(**entries), base=base, adapters=adapters
    )


def running(model: state.DesiredModel, **changes: Any) -> state.ObservedModel:
    """The revision that makes a wanted Model true."""
    assert model.base is not None
    observed = state.ObservedModel(
        name=model.name,
        revision=state.revision_name(model),
        reload_key=state.reload_key(model),
        limits=state.limits(model.spec),
        adapters={
            one.name: state.ObservedAdapter(digest=one.digest, output=one.output)
            for one in model.adapters
            if one.digest is not None
        },
        reload_inputs=state.reload_inputs(model.spec, model.base),
    )
    return dataclasses.replace(observed, **changes)

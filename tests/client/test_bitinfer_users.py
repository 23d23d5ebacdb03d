"""Who comes from BitInfer sends the base64 texts that exist, made adapters on the caller's side."""

import dataclasses
import hashlib
import pathlib

import numpy as np
import pytest

from bertd import errors, frames
from bertd.client import aio, failure
from bertd.engine import session as sessions
from bertd.interchange import bitinfer
from bertd.runtime import calls
from tests.interchange import making
from tests.serving import fakes

NAMES = ("no", "maybe", "yes")


@dataclasses.dataclass(kw_only=True)
class EngineRoute(fakes.Route):
    """A route whose worker is the real engine, in this process."""

    engine: sessions.Session

    async def run(
        self, rows, task: frames.Task, deadline_s: float, *, priority: float = 1.0
    ) -> calls.Ran:
        slot = self.engine.load_adapter(self.content.path)
        packed = frames.pack_rows(0, [(row.ids, row.type_ids, slot, task) for row in rows])
        found = self.engine.base.runner.run(packed).vectors
        return calls.Ran(vectors=found, queue_s=0.0, inference_s=0.0)


def route(folder: pathlib.Path) -> EngineRoute:
    """The route of a model that takes adapters from calls."""
    engine = sessions.Session.open(str(folder))
    return EngineRoute(
        adapter="",
        output=None,
        tokenizer=engine.tokenizer,
        base=engine.base.description,
        allows_inline=True,
        engine=engine,
    )


async def test_a_base64_text_is_answered_as_the_merged_model(tmp_path, socket):
    """The text, converted by the caller, goes with the call: the merged logits (B1, B2)."""
    model = making.model_t()
    folder = making.save(tmp_path, model)
    tuned = making.moved(model, seed=1)
    text = bitinfer.to_text(making.saved(making.parts(model, tuned)))
    data = bitinfer.convert(text, base=str(folder), label_names=NAMES)
    routes = {("english", ""): route(folder)}
    async with fakes.running(routes, socket) as daemon, aio.AsyncClient(daemon.admin) as client:
        reply = await client.classify(
            making.TEXTS, model="english", adapter_bytes=data, raw_logits=True
        )
    found = np.array([each.logits for each in reply])
    np.testing.assert_allclose(found, making.logits(tuned, folder), atol=1e-5, rtol=0)
    assert [each.label for each in reply] == [NAMES[row.argmax()] for row in found]
    assert reply.served.adapter_digest == hashlib.sha256(data).hexdigest()


async def test_a_bitinfer_file_itself_is_refused_by_the_daemon(tmp_path, socket):
    """No daemon reads a pickle: the file as it is, and its text, are told what they are (B3)."""
    model = making.model_t()
    folder = making.save(tmp_path, model)
    raw = making.saved(making.parts(model, making.moved(model, seed=1)))
    routes = {("english", ""): route(folder)}
    async with fakes.running(routes, socket) as daemon, aio.AsyncClient(daemon.admin) as client:
        with pytest.raises(failure.CallError) as caught:
            await client.classify(["w1"], model="english", adapter_bytes=raw)
        with pytest.raises(errors.InvalidRequest, match=r"bertd\.interchange\.bitinfer\.convert"):
            await client.classify(["w1"], model="english", adapter_bytes=bitinfer.to_text(raw))
        assert daemon.stored == []
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "PickleRefused")

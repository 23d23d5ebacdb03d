"""A controller over a real store, with sources that a test declares and workers it commands."""

import asyncio
import contextlib
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

import prometheus_client
import tokenizers

from bertd import errors, families, metrics
from bertd.checkpoint import declared, sources
from bertd.checkpoint import files as checkpoint_files
from bertd.manifest import spec, views
from bertd.reconcile import control, controller, live, resolving
from bertd.runtime import devices, dispatcher, router, worker
from bertd.store import blobs, objects
from tests.runtime import fakes

GATE_TIMEOUT_S = 30.0
CONFIG = {
    "model_type": "bert",
    "vocab_size": 8,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
}


class Resolver(resolving.Resolver):
    """Sources are names: `bases` and `adapters` say what each is now, or why it is nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(blobs.Blobs(folder / "blobs"))
        self._tokenizer = folder / "tokenizer.json"
        vocabulary = {word: n for n, word in enumerate(("[UNK]", "[CLS]", "[SEP]", "a"))}
        model = tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")
        tokenizers.Tokenizer(model).save(str(self._tokenizer))
        self.bases: dict[str, str | errors.Error] = {}
        self.adapters: dict[str, str | errors.Error] = {}
        self.asked: list[str] = []
        self.gate = threading.Event()  # cleared: whoever asks for a source waits
        self.gate.set()
        self.kept: list[set[str]] = []
        self.forgotten: list[str] = []
        self._read: dict[str, resolving.Adapter] = {}

    def base(self, declared: spec.Base) -> resolving.Base:
        self.asked.append(declared.source)
        assert self.gate.wait(GATE_TIMEOUT_S)
        content = _now(self.bases, declared.source)
        return resolving.Base(
            blobs={"weights": _digest(content)}, files={}, description=self._describe(content)
        )

    def adapter(
        self,
        source: str,
        base: checkpoint_files.Base,
        signature: sources.Signature | None = None,
    ) -> resolving.Adapter | errors.Error:
        self.asked.append(source)
        assert self.gate.wait(GATE_TIMEOUT_S)
        try:
            content = _now(self.adapters, source)
        except errors.Error as error:
            return error
        if content not in self._read:
            self._read[content] = resolving.Adapter(
                digest=_digest(content),
                output=router.Output(label_names=("no", "yes"), problem="single_label"),
                file_bytes=1,
            )
        return self._read[content]

    def forget(self, digests: Collection[str]) -> None:
        self.forgotten.extend(digests)

    def sweep(self, keep: Collection[str]) -> int:
        self.kept.append(set(keep))
        return 0

    def _describe(self, content: str) -> checkpoint_files.Base:
        return checkpoint_files.Base(
            shape=families.shape(CONFIG),
            family="bert",
            architecture="BertModel",
            config=CONFIG,
            pooling=declared.Pooling(mode="mean", normalize=True),
            max_length=64,
            head=None,
            label_names=(),
            problem="",
            weights=(),
            tokenizer=self._tokenizer,
            names={},
            has_pooler=True,
            digest=_digest(content),
            tokenizer_digest="t",
        )


class World:
    """A controller and everything around it; made by `running`."""

    def __init__(self, folder: Path, resolver: type[Resolver]) -> None:
        self.objects = objects.Objects(folder / "objects.sqlite")
        self.resolver = resolver(folder)
        self.router = router.Router()
        self.health: dict[str, bool] = {}
        self.told: list[tuple[str, bool | None]] = []
        self.workers: list[fakes.FakeWorker] = []
        self.kind: type[fakes.FakeWorker] = fakes.FakeWorker
        self.device = dispatcher.Dispatcher(1, asyncio.get_running_loop().time)
        self.devices = devices.Devices(self.device, asyncio.get_running_loop().time)
        series = metrics.Metrics(prometheus_client.CollectorRegistry())
        self.controller = controller.Controller(
            objects=self.objects,
            resolver=self.resolver,
            shared=live.Shared(
                devices=self.devices,
                router=self.router,
                metrics=series,
                blob=self.resolver.path,
                spawn=self._spawn,
            ),
            on_health=self._on_health,
            jitter=lambda: 0.0,
        )
        self.control = control.Control(
            objects=self.objects, controller=self.controller, metrics=series
        )

    async def _spawn(self, lanes: int, listener: worker.Listener) -> fakes.FakeWorker:
        self.workers.append(self.kind(listener))
        return self.workers[-1]

    def _on_health(self, name: str, serving: bool | None) -> None:
        self.told.append((name, serving))
        self.health.pop(name, None)
        if serving is not None:
            self.health[name] = serving

    async def apply(self, *documents: str) -> None:
        """Applies manifests that leave apiVersion out."""
        text = "\n---\n".join(f"apiVersion: bertd.dev/v1\n{each}" for each in documents)
        await self.control.apply(text, "test.yaml", "/", False)

    def status(self, kind: views.Kind, name: str) -> views.StatusView:
        """The status of one object."""
        return self.control.get(kind, name).status

    def condition(self, kind: views.Kind, name: str, type_: str = "Ready") -> views.Condition:
        """One condition of one object."""
        return next(c for c in self.status(kind, name).conditions if c.type == type_)

    async def ready(self, kind: views.Kind, name: str) -> None:
        """Waits until an object's newest generation is Ready."""
        await self.until(kind, name, "True")

    async def failed(self, kind: views.Kind, name: str, reason: str) -> None:
        """Waits until an object's newest generation is not Ready, for this reason."""
        await self.until(kind, name, "False", reason)

    async def until(self, kind: views.Kind, name: str, status: str, reason: str = "") -> None:
        """Waits for the condition Ready of an object's newest generation."""

        def holds() -> bool:
            try:
                shown = self.control.get(kind, name)
            except errors.NotFound:
                return False
            return any(
                c.type == "Ready" and c.status == status and c.reason == (reason or c.reason)
                for c in shown.status.conditions
                if c.observed_generation == shown.generation
            )

        await fakes.until(holds)

    async def settled(self) -> None:
        """Waits until nothing is being reconciled."""
        await fakes.until(lambda: not self.controller._tasks)

    def serves(self, model: str, adapter: str = "") -> str:
        """The digest that answers for a name; raises what a caller would be told."""
        return self.router.find(model, adapter).digest


def model(name: str = "m", source: str = "/base", **entries: str) -> str:
    """A Model's document."""
    more = "".join(f", {key}: {value}" for key, value in entries.items())
    return f"kind: Model\nmetadata: {{name: {name}}}\nspec: {{base: {{source: {source}}}{more}}}"


def adapter(name: str, model: str = "m", **entries: str) -> str:
    """An Adapter's document; its source is `/NAME`."""
    more = "".join(f", {key}: {value}" for key, value in entries.items())
    return (
        f"kind: Adapter\nmetadata: {{name: {name}}}\n"
        f"spec: {{model: {model}, source: /{name}{more}}}"
    )


@contextlib.asynccontextmanager
async def running(
    folder: Path, adapters: Sequence[str] = (), resolver: type[Resolver] = Resolver
) -> AsyncIterator[World]:
    """A controller at work; `/base` exists, and so does `/NAME` for each of `adapters`."""
    os.makedirs(folder, exist_ok=True)
    world = World(folder, resolver)
    world.resolver.bases["/base"] = "base"
    world.resolver.adapters |= {f"/{name}": f"{name}-1" for name in adapters}
    with world.objects:
        async with world.controller.running():
            yield world


def digest(content: str) -> str:
    """The digest of an adapter with this content."""
    return _digest(content)


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _now(sources: dict[str, str | errors.Error], source: str) -> str:
    found = sources.get(source) or errors.BadArtifact(f"no {source}", reason="SourceNotFound")
    if isinstance(found, errors.Error):
        raise found
    return found

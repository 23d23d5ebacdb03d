"""bertd serves many BitFit fine-tunes of BERT-family encoders from one copy of the weights.

Two programs share a few leaves. The *front* (`daemon`) speaks gRPC, tokenises, queues and batches;
it never imports torch and never maps weights. A *worker* (`engine`) is a process that runs one
revision's batches; it may die without losing a request. They talk in frames of raw integers.

     app ── gRPC ── serving ── runtime: queue → take() ── one frame per batch ──► engine: lanes
                        ▲                  ▲                                        │
                        └── answers ───────┴──────────── raw floats ────────────────┘
     YAML ── manifest ── store ── reconcile: observe → diff → plan → execute ──► runtime

Rooms, from the top; imports go downward only, and CI enforces it:

    cli             the verbs; heavy parts are imported inside their verb
    load            the load generator of `bertd bench`, which measures from outside
    daemon, client  composition root of the front | what applications call it with
    edge            the edge program: gRPC and tokenising alone, many to a front (optional)
    serving         the gRPC edge: requests, answers, status codes, health
    reconcile       declared objects become running revisions
    runtime         revisions: starts, feeds, watches and retires workers, as processes
    batcher         the same batching around any function, without a daemon
    ─────────────── process border: runtime starts `python -m bertd.engine`, never imports it
    engine          the worker program: lanes, packing, running a batch; `Session` in-process
    adapters        folding bias offsets, the table that a forward reads
    bitfit          training an adapter
    model           the packed encoder and its heads
    ─────────────── shared leaves, free of torch and grpc
    tokenization    text to ids            batching   who runs next and who comes in (pure)
    frames          what crosses the border
    checkpoint      weight files as hostile input
    store           declared objects and copied files on disk
    families        names and shapes per architecture
    manifest        what may be declared (pure)
    metrics, v1     every metric in one file | generated protocol code
    addresses, cores, logs, processes, errors

`docs/architecture.md` walks through the flows. `bertd.Client` and `bertd.AsyncClient` are the
public Python face; `bertd.bitfit` trains and `bertd.batcher` batches without a daemon.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bertd.batcher.aio import Batcher as Batcher
    from bertd.batcher.sync import SyncBatcher as SyncBatcher
    from bertd.client.aio import AsyncClient as AsyncClient
    from bertd.client.failure import CallError as CallError
    from bertd.client.sync import Client as Client

__all__ = ["AsyncClient", "Batcher", "CallError", "Client", "SyncBatcher"]
_HOMES = {
    "AsyncClient": "bertd.client.aio",
    "Batcher": "bertd.batcher.aio",
    "CallError": "bertd.client.failure",
    "Client": "bertd.client.sync",
    "SyncBatcher": "bertd.batcher.sync",
}


def __getattr__(name: str) -> object:
    """Imports a name on first use: `import bertd` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bertd' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)

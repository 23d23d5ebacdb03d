"""The daemon's batching around any function: `await batcher.submit(item)`, without the daemon.

    aio       `Batcher`, for asyncio        sync      `SyncBatcher`, for programs with threads
    limits    what may run and wait         hooks     five events to watch
    padding   numpy items of unequal shape in one array, and their outputs cut apart again
    buckets   items by length, order restored

May import `bertd.batching`, `bertd.errors` and the standard library (`padding` also numpy). Must
never import torch, gRPC or a room of the daemon, decide anything that the policy decides, or leave
a caller without an answer.
"""

"""What the daemon keeps on disk: declared objects, copied files, and the lock over both.

`objects` holds what users declared, in SQLite; `blobs` holds the files that those objects name,
copied once and named by their sha256; `folded` tidies the workers' cache of folded adapters;
`history` remembers which files adapters served; `lock` makes one daemon the owner of a state
directory. `kill -9` anywhere leaves the old or the new state.

May import `bertd.errors`, structlog and the standard library; knows nothing of models, manifests or
gRPC, and never reads what a blob means.
"""

"""The edge program: gRPC and tokenising in a process of their own, started by the daemon.

Reading order: `owner` (frames to the front and back), `routes` (whom calls ask, as the front says),
`reports` (what the front is told of calls that ended), `answering` (the service, which asks again
when a route changed), `program` (puts them together and takes them down).

May import `serving`, the types of `runtime` and the leaves. Must never queue, admit, batch, or know
a worker: that is the front, the one owner of every row. Keeps nothing that the front cannot make
anew: an edge may die at any time, and costs the calls of its own connections only.
"""

"""The gRPC edge: bytes in, checked requests, answers out, and every error as the right status.

Reading order: `status` (error to status, the one table), `guard` (what surrounds every call),
`requests`, `answers` and `replies` (pure: messages to inputs, logits to labels, labels to bytes),
`stream` (many calls over one), `inference`, `admin` and `health` (the services), `sockets` and
`server` (where they listen).

May import `runtime` and the leaves, and grpc: no other room of the daemon speaks it. Must never
decide what runs when (that is `runtime`), change an object (that is `reconcile`, behind the
`Control` protocol of `admin`), or let the text of an unforeseen exception reach a client.
"""

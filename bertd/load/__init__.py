"""Load on a daemon, and what it shows: the room behind `bertd bench` and the benchmarks.

Modules: `arrivals` decides when calls begin and what texts they carry, `outcome` counts and sums
up (both pure), `requests` makes bytes of texts and reads replies, `calls` sends bytes over gRPC,
`alarm` is a timer finer than an event loop's, `generator` drives any `Target` along a plan.

May import `client`, `v1`, `errors` and grpc. Must never import a room of the daemon: it measures
from outside, as a caller would. It runs on the machine that it measures: calls must cost little.
"""

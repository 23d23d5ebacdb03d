"""The worker program: one revision's weights, its adapters, and the lanes that run batches.

Started by `runtime` as `python -m bertd.engine`, never imported by the front. May import every room
below it. `session.Session` is the same engine inside one's own process, without a front.
"""

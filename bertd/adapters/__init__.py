"""Adapters in memory and folded on disk: folding, the table that a forward reads, heads per slot.

May import `model`, `checkpoint`, `families` and `errors`. Base weights are only ever read here.
An adapter touches nothing but its own slot, so loading or freeing one never disturbs a batch.
"""

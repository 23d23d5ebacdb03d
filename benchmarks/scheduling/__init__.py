"""Scheduling without a machine: bertd's own policy and its rivals' on the same arrivals.

A discrete-event simulation in virtual time. Arrivals are drawn from a seed, lanes take as long as a
formula says, and what decides is either the code that serves (`bertd.batching`) or a rival's rule,
written down from its source or its documents. So curves repeat exactly, on any machine.

`python -m benchmarks.scheduling` runs every scenario and writes the results and the plots.
"""

"""Speed of bertd's engine on a CPU against its peers, interleaved, with accuracy beside it.

`make bench-engine`, or `python -m benchmarks.engine --models bert-base --workloads cola32`. Every
contender lives in a process of its own (peers in a virtual environment of their own) and takes
turns; whoever does not run is stopped. `names` says who there is, `workloads` what they run.
"""

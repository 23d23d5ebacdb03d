"""Speed of bertd as a server beside its peers, over the network and under load.

`make bench-serving`, or `python -m benchmarks.serving --models bert-base`. Every contender is a
server in an environment of its own that classifies the same texts by the same fine-tuned model. It
has the first core for itself and all of its processes; our load generator has the second. Servers
take turns, round by round; whoever does not serve is stopped. `contenders` says who there is,
`loads` what they are asked.
"""

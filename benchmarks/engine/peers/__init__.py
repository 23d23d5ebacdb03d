"""The peers: how each library's model is converted, and how a batch is run through it.

These modules run in the peers' own virtual environment and import nothing of bertd.
"""

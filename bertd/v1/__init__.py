"""Code generated from `proto/bertd/v1`; `make proto` writes it anew, and nobody edits it.

The one leaf that knows grpc: only `serving` and `client` may import it.
"""

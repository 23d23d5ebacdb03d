"""Revisions and their workers: starts, feeds, watches and retires them.

Part of the front: no torch, no mapped weights. A worker is a process (`python -m bertd.engine`)
reached over sockets with `frames`; this room never imports the worker's rooms. It owns every row
from submission until it is answered or refused, whatever happens to workers meanwhile. It may
import the shared leaves; it never reads a manifest and never speaks gRPC.
"""

"""What an application, or the command line, calls a daemon with.

Modules: `sync` (Client) and `aio` (AsyncClient) for inference, `stream` and `stream_sync` for many
calls over one stream, `asking` what the asyncio ones share, `admin` (AdminClient) for objects;
`channel` finds the daemon and says how to talk to it, `messages` builds requests, `results` is what
replies become, `failure` is what a refused call raises.

May import `v1`, `addresses`, `errors`, grpc and numpy. Must never import a room of the daemon: what
the client knows of a daemon is what `proto/` says.
"""

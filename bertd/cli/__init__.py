"""The `bertd` command: one module per verb, `main` puts them together.

stdout is data, stderr is log and progress; exit codes are in `exits`. A verb talks to the daemon
through `client` alone, and reads files through `manifest` and `checkpoint`.

May import every room, but only inside the verb that needs it: importing `bertd.cli.main` must load
neither torch nor grpc nor pydantic, so that every verb starts at once.
"""

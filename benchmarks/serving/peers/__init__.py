"""Other people's servers, each run in an environment of its own: nothing here imports bertd."""

"""`bertd adapter`: everything about adapter files that needs no daemon."""

import os

import typer

from bertd import cores
from bertd.cli import adapter_evaluate, adapter_exchange, adapter_train

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _before() -> None:
    """Train, inspect, evaluate, convert and compare BitFit adapters; needs no daemon."""
    # Read when torch is imported, inside the verb: a team larger than the quota spins for nothing.
    os.environ.setdefault("OMP_NUM_THREADS", str(cores.usable()))


app.command()(adapter_train.train)
app.command()(adapter_evaluate.evaluate)
app.command()(adapter_train.inspect)
app.command()(adapter_exchange.diff)
app.command(name="import")(adapter_exchange.import_)
app.command()(adapter_exchange.export)
app.command()(adapter_exchange.merge)

"""`bertd adapter`: everything about adapter files that needs no daemon."""

import typer

from bertd.cli import adapter_exchange, adapter_train

app = typer.Typer(
    help="Train, inspect, evaluate, convert and compare BitFit adapters; needs no daemon.",
    no_args_is_help=True,
)

app.command()(adapter_train.train)
app.command()(adapter_train.evaluate)
app.command()(adapter_train.inspect)
app.command()(adapter_exchange.diff)
app.command(name="import")(adapter_exchange.import_)
app.command()(adapter_exchange.export)
app.command()(adapter_exchange.merge)

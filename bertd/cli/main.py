"""The `bertd` command: the grammar of its verbs, and how a failure leaves.

What a verb does lives in a module of its own, imported when the verb runs: `bertd version` and
`bertd get` must not wait for numpy, pydantic or torch. `bertd adapter` and `bertd bench` bring
their own grammar.
"""
# ruff: noqa: PLC0415 (imports inside verbs are the point of this module)

import enum
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bertd import addresses, errors
from bertd.cli import adapter, bench, durations, exits, terminal

Output = enum.StrEnum("Output", ["wide", "yaml", "json", "name"])
Answers = enum.StrEnum("Answers", ["table", "json"])
LogFormat = enum.StrEnum("LogFormat", ["auto", "console", "json"])

Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE...", help="Manifests, directories of them, or - for stdin."),
]
Filenames = Annotated[
    list[str] | None, typer.Option("--filename", "-f", metavar="FILE", help="Same as FILE.")
]
Objects = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="model/NAME, adapter/NAME, or KIND NAME...")
]
KindAndNames = Annotated[
    list[str], typer.Argument(metavar="KIND [NAME...]", help="models, adapters, or model/NAME.")
]
Timeout = Annotated[str, typer.Option(metavar="DURATION", help="Such as 500ms, 30s or 5m.")]

app = typer.Typer(
    name="bertd",
    help="Serve many BitFit fine-tunes of one encoder: declare them in YAML, call them by gRPC.",
    epilog="Verbs find the daemon by BERTD_SERVER, else at the user's admin socket. "
    "Exit codes: 0 ok, 1 failed or differs, 2 invalid, 3 timed out, 4 conflict, 5 no daemon.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def serve(  # noqa: PLR0913, PLR0917 (its options)
    state_dir: Annotated[
        Path | None,
        typer.Option(help="What must survive a restart.", show_default="~/.local/state/bertd"),
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDR",
            help="Where applications call: HOST:PORT or unix:PATH; may be repeated.",
            show_default=addresses.DATA,
        ),
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR",
            help="Where verbs call: a private socket.",
            show_default="where they look for it",
        ),
    ] = None,
    metrics: Annotated[
        str, typer.Option(metavar="ADDR", help="Where Prometheus scrapes.")
    ] = addresses.METRICS,
    health: Annotated[
        str, typer.Option(metavar="ADDR", help="A further port with health checks alone.")
    ] = "",
    lanes: Annotated[
        int, typer.Option(min=0, max=1024, help="Batches at a time; 0: one per usable core.")
    ] = 0,
    edges: Annotated[
        int,
        typer.Option(
            min=0,
            max=64,
            help="Processes that speak gRPC on TCP ports in place of this one; see the docs.",
        ),
    ] = 0,
    default_deadline: Annotated[
        str, typer.Option(metavar="TIME", help="What a call without a deadline gets, at most 5m.")
    ] = "10s",
    reflection: Annotated[
        bool, typer.Option("--reflection", help="Describe the services on the data port too.")
    ] = False,
    log_format: Annotated[
        LogFormat, typer.Option(help="auto: for people on a terminal, else JSON lines.")
    ] = LogFormat.auto,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    if sys.platform != "linux":
        raise errors.InvalidRequest(
            "the daemon runs on Linux only", hint="name a running one in BERTD_SERVER"
        )
    # Libraries read these when they begin: no thread pool of the tokenizer or of numpy on every
    # core, and no word from grpc about the forks that start workers.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    # Its newer listener hands every message through two more threads, a fifth of a call's cost.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    from bertd import daemon

    uid = addresses.user_id()
    options = daemon.Options(
        state_dir=state_dir or Path(addresses.state_dir(os.environ, uid)),
        listen=tuple(map(addresses.target, listen or [addresses.DATA])),
        admin=addresses.target(admin or addresses.own_socket(os.environ, uid)),
        metrics=metrics,
        health=addresses.target(health),
        lanes=lanes,
        edges=edges,
        default_deadline_s=durations.seconds(default_deadline, "--default-deadline"),
        log_format=log_format.value,
        reflection=reflection,
    )
    try:
        daemon.main(options)
    except errors.Error as error:
        terminal.fail(error)
        conflict = isinstance(error, errors.Conflict)
        raise typer.Exit(exits.CONFLICT if conflict else exits.INVALID) from None


@app.command()
def apply(
    files: Files = None,
    filenames: Filenames = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Let the daemon check everything, change nothing.")
    ] = False,
    wait_: Annotated[
        bool, typer.Option("--wait", help="Return when everything is Ready as written.")
    ] = False,
    timeout: Timeout = "2m",
) -> None:
    """Declare the objects of manifests; print what became of each."""
    from bertd.cli import apply as verb

    wait_s = durations.seconds(timeout) if wait_ else None
    verb.apply([*(files or ()), *(filenames or ())], dry_run=dry_run, wait_s=wait_s)


@app.command()
def diff(files: Files = None, filenames: Filenames = None) -> None:
    """Show what apply would change: exit code 0 nothing, 1 something, 2 or more an error."""
    from bertd.cli import apply as verb

    raise typer.Exit(verb.diff([*(files or ()), *(filenames or ())]))


@app.command()
def get(
    names: KindAndNames,
    output: Annotated[Output | None, typer.Option("--output", "-o", help="Form.")] = None,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="With adapters: only those of this model.")
    ] = "",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Then print changes until Ctrl-C.")
    ] = False,
) -> None:
    """Print objects: a table, or with -o yaml a manifest that apply takes back unchanged."""
    from bertd.cli import show, watching

    verb = watching.watch if watch else show.get
    verb(names, output.value if output else "", model=model)


@app.command()
def describe(names: KindAndNames) -> None:
    """Print everything about objects: conditions with reasons, facts, and the whole spec."""
    from bertd.cli import show as verb

    verb.describe(names)


@app.command()
def delete(names: Objects) -> None:
    """Forget objects; what they serve drains and stops."""
    from bertd.cli import delete as verb

    verb.delete(names)


@app.command()
def wait(
    names: Objects,
    goal: Annotated[
        str, typer.Option("--for", metavar="GOAL", help="condition=TYPE[=STATUS], or delete.")
    ] = "condition=Ready",
    timeout: Timeout = "30s",
) -> None:
    """Wait until objects have a condition, or are gone; a timeout of 0 looks once."""
    from bertd.cli import waiting as verb

    verb.wait(names, goal, timeout_s=durations.seconds(timeout))


@app.command()
def predict(
    target: Annotated[str, typer.Argument(metavar="MODEL[/ADAPTER]")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT...", help="Texts; without any, each line of stdin is one."),
    ] = None,
    tags: Annotated[
        bool, typer.Option("--tags", help="A label for each token, of a head that tags.")
    ] = False,
    output: Annotated[Answers, typer.Option("--output", "-o", help="Form.")] = Answers.table,
) -> None:
    """Classify texts: print each with its label and probability, or a regression's value."""
    from bertd.cli import predict as verb

    answer = verb.tag if tags else verb.predict
    answer(target, texts or [], as_json=output is Answers.json)


@app.command()
def validate(
    files: Files = None,
    filenames: Filenames = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also open what sources name: tensors, shapes, adapters."),
    ] = False,
) -> None:
    """Check manifests without a daemon: exit code 2 if anything is wrong."""
    from bertd.cli import validate as verb

    raise typer.Exit(verb.validate([*(files or ()), *(filenames or ())], deep=deep))


@app.command()
def convert(
    directory: Annotated[
        Path, typer.Argument(help="A saved Hugging Face model with a pytorch_model.bin.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The directory to make.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Where tokenizer.json is, if not there: the file or its directory."),
    ] = None,
    output: Annotated[Answers, typer.Option("--output", "-o", help="Form.")] = Answers.table,
) -> None:
    """Turn a checkpoint's pickled weights into safetensors, in a process without any rights."""
    from bertd.cli import convert as verb

    verb.convert(directory, out, tokenizer=tokenizer, as_json=output is Answers.json)


@app.command()
def schema() -> None:
    """Print the JSON Schema of manifests, for editors."""
    from bertd.manifest import schema as manifest_schema

    terminal.out(manifest_schema.text().rstrip("\n"))


@app.command()
def version() -> None:
    """Print the version."""
    terminal.out(f"bertd {importlib.metadata.version('bertd')}")


app.command()(bench.bench)
app.add_typer(adapter.app, name="adapter")


def run() -> None:
    """The console script."""
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; errors are printed, bugs are raised."""
    try:
        app(list(arguments), prog_name="bertd")
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else exits.FAILED
    except errors.Error as error:
        terminal.fail(error)
        return exits.code(error)
    return exits.OK

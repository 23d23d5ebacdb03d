"""`bertd bench --peak`: what this machine can do at most; needs no daemon.

The matrix peak is what every share of it (`bertd_compute_efficiency`, the tables of benchmarks) is
measured against. Torch's own OpenMP threads stay at one: each core runs its own products.
"""

import os

from bertd import cores, errors
from bertd.cli import facts, table, terminal


def peak() -> None:
    """Prints operations per second by precision, on one core and on all, and what computes.

    Raises:
        errors.InvalidRequest: torch is not installed.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    try:
        from bertd.engine import peak as measuring  # noqa: PLC0415 (torch takes a second)
        from bertd.kernels import native  # noqa: PLC0415
    except ImportError as error:
        raise errors.InvalidRequest(
            f"the engine is missing: {error}", hint="pip install 'bertd[engine]'"
        ) from None
    usable = cores.usable()
    measuring.alone()
    one, every = measuring.measure(measuring.TABLE_BUDGET_S), measuring.measure_all(usable)
    rows = [
        (name, f"{facts.rate(one[name])}op/s", f"{facts.rate(every[name])}op/s") for name in one
    ]
    all_cores = f"ALL {usable} CORES" if usable > 1 else "THE USABLE CORE"
    terminal.out(table.render(("PRECISION", "ONE CORE", all_cores), rows))
    library = native.open_library()
    kernels = library.isa if library else f"torch, for lack of bertd's own: {native.reason()}"
    terminal.out(f"\nprocessor: {measuring.processor()}\nkernels:   {kernels}")

"""Slows a worker's real engine down to a known pace; every Python with this on its path reads it.

A batch takes at least as long as `BERTD_TEST_PACE` says: `FIXED,TOKEN` seconds, the latter for each
of its tokens. So the capacity of a daemon does not depend on what else a machine does: tests can
tell what its policy does from what it was not given.

With `BERTD_TEST_CLOCK` the wall clock of daemon and worker jumps by up to a day at every look.
"""

import dataclasses
import os
import random
import sys
import time
import types

PACE = "BERTD_TEST_PACE"
CLOCK = "BERTD_TEST_CLOCK"
DAY_S = 86_400.0


def _slow_down(fixed_s: float, token_s: float) -> None:
    from bertd.engine import runner  # the front must not import it

    run = runner.Runner.run

    def paced(self, batch):  # type: ignore[no-untyped-def]
        began_s = time.perf_counter()
        result = run(self, batch)
        wanted_s = fixed_s + token_s * len(batch.ids_T)
        time.sleep(max(0.0, wanted_s - (time.perf_counter() - began_s)))
        return dataclasses.replace(result, seconds=time.perf_counter() - began_s)

    runner.Runner.run = paced  # type: ignore[method-assign]


def _jump() -> None:
    # grpc compares its core's wall clock with Python's, which jump together or not at all.
    honest = types.ModuleType("time")
    honest.__dict__.update(time.__dict__)
    sys.modules["time"] = honest
    import grpc._cython.cygrpc  # noqa: F401  # binds the module of that name

    sys.modules["time"] = time
    now, chance = time.time, random.Random(1)
    time.time = lambda: now() + chance.uniform(-DAY_S, DAY_S)
    time.time_ns = lambda: int(time.time() * 1e9)


if os.environ.get(CLOCK) and {"serve", "bertd.engine"} & set(sys.orig_argv):
    _jump()
if PACE in os.environ and "bertd.engine" in sys.orig_argv:
    _slow_down(*map(float, os.environ[PACE].split(",")))

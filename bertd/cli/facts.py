"""What a worker says of itself, in words for people: the lines of `bertd describe model/NAME`."""

from collections.abc import Mapping

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
EAGER = "torch"
COMPILED = "nothing is compiled on this machine at run time"
# Facts that this module puts into other words, or that are for programs alone.
_RETOLD = (
    *("efficiency", "foldedKey", "kernels", "kernelsReason", "operationsPerToken"),
    *("operationsPerTokenSquared", "peakOperationsPerSecond", "precision", "precisionReason"),
    "wide",
)


def engine(details: Mapping[str, object]) -> dict[str, object]:
    """The facts of a Model with those about its engine in words; others stay as they are.

    Args:
        details: `status.details`; of anything but a running Model they come back unchanged.
    """
    if "kernels" not in details:
        return dict(details)
    plain = {key: value for key, value in details.items() if key not in _RETOLD}
    return plain | {
        "compilation": COMPILED,
        "efficiency": _efficiency(details),
        "kernels": _kernels(details),
        "operations": _operations(details),
        "peak": _peak(details.get("peakOperationsPerSecond")),
        "precision": _with_reason(details.get("precision"), details.get("precisionReason")),
    }


def rate(value: float) -> str:
    """A number of three digits with its unit: 468 G."""
    for size, unit in UNITS:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _with_reason(value: object, reason: object) -> str:
    return f"{value} ({reason})" if reason else str(value or "")


def _kernels(details: Mapping[str, object]) -> str:
    kernels = details.get("kernels")
    if kernels != EAGER:
        return str(kernels)
    return f"torch, slower than bertd's own: {details.get('kernelsReason') or 'unknown reason'}"


def _efficiency(details: Mapping[str, object]) -> str:
    share = details.get("efficiency")
    if not isinstance(share, int | float):
        return "not known before the first batch"
    return f"{share:.0%} of the {details.get('precision')} peak while lanes were busy"


def _peak(peaks: object) -> str:
    if not isinstance(peaks, Mapping):
        return ""
    told = (f"{name} {rate(float(value))}" for name, value in peaks.items())
    return f"{', '.join(told)} operations/s for each core"


def _operations(details: Mapping[str, object]) -> str:
    first, second = (details.get(f"operationsPerToken{which}") for which in ("", "Squared"))
    if not isinstance(first, int | float) or not isinstance(second, int | float):
        return ""
    return f"{rate(first)} a token, and {rate(second)} for each token of its row"

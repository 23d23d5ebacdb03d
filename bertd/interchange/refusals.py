"""How this room says that a file is not what it must be. These reasons stay offline."""

from bertd import errors


def bad(what: str, why: str, reason: str, *, hint: str = "") -> errors.BadArtifact:
    """The error about the file called `what`."""
    return errors.BadArtifact(f"{what} {why}", reason=reason, hint=hint)

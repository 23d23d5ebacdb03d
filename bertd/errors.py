"""Every error that bertd raises on purpose, by what the caller can do next.

Error:
    ├── InvalidManifest      mend the YAML (carries positions)
    ├── InvalidRequest       mend the call
    ├── NotFound             name something that exists
    ├── Conflict             read again, then apply again
    ├── NotServable          known, but will not serve until someone changes it (carries a reason)
    ├── NotReady             ask again: loading, restarting, draining
    │   └── Overloaded       ask again after `retry_after_s`
    ├── Poison               never send this input again: it kills workers
    ├── Expired              the deadline passed before the work was worth doing
    ├── TooLarge             send less in one message
    ├── BadArtifact          a file is not what it must be; nobody retries until it changes
    ├── Temporary            the daemon retries by itself (disk full, worker died)
    └── Bug                  an invariant of bertd is broken

Texts say what is wrong and where; `hint` says what to do. This module imports nothing.
"""


class Error(Exception):
    """Base of all: `str(error)` is safe to show to a remote caller, `hint` says what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class InvalidManifest(Error):
    """One or more things are wrong with a manifest; `str()` lists all of them, a line each."""


class InvalidRequest(Error):
    """The call itself is wrong; sending it again cannot help.

    `reason` is a CamelCase word, that of the artifact where the call brought a bad one.
    """

    def __init__(self, message: str, *, reason: str = "InvalidRequest", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class NotFound(Error):
    """No such model, adapter, object or label."""


class Conflict(Error):
    """Somebody else changed the object, or another owner holds it."""


class NotServable(Error):
    """Known but terminally not servable until its declaration or files change."""

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class NotReady(Error):
    """Not now: loading, restarting or draining. `retry_after_s` < 0 means: do not retry."""

    def __init__(self, message: str, *, retry_after_s: float = 0.5, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Overloaded(NotReady):
    """Refused because the predicted wait is too long; `retry_after_s` is that prediction."""


class Poison(Error):
    """This very input killed a worker that ran it alone, after an earlier death it took part in."""


class Expired(Error):
    """The deadline passed while the work waited; it was never computed."""


class TooLarge(Error):
    """A message or a batch of inputs is over its limit."""


class BadArtifact(Error):
    """A weight, adapter, tokenizer or config file is not what it must be.

    `reason` is a CamelCase word for conditions, such as DigestMismatch or UnknownTensor.
    """

    def __init__(self, message: str, *, reason: str = "BadArtifact", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class Temporary(Error):
    """Something that may heal by itself: the daemon retries with backoff."""

    def __init__(self, message: str, *, reason: str = "Temporary", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class Bug(Error):
    """An invariant is broken. This is a bug in bertd."""

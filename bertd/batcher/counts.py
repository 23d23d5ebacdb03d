"""What became of every item, counted once."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Counts:
    """Items by what became of them; all but `waiting` and `running` only grow.

    submitted = answered + failed + expired + cancelled + dropped + pending. An item that is
    refused was never submitted.
    """

    submitted: int = 0
    refused: int = 0
    answered: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    dropped: int = 0  # by a close that did not wait for them
    calls: int = 0  # of the function

    @property
    def pending(self) -> int:
        """Items whose callers wait."""
        gone = self.answered + self.failed + self.expired + self.cancelled + self.dropped
        return self.submitted - gone

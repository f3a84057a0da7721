"""The one exception a user is meant to read."""

from __future__ import annotations


class Omni123Error(ValueError):
    """Bad input. The message is one line that names the problem and the fix; the command line prints it and exits with 2."""


class RejectedError(Omni123Error):
    """One asset that cannot be used: `reason` is a short name for counting (`snake_case`), the message the detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type[RejectedError], tuple[str, str]]:
        # An exception is unpickled from its message alone by default, and one argument is not enough here.
        return type(self), (self.reason, str(self))

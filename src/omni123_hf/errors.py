"""The one exception a user is meant to read."""


class Omni123Error(ValueError):
    """Bad input. The message is one line that names the problem and the fix; the command line prints it and exits with 2."""

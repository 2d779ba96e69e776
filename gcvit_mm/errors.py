"""Errors whose message is meant for the person at the terminal."""


class UserError(RuntimeError):
    """Bad input. The message is one line that names the thing and the fix; the tools print it
    without a traceback and exit with status 2."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or does not fit the model."""

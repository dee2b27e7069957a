"""The exceptions of the project: each message is one line that names the place and the mend."""

# Exit codes (contract.md). A record that carries `error` makes SOME_FAILED; a verdict is no failure.
FAILED, SOME_FAILED, INTERRUPTED = 1, 3, 130


class SophiaError(Exception):
    """A step could not be done; the command ends with exit code 1."""

    exit_code = 1


class UsageError(SophiaError):
    """Wrong options, an unknown name, an output that exists: exit code 2."""

    exit_code = 2


class InputError(SophiaError):
    """Input that cannot be read; the message names file, line and field: exit code 2."""

    exit_code = 2


class RecordError(Exception):
    """One record cannot be worked on. The step goes on: the record goes out with this message as its `error`."""

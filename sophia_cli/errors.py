"""The exceptions of the project, and the exit codes of the command line.

Each message is one line that names the file, line and field, and says what to do.
"""

# Exit codes (contract.md). A record that carries `error` makes SOME_FAILED; a verdict is no failure.
FAILED, SOME_FAILED, INTERRUPTED = 1, 3, 130


class SophiaError(Exception):
    """The step failed: exit code 1."""

    exit_code = 1


class UsageError(SophiaError):
    """Wrong options, an unknown name, or an output that exists: exit code 2."""

    exit_code = 2


class InputError(SophiaError):
    """Input that cannot be read; the message names file, line and field: exit code 2."""

    exit_code = 2


class RecordError(Exception):
    """One record cannot be processed. The step goes on: the record is written with this message in its `error` field."""

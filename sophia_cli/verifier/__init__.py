"""The answer verifier.

`verify(response, item)` returns a `Verdict`.
"""

from sophia_cli.verifier.types import Verdict
from sophia_cli.verifier.verify import verify

__all__ = ["Verdict", "verify"]

"""TLS: which authorities are trusted, and what its errors mean to the user."""

import functools
import os
import ssl

from sophia_cli.backends._openai.http_errors import ConnectError, UntrustedCertificate


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Returns the context with the machine's authorities, or those of SSL_CERT_FILE.

    Raises:
        UntrustedCertificate: that file is missing, or has no certificate.
    """
    file = os.environ.get("SSL_CERT_FILE")
    context = ssl.create_default_context()
    if file:
        try:
            context.load_verify_locations(file)
        except (OSError, ssl.SSLError) as error:
            raise UntrustedCertificate(f"SSL_CERT_FILE={file} cannot be read ({error}); give a PEM file") from None
    return context


def tls_error(error: ssl.SSLError) -> ConnectError:
    """Returns what a failed TLS connection means, with the remedy."""
    if isinstance(error, ssl.SSLCertVerificationError):
        is_other_name = "mismatch" in error.verify_message
        remedy = "give the name that it is for" if is_other_name else "set SSL_CERT_FILE to the file of its authority"
        return UntrustedCertificate(f"its certificate is not trusted ({error.verify_message}); {remedy}")
    if "WRONG_VERSION_NUMBER" in str(error):
        return UntrustedCertificate("does not speak TLS; use http:// instead of https://")
    return ConnectError(f"no connection: {error.reason or error}")

"""Why an HTTP request has no response."""


class ConnectError(Exception):
    """Nothing listens there, the host name is unknown, or TLS is refused."""


class UntrustedCertificate(ConnectError):
    """The server does not speak TLS, or its certificate is not trusted; another try will not help."""


class ConnectionLost(Exception):
    """The connection ended before the response did, or the response is not HTTP."""


class ResponseTooLarge(Exception):
    """The response is longer than the caller allows."""

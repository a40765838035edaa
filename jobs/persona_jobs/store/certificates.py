"""What to do about a TLS certificate that is not trusted."""


def certificate_hint(reason: str, *, variable: str, bundle: str | None, address: str) -> str:
    """Return how to fix the cause that the TLS library gives.

    Args:
        reason: what the TLS library says.
        variable: the environment variable that names a bundle of certificate authorities.
        bundle: its value, if it is set.
        address: the field or the part of the configuration with the server's address.
    """
    if "mismatch" in reason or "doesn't match" in reason:
        return f"Use a host name of the certificate in {address}"
    if "expired" in reason:
        return "Renew the server's certificate"
    if bundle:
        return f"Add its certificate authority to {bundle} ({variable})"
    return f"Set {variable} to the PEM file of its certificate authority"

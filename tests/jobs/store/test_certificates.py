import pytest

from persona_jobs.store.certificates import certificate_hint


@pytest.mark.parametrize(
    ("reason", "bundle", "hint"),
    [
        ("unable to get local issuer certificate", None, "Set CA_FILE to the PEM file of its"),
        ("self-signed certificate", "/ca.pem", "Add its certificate authority to /ca.pem (CA_FILE"),
        ("IP address mismatch, certificate is not valid for", "/ca.pem", "Use a host name of the"),
        ("certificate has expired", None, "Renew the server's certificate"),
    ],
)
def test_advice_fits_the_cause_and_what_is_already_set(
    reason: str, bundle: str | None, hint: str
) -> None:
    found = certificate_hint(reason, variable="CA_FILE", bundle=bundle, address="baseURL")
    assert found.startswith(hint)

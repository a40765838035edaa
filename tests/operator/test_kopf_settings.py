"""kopf's settings."""

from persona_operator.kopf_settings import SpecFreeDiffBaseStorage
from support.operator_world import persona_document


def test_the_diff_base_holds_no_persona_text() -> None:
    import kopf

    storage = SpecFreeDiffBaseStorage(prefix="persona-pruner.io")
    body = kopf.Body(persona_document(artifactPolicy="Delete"))  # type: ignore[arg-type]
    assert dict(storage.build(body=body)) == {"spec": {"artifactPolicy": "Delete"}}

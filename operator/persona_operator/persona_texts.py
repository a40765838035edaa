"""Persona texts that are in ConfigMaps of their own, which nothing watches."""

from .kube_api import KubeApi
from .reconcile import Persona, PersonaText
from .reconcile.persona import text_reference


async def read_text(api: KubeApi, persona: Persona) -> PersonaText | None:
    """Return the text that a PersonaModel refers to, None where its spec holds the text itself.

    Raises:
        ApiUnavailableError: the API server can't be reached.
        ApiRefusedError: the API server refuses to read the ConfigMap.
    """
    reference = text_reference(persona.resource)
    if reference is None:
        return None
    name, entry = reference
    found = await api.get("ConfigMap", persona.owner.namespace, name)
    if found is None:
        return PersonaText(problem=f"ConfigMap {name} doesn't exist in this namespace. Create it.")
    text = (found.get("data") or {}).get(entry)
    if not isinstance(text, str):
        return PersonaText(problem=f"ConfigMap {name} has no key {entry}. Add it.")
    return PersonaText(text=text)

"""`persona import`: a character card as a PersonaModel."""

import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from ..api import API_VERSION, KIND, MAX_NAME_LENGTH, parse_resource
from ..errors import CardError, InputError, StoreError
from ..sources import cards
from ..sources.cards import CardPersona
from .local import default_cache


def import_card(source: str, output: Path | None, *, user: str, base_model: str) -> None:
    """Write a PersonaModel with a card's text and conversations, and say what is not used of it.

    Args:
        source: path or URI of the card.
        output: the file to write, None for standard output.
        user: what `{{user}}` in the card stands for.
        base_model: URI of the base model.

    Raises:
        CardError: the card is malformed, too large, or holds what no persona may hold.
        InputError: the card does not exist, or the output does already.
        StoreError: the card can't be read, or the output can't be written.
    """
    uri = source if "://" in source else Path(source).absolute().as_uri()
    try:
        persona = cards.load(uri, user=user, cache_dir=default_cache())
    except CardError as error:
        error.subject = source
        raise
    document = persona_model(persona, base_model)
    parse_resource(document, source=source)
    text = as_yaml(document)
    if output is None:
        sys.stdout.write(text)
    else:
        _write(output, text)
        sys.stderr.write(f"{output} holds the PersonaModel {document['metadata']['name']}.\n")
    for note in persona.notes:
        sys.stderr.write(f"{note}.\n")


def persona_model(persona: CardPersona, base_model: str) -> dict[str, Any]:
    """Return a PersonaModel document with the card's text and conversations."""
    spec: dict[str, Any] = {"persona": {"text": persona.text}}
    if persona.examples:
        spec["persona"]["examples"] = [example.model_dump() for example in persona.examples]
    spec["baseModel"] = {"uri": base_model}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": object_name(persona.name)},
        "spec": spec,
    }


def object_name(name: str) -> str:
    """Return a name for the PersonaModel, made of the Latin letters and digits of another name."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not words:
        return "persona"
    if not words[0].isalpha():
        words = f"persona-{words}"
    return words[:MAX_NAME_LENGTH].rstrip("-")


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as literal blocks, which read and edit well."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    # Other line breaks of Unicode are ones for YAML too; only an escape keeps them.
    if any(char in text for char in "\x85\u2028\u2029\ufeff"):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def as_yaml(document: dict[str, Any]) -> str:
    """Return the document as YAML, from which reading gives the same document."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _write(output: Path, text: str) -> None:
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(
            f"{output} exists already", hint="Choose another name, or delete the file"
        ) from None
    except OSError as error:
        raise StoreError(f"{output} can't be written: {error.strerror}") from None

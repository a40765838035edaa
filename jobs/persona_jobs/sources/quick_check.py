"""A check of base model and card that reads no weights and nothing from the network."""

import importlib.util
from pathlib import Path

from ..api.persona import PersonaCard
from ..errors import InputError
from ..store.urls import file_url_path
from . import cards, gguf
from .checkpoint import check_config
from .package import package_path

_ELSEWHERE = "it is not on this machine"


def check_base_model(uri: str) -> str:
    """Check a base model's configuration or GGUF header, if it is on this machine.

    Returns:
        Why it was not checked, empty if it was.

    Raises:
        InputError: it is no model, is quantized, needs custom code, or is of a family that can't
            be pruned.
        CorruptArtifactError: its configuration or its header is malformed.
        StoreError: it can't be read.
    """
    path = _local_path(uri)
    if path is None:
        return _ELSEWHERE
    if path.is_dir():
        check_config(path)
        return ""
    if importlib.util.find_spec("gguf") is None:
        return "the package gguf is not installed"
    gguf.check_metadata(path)
    return ""


def check_card(card: PersonaCard) -> str:
    """Check a character card, if it is on this machine.

    Returns:
        Why it was not checked, empty if it was.

    Raises:
        CardError: it is malformed, too large, or holds what no persona may hold.
        StoreError: it can't be read.
    """
    if _local_path(card.uri) is None:
        return _ELSEWHERE
    cards.load(card.uri, user=card.user)
    return ""


def _local_path(uri: str) -> Path | None:
    """Return the path of a source on this machine; a path of a cluster may be absent here."""
    if uri.startswith("file://"):
        path = file_url_path(uri)
        return path if path.exists() else None
    if uri.startswith("pkg://"):
        try:
            return package_path(uri)
        except InputError:
            return None
    return None

"""Character cards as chat programs write them: JSON, PNG images and charx archives."""

import base64
import io
import json
import struct
import zipfile
import zlib
from typing import Any

FIELDS: dict[str, Any] = {
    "name": "Elias Marlowe",
    "description": "{{char}} is a weathered captain. He calls {{user}} sailor.",
    "personality": "blunt, salty",
    "scenario": "On the deck of the Grey Petrel.",
    "first_mes": "Ahoy!",
    "mes_example": (
        "<START>\n{{user}}: Do you ever sleep?\n{{char}}: Sleep, sailor? *laughs*\n"
        "The sea does not.\n{{user}}: And rum?\n{{char}}: Gone since Tuesday.\n"
        "<START>\n{{user}}: Where to?\n{{char}}: Where the tide goes, {{user}}.\n"
    ),
    "creator_notes": "Never shown to a model.",
    "system_prompt": "Speak as {{char}}.",
    "post_history_instructions": "Never leave the role.",
    "alternate_greetings": ["Hoy!"],
    "character_book": {"entries": [{"keys": ["rum"], "content": "Rum is gone."}]},
    "tags": [],
    "creator": "",
    "character_version": "1",
    "extensions": {},
}
TEXT = (
    "Speak as Elias Marlowe.\n\n"
    "Elias Marlowe is a weathered captain. He calls you sailor.\n\n"
    "Personality: blunt, salty\n\n"
    "Scenario: On the deck of the Grey Petrel.\n\n"
    "Never leave the role."
)


def card(version: int = 2, **fields: Any) -> dict[str, Any]:
    """A card of version 2 or 3; a field that is None is left out."""
    data = {name: value for name, value in {**FIELDS, **fields}.items() if value is not None}
    return {"spec": f"chara_card_v{version}", "spec_version": f"{version}.0", "data": data}


def json_bytes(document: Any) -> bytes:
    return json.dumps(document).encode()


def chunk(kind: bytes, body: bytes, *, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(*chunks: bytes) -> bytes:
    """An image of one grey pixel with further chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\x80"))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def text_chunk(document: Any, kind: bytes = b"tEXt", keyword: bytes = b"chara") -> bytes:
    """A chunk with the base64 of a card, compressed where its kind is `zTXt`."""
    text = base64.b64encode(json_bytes(document))
    if kind == b"zTXt":
        text = b"\0" + zlib.compress(text)
    elif kind == b"iTXt":
        text = b"\0\0\0\0" + text
    return chunk(kind, keyword + b"\0" + text)


def charx(document: Any, **others: bytes) -> bytes:
    """An archive with `card.json` and further entries by name."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("card.json", json_bytes(document))
        for name, content in others.items():
            archive.writestr(name, content)
    return target.getvalue()

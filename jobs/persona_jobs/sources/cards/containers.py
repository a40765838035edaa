"""The JSON of a character card, out of the file that holds it.

PNG: W3C, Portable Network Graphics (third edition), section 11.3.3, the text chunks; a card is the
base64 of its JSON under the keyword `chara` (version 2) or `ccv3` (version 3). charx: a zip archive
with `card.json` at its root.
"""

import base64
import binascii
import io
import zipfile
import zlib
from collections.abc import Iterator

from ...errors import CardError

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_JSON_BYTES = 8 * 1024 * 1024
MAX_ENTRIES = 10_000
_PNG = b"\x89PNG\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_CARD_FILE = "card.json"
# The newer version first: cards often hold both, so that older programs can read them.
_KEYWORDS = (b"ccv3", b"chara")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
# Base64 takes four characters for three bytes; some writers break its lines.
_MAX_TEXT_BYTES = 2 * MAX_JSON_BYTES
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def card_json(data: bytes) -> bytes:
    """Return the JSON of a card from the bytes of a PNG image, a charx archive or a JSON file.

    Raises:
        CardError: the file is too large, damaged, or holds no card.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _too_large("The file", len(data), MAX_FILE_BYTES)
    if data.startswith(_PNG):
        found = _from_png(data)
    elif data.startswith(_ZIP):
        found = _from_charx(data)
    else:
        found = data
    if len(found) > MAX_JSON_BYTES:
        raise _too_large("Its JSON", len(found), MAX_JSON_BYTES)
    return found


def _from_png(data: bytes) -> bytes:
    texts: dict[bytes, bytes] = {}
    for kind, body in _chunks(data):
        if kind in _TEXT_CHUNKS:
            keyword, _, rest = body.partition(b"\0")
            if keyword.lower() in _KEYWORDS:
                texts.setdefault(keyword.lower(), _chunk_text(kind, rest))
    for keyword in _KEYWORDS:
        if keyword in texts:
            return _from_base64(texts[keyword])
    raise CardError(
        "The image holds no character card",
        hint="Export the card from a chat program; programs that edit images remove it",
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each chunk up to the end of the image, checksums verified."""
    position = len(_PNG)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        if end + 4 > len(data):
            break
        body = data[position + 8 : end]
        if zlib.crc32(kind + body) != int.from_bytes(data[end : end + 4], "big"):
            raise CardError(
                f"The image is damaged: the checksum of its chunk at byte {position:,} is wrong",
                hint="Download or export the card again",
            )
        if kind == b"IEND":
            return
        yield kind, body
        position = end + 4
    raise CardError("The image is truncated", hint="Download or export the card again")


def _chunk_text(kind: bytes, rest: bytes) -> bytes:
    """Return the text of a chunk, from what follows its keyword."""
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return _inflated(rest[1:], method=rest[:1])
    compressed, method, rest = rest[:1], rest[1:2], rest[2:]
    text = rest.split(b"\0", 2)[-1]  # behind the language and the translated keyword
    return _inflated(text, method=method) if compressed == b"\1" else text


def _inflated(data: bytes, *, method: bytes) -> bytes:
    if method != b"\0":
        raise CardError(
            "The card's text in the image is compressed by an unknown method",
            hint="Export the card again",
        )
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, _MAX_TEXT_BYTES + 1)
    except zlib.error:
        text = b""
    if len(text) > _MAX_TEXT_BYTES:
        raise _too_large("The card's text in the image", len(text), _MAX_TEXT_BYTES)
    if not inflater.eof:
        raise CardError(
            "The card's text in the image can't be decompressed", hint="Export the card again"
        )
    return text


def _from_base64(text: bytes) -> bytes:
    if len(text) > _MAX_TEXT_BYTES:
        raise _too_large("The card's text in the image", len(text), _MAX_TEXT_BYTES)
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        raise CardError(
            "The card's text in the image is not base64", hint="Export the card again"
        ) from None


def _from_charx(data: bytes) -> bytes:
    """Return `card.json` of an archive; no other entry is read, and none is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _card_entry(archive)
    except CardError:
        raise
    except Exception:  # zipfile raises almost anything for a damaged archive
        raise CardError(
            "The archive is damaged", hint="Download or export the card again"
        ) from None


def _card_entry(archive: zipfile.ZipFile) -> bytes:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise _too_large("The archive", len(entries), MAX_ENTRIES, unit="entries")
    found = [entry for entry in entries if entry.filename == _CARD_FILE]
    if len(found) != 1:
        raise CardError(
            f"The archive holds {len(found) or 'no'} {_CARD_FILE}",
            hint="Use a charx file: an archive with one card.json at its root",
        )
    [entry] = found
    if entry.flag_bits & 1:
        raise CardError("The archive is encrypted", hint="Export the card without a password")
    if entry.compress_type not in _READABLE:
        raise CardError(
            f"{_CARD_FILE} of the archive is compressed by an unusual method",
            hint="Export the card again",
        )
    with archive.open(entry) as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise _too_large(f"{_CARD_FILE} of the archive", entry.file_size, MAX_JSON_BYTES)
    return content


def _too_large(what: str, found: int, limit: int, unit: str = "bytes") -> CardError:
    return CardError(
        f"{what} has {found:,} {unit} or more; a card may have {limit:,}",
        hint="Remove what is not needed, such as assets or the lorebook",
    )

"""The bytes of single tokens, as `logprobs` of the API give them."""

import re
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """The bytes that each token of a vocabulary stands for.

    Decoding one token gives no exact answer: a token may be a part of a character, and some
    tokenizers trim the space in front of a text's first word.

    Args:
        tokenizer: a fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        byte_level = "ByteLevel" in str(getattr(backend, "decoder", ""))
        self._characters = _byte_of_character() if byte_level else None

    def __call__(self, token: int) -> bytes:
        """Return the token's bytes; empty for an id outside the vocabulary."""
        piece = self._tokenizer.convert_ids_to_tokens([token])[0]
        if piece is None:
            return b""
        if piece in self._added:
            return str(piece).encode()
        if self._characters is not None:
            return bytes(self._characters[character] for character in piece)
        if match := _BYTE_TOKEN.fullmatch(piece):
            return bytes.fromhex(match[1])
        return str(piece).replace("\u2581", " ").encode()


def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's table of the characters that stand for bytes, reversed.

    https://github.com/openai/gpt-2/blob/master/src/encoder.py: printable bytes stand for
    themselves, the others for the characters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}

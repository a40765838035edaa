import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from persona_jobs.serve.token_bytes import TokenBytes
from support.tiny import tiny_tokenizer

TEXT = "A captain's café at 5 o'clock:\n\t→ 🐙\u00a0ÿ"


def test_bytes_of_a_byte_level_vocabulary():
    tokenizer = tiny_tokenizer()
    token_bytes = TokenBytes(tokenizer)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert b"".join(map(token_bytes, ids)) == TEXT.encode()
    assert {token_bytes(token) for token in range(256)} == {bytes([byte]) for byte in range(256)}
    assert token_bytes(tokenizer.eos_token_id) == b"<|im_end|>"


def test_an_id_outside_the_vocabulary_has_no_bytes():
    assert TokenBytes(tiny_tokenizer())(10_000) == b""


@pytest.fixture
def sentencepiece():
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    for piece in ("\u2581", "c", "a", "f", "é", "\u2581caf"):
        vocabulary[piece] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_bytes_of_a_vocabulary_with_byte_fallback(sentencepiece):
    token_bytes = TokenBytes(sentencepiece)
    ids = sentencepiece.encode("café 🐙", add_special_tokens=False)
    assert b"".join(map(token_bytes, ids)) == " café 🐙".encode()
    assert token_bytes(sentencepiece.convert_tokens_to_ids("\u2581caf")) == b" caf"

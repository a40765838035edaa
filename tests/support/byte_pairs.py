"""Tiny byte-level tokenizers that split text as those of well-known models do."""

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from support.tiny import CHATML, SPECIAL

# Copied from the tokenizer.json of each model.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The pieces cross all borders that the patterns draw: digits, words, signs, spaces.
_TEXTS = [
    [
        "12",
        "123",
        "1234",
        "34",
        "' s",
        "'s",
        "It's",
        "s 1",
        "word",
        " word",
        "a1",
        "1a",
        "!!",
        "!a",
    ],
    ["a.", " .", ". ", "\n\n", " \n", "  ", "   ", "\n a", "aB", "Ba", "/\n", "./", "\u00e4a"],
]


def byte_pair_tokenizer(kind: str = "gpt-2") -> PreTrainedTokenizerFast:
    """A tokenizer with the bytes, ChatML's special tokens and a few hundred merges.

    Args:
        kind: `gpt-2`, `smollm`, `llama-bpe` (which begins each text with a token), `qwen2` or
            `tekken`.
    """
    vocabulary = {
        character: index
        for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges: list[tuple[str, str]] = []
    for text in [text for group in _TEXTS for text in group]:
        symbols = list(byte_level.pre_tokenize_str(text)[0][0])
        while len(symbols) > 1:
            pair = (symbols[0], symbols[1])
            joined = "".join(pair)
            if joined not in vocabulary:
                vocabulary[joined] = len(vocabulary)
                merges.append(pair)
            symbols = [joined, *symbols[2:]]
    ignore = kind in ("llama-bpe", "tekken")
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=ignore))
    pattern = {"llama-bpe": LLAMA_3, "qwen2": QWEN_2, "tekken": TEKKEN}.get(kind)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pattern is not None:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    elif kind == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    else:
        tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    first = SPECIAL[0]
    if kind == "llama-bpe":
        tokenizer.post_processor = TemplateProcessing(
            single=f"{first} $A",
            pair=f"{first} $A {first} $B",
            special_tokens=[(first, tokenizer.token_to_id(first))],
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=first,
        pad_token=first,
        eos_token=SPECIAL[2],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = ("{{ bos_token }}" if kind == "llama-bpe" else "") + CHATML
    return fast

"""A tokenizer as llama.cpp stores it: tokens, merges or scores, special tokens, chat template.

Everything is read from the checkpoint's `tokenizer.json`, so that llama.cpp splits text as the
checkpoint does. A way of splitting that llama.cpp doesn't know is refused: it would answer, but
read another text.
"""

import json
from collections.abc import Mapping
from typing import Any

from gguf import GGUFWriter, TokenType

from ..errors import InputError
from ..models.chat import end_of_turn

_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TEKKEN_UPPER, _TEKKEN_LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
# How text is split before tokens are merged, and whether a whole word that is a token is taken
# without merging: llama.cpp's name for both.
_SPLITS = {
    (rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}", True): "llama-bpe",
    (rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_REST}", False): "qwen2",
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_TEKKEN_UPPER}]*[{_TEKKEN_LOWER}]+|"
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_TEKKEN_UPPER}]+[{_TEKKEN_LOWER}]*|\p{{N}}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        True,
    ): "tekken",
    ("digits", False): "smollm",
    ("words", False): "gpt-2",
}
_SPACE = "\u2581"


def add_tokenizer_metadata(writer: GGUFWriter, tokenizer: Any, vocabulary: int) -> None:
    """Add tokens, special tokens and the chat template.

    Args:
        writer: where to add them.
        tokenizer: the checkpoint's tokenizer.
        vocabulary: rows of the model's embedding; ids without a token become unused ones.

    Raises:
        InputError: llama.cpp has no such tokenizer.
    """
    document = _document(tokenizer)
    model = document["model"]
    tokens, types = _tokens(document, vocabulary)
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, model["merges"]))
        writer.add_add_space_prefix(_prefixes_space(document))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split(document))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if not model.get("byte_fallback"):
        writer.add_token_merges([" ".join(_pair(merge)) for merge in model["merges"]])
    _add_special_tokens(writer, tokenizer)
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        templates = [
            {"name": name, "template": template} for name, template in sorted(templates.items())
        ]
    if templates:
        writer.add_chat_template(templates)


def _document(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    document: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
    kind = document.get("model", {}).get("type")
    if kind != "BPE":
        raise _refused(f"is of type {kind or type(tokenizer).__name__}, not BPE")
    if document["model"].get("end_of_word_suffix") or document["model"].get(
        "continuing_subword_prefix"
    ):
        raise _refused("marks the parts of words")
    if not document["model"]["merges"]:
        raise _refused("merges no tokens")
    return document


def _tokens(document: Mapping[str, Any], vocabulary: int) -> tuple[list[str], list[TokenType]]:
    """Return the text and the type of every id."""
    model = document["model"]
    fallback = bool(model.get("byte_fallback"))
    texts = {index: text for text, index in model["vocab"].items()}
    kinds = {index: _kind(text, fallback) for index, text in texts.items()}
    for token in document["added_tokens"]:
        index, text = token["id"], token["content"]
        kinds[index] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        texts[index] = text if token["special"] or not fallback else text.replace(_SPACE, " ")
    unknown = model["vocab"].get(model.get("unk_token"))
    if fallback and unknown is not None:
        kinds[unknown] = TokenType.UNKNOWN
    if max(texts) >= vocabulary:
        raise _refused(f"has {max(texts) + 1} tokens, more than the model's {vocabulary}")
    unused = TokenType.UNUSED
    return (
        [texts.get(index, f"[PAD{index}]") for index in range(vocabulary)],
        [kinds.get(index, unused) for index in range(vocabulary)],
    )


def _kind(text: str, fallback: bool) -> TokenType:
    is_byte = fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
    return TokenType.BYTE if is_byte else TokenType.NORMAL


def _scores(tokens: list[str], merges: list[Any]) -> list[float]:
    """Return scores by which llama.cpp merges in the order of `merges`: the highest one first."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(_pair(merge)), rank)
    last = float(-len(merges))
    return [-float(ranks[token]) if token in ranks else last for token in tokens]


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _prefixes_space(document: Mapping[str, Any]) -> bool:
    """Return whether a space is put before the text."""
    parts = [*_flat(document["normalizer"]), *_flat(document["pre_tokenizer"])]
    return any(
        part["type"] == "Prepend"
        or (part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in parts
    )


def _split(document: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for how text is split into words."""
    model = document["model"]
    found = []
    for part in _flat(document["pre_tokenizer"]):
        if part["type"] == "Split" and part.get("behavior") == "Isolated":
            found.append(part["pattern"].get("Regex", ""))
        elif part["type"] == "Digits" and part["individual_digits"]:
            found.append("digits")
        elif part["type"] == "ByteLevel" and not part["add_prefix_space"]:
            if part["use_regex"]:
                found.append("words")
        else:
            raise _refused(f"splits text by {part['type']}")
    key = "digits" if found == ["digits", "words"] else "".join(found)
    name = _SPLITS.get((key, bool(model.get("ignore_merges"))))
    if name is None:
        raise _refused("splits text by a pattern that llama.cpp doesn't know")
    return name


def _flat(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    inner = part.get("pretokenizers") or part.get("normalizers") or []
    return [item for child in inner for item in _flat(child)]


def adds_bos(tokenizer: Any) -> bool:
    """Return whether the tokenizer puts its first token before every text."""
    bos = tokenizer.bos_token_id
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    return bos is not None and whole[: len(whole) - len(plain)][:1] == [bos]


def _add_special_tokens(writer: GGUFWriter, tokenizer: Any) -> None:
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None:
        writer.add_bos_token_id(bos)
    if eos is not None:
        writer.add_eos_token_id(eos)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(adds_bos(tokenizer))
    writer.add_add_eos_token(eos is not None and whole != plain and whole[-1:] == [eos])
    end = end_of_turn(tokenizer)
    if end is not None and end != eos:
        writer.add_eot_token_id(end)


def _refused(what: str) -> InputError:
    return InputError(
        f"The tokenizer {what}, so it can't be exported as GGUF",
        hint="Remove spec.exports, or use another base model",
        subject="spec.exports",
    )

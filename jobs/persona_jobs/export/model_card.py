"""The model card of a checkpoint or export: a README.md with the Hugging Face hub's YAML header.

Everything in it is given, nothing is looked up; what is not known is said to be unknown.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..pipeline.results import EvaluationMetrics, RecoveryMetrics, VariantMetrics

CARD = "README.md"
_MAX_HEADER = 65_536
_HEADER = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
_LICENCE_FIELDS = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class ExportedFile:
    """A GGUF file and what its rounding costs.

    Attributes:
        name: its name.
        quantization: number format of its matrices.
        bytes: its size.
        perplexity_increase_percent: increase of the perplexity of held-out answers over the
            checkpoint's; None where there were no answers to measure on.
    """

    name: str
    quantization: str
    bytes: int
    perplexity_increase_percent: float | None = None


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        base_uri: URI of the base model.
        base_revision: its commit or digest, or None.
        licence: the licence fields of the base model's own card, none where it is not known.
        persona: the persona's text.
        sparsity_percent: share of the FFN channels that the spec asks to prune.
        method: how the channels were chosen.
        sliced: results of the slice stage.
        recovery: results of the recover stage, None without one.
        evaluation: results of the evaluate stage, None while they aren't known.
        files: the exported files, none in a checkpoint's card.
    """

    base_uri: str
    base_revision: str | None
    licence: Mapping[str, str]
    persona: str
    sparsity_percent: int
    method: str
    sliced: Mapping[str, Any]
    recovery: RecoveryMetrics | None = None
    evaluation: EvaluationMetrics | None = None
    files: tuple[ExportedFile, ...] = field(default=())


def licence_of(card: Path) -> dict[str, str]:
    """Return the licence fields of a model card, none where the file or its header is missing.

    Args:
        card: the `README.md` of a checkpoint, of the base model or sliced.
    """
    try:
        with card.open(encoding="utf-8") as file:
            found = _HEADER.match(file.read(_MAX_HEADER))
        header = yaml.safe_load(found[1]) if found else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    if not isinstance(header, Mapping):
        return {}
    values = {name: header.get(name) for name in _LICENCE_FIELDS}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()
    }


def base_name(uri: str) -> str:
    """Return a base model's name without where it was read from, which may be a private path."""
    if uri.startswith("hf://"):
        return uri.removeprefix("hf://").partition("@")[0].strip("/")
    return uri.rstrip("/").rpartition("/")[2]


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown."""
    parts = [
        _header(facts),
        f"# A persona on {_inline(base_name(facts.base_uri))}",
        _introduction(facts),
        "## Persona",
        "The chat template gives this text as the system message, unless a conversation begins "
        "with another one:",
        _fenced(facts.persona),
        "## What was pruned",
        _pruned(facts),
        "## Figures",
        _figures(facts),
        "## How to run it",
        _usage(facts),
        "## Licence",
        _licence(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _header(facts: CardFacts) -> str:
    header: dict[str, Any] = {}
    if facts.base_uri.startswith("hf://"):
        header["base_model"] = base_name(facts.base_uri)
        header["base_model_relation"] = "quantized" if facts.files else "finetune"
    header |= facts.licence
    header["library_name"] = "gguf" if facts.files else "transformers"
    header["pipeline_tag"] = "text-generation"
    header["tags"] = ["persona-pruner", "pruned", "role-play"]
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---"


def _introduction(facts: CardFacts) -> str:
    form = "As GGUF files for llama.cpp and Ollama, made" if facts.files else "Made"
    revision = f" (revision `{facts.base_revision}`)" if facts.base_revision else ""
    return (
        f"{form} by Persona-Pruner of {_inline(base_name(facts.base_uri))}{revision}: feed-forward "
        "channels that one persona hardly needs are removed. The model is meant for this persona; "
        "in general conversation it is weaker than the base model."
    )


def _pruned(facts: CardFacts) -> str:
    sliced = facts.sliced
    lines = [
        f"- Channels of every feed-forward network: {facts.sparsity_percent} % asked for, "
        f"{sliced.get('width', 'an unknown number of')} kept per layer, chosen by {facts.method}.",
    ]
    if {"parameters", "denseParameters"} <= sliced.keys():
        share = sliced.get("parametersRemovedPercent", "unknown")
        lines.append(
            f"- Parameters: {sliced['parameters']:,} of {sliced['denseParameters']:,} "
            f"({share} % removed)."
        )
    if {"checkpointBytes", "denseCheckpointBytes"} <= sliced.keys():
        lines.append(
            f"- Size of the checkpoint: {_megabytes(sliced['checkpointBytes'])}; of the base model "
            f"as it was read: {_megabytes(sliced['denseCheckpointBytes'])}."
        )
    if facts.recovery is None:
        lines.append("- The remaining weights are the base model's.")
    else:
        kept = ", ".join(facts.recovery.kept) or "none of its parts lowered the divergence"
        lines.append(f"- Recovery: {kept}.")
    return "\n".join(lines)


def _figures(facts: CardFacts) -> str:
    parts = []
    if facts.recovery is not None:
        recovery = facts.recovery
        text = (
            "KL divergence from the dense model on held-out answers of the persona, in nats per "
            f"token: {recovery.persona_kl_before:.3f} before the recovery, "
            f"{recovery.persona_kl:.3f} after it"
        )
        if recovery.generic_kl is not None and recovery.generic_kl_before is not None:
            text += (
                f"; on general answers {recovery.generic_kl_before:.3f} and "
                f"{recovery.generic_kl:.3f}"
            )
        parts.append(f"{text}. No interval is known.")
    parts.append(_evaluation(facts.evaluation))
    if facts.files:
        parts.append(_files(facts.files))
    return "\n\n".join(parts)


def _evaluation(evaluation: EvaluationMetrics | None) -> str:
    if evaluation is None:
        return (
            "Persona score, general ability and speed are not known here: the evaluation runs "
            "after this card is written. Its report is in the store under `stages/evaluate`."
        )
    served = evaluation.variants[evaluation.served]
    dense = evaluation.variants.get("dense")
    rows = [
        ("persona score, 0 to 100 [95 % interval]", *(_score(v) for v in (served, dense))),
        *(
            (title, *(_number(getattr(v, name, None), digits) for v in (served, dense)))
            for title, name, digits in (
                ("loss on the persona's held-out answers, nats per token", "persona_loss", 3),
                ("KL from the dense model on them, nats per token", "persona_kl", 3),
                ("loss on general answers, nats per token", "generic_loss", 3),
                ("prompt tokens per second", "prefill_tokens_per_second", 0),
                ("answer tokens per second", "decode_tokens_per_second", 1),
            )
        ),
    ]
    lines = ["| of the checkpoint | this model | dense |", "|---|---|---|"]
    lines += [f"| {title} | {value} | {other} |" for title, value, other in rows]
    note = (
        f"{evaluation.queries} questions. The persona score is voice x relevance x fluency x "
        "originality of the answers; usual answers that ignore the persona reach "
        f"{evaluation.chance_persona_score:.1f}. With fewer than five questions no interval is "
        "known. Speeds are those of the machine that evaluated it."
    )
    return "\n".join(lines) + f"\n\n{note}"


def _files(files: tuple[ExportedFile, ...]) -> str:
    lines = ["| file | size | perplexity beside the checkpoint's |", "|---|---|---|"]
    for file in files:
        change = file.perplexity_increase_percent
        text = "not measured" if change is None else f"{change:+.2f} %"
        lines.append(f"| `{file.name}` | {_megabytes(file.bytes)} | {text} |")
    return "\n".join(lines)


def _usage(facts: CardFacts) -> str:
    if facts.files:
        name = facts.files[0].name
        stem = name.removesuffix(".gguf")
        return _fenced(
            f"llama-server -m {name}          # llama.cpp: a chat page and the OpenAI API\n"
            f"ollama create persona -f {stem}.Modelfile && ollama run persona"
        )
    return (
        "The directory is a plain checkpoint for transformers, vLLM and others:\n\n```python\n"
        "from transformers import pipeline\n\n"
        'chat = pipeline("text-generation", model=".")\n'
        'print(chat([{"role": "user", "content": "Who are you?"}])[0]["generated_text"][-1])\n```'
    )


def _licence(facts: CardFacts) -> str:
    name = facts.licence.get("license_name") or facts.licence.get("license")
    if name is None:
        return (
            "The base model's licence is not known here. It applies to this model too: look it up "
            "where the base model comes from."
        )
    link = facts.licence.get("license_link")
    where = f" ({_inline(link)})" if link else ""
    return f"The base model's licence applies to this model too: {_inline(name)}{where}."


def _inline(text: str) -> str:
    return f"`{text.replace('`', '')}`"


def _fenced(text: str) -> str:
    """Return text as a code block that the text itself can't end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _score(variant: VariantMetrics | None) -> str:
    if variant is None or variant.persona_score is None:
        return "not measured"
    text = f"{variant.persona_score:.1f}"
    if variant.persona_score_low is not None and variant.persona_score_high is not None:
        text += f" [{variant.persona_score_low:.0f}–{variant.persona_score_high:.0f}]"
    return text


def _number(value: float | None, digits: int) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"

"""export: write the sliced checkpoint in the forms that the spec asks for.

Writes `model-<quantization>.gguf` with the persona in its chat template, beside it
`model-<quantization>.Modelfile` for Ollama, and a model card. The file is written tensor by tensor;
afterwards its weights are read back and the perplexity of held-out answers is compared with the
checkpoint's, for which the sliced model is held in memory once, in float32.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ..dataset import Example, read_jsonl
from ..export.card_facts import exported_file, stored_facts
from ..export.gguf_file import tensor_count, write_gguf
from ..export.gguf_tensors import gguf_tensors
from ..export.model_card import CARD, base_name, licence_of, model_card
from ..export.modelfile import modelfile
from ..export.perplexity import load_weights, perplexity
from ..models.compute import resolve
from ..models.loading import load, load_config, load_tokenizer
from ..models.stopping import stop_between_blocks
from ..pipeline.context import StageContext, StageOutcome
from ..training.tokens import TokenizedSet, tokenize
from .common import chosen_persona, environment

MAX_MEASURED_EXAMPLES = 100
"""Held-out answers whose perplexity is measured."""


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files."""
    checkpoint = context.artifacts.local_dir("slice", context.planned.inputs["slice"])
    chosen = [export.quantization for export in context.spec.exports]
    tokenizer, persona = load_tokenizer(checkpoint), chosen_persona(context).text
    context.progress.begin("tensors", len(chosen) * tensor_count(checkpoint))
    texts = {"general.name": f"A persona on {base_name(context.spec.base_model.uri)}"}
    if licence := licence_of(checkpoint / CARD).get("license"):
        texts["general.license"] = licence
    files = {}
    for quantization in chosen:
        path = context.output / f"model-{quantization}.gguf"
        write_gguf(checkpoint, path, quantization, texts=texts, on_tensor=context.advance)
        text = modelfile(tokenizer, path.name, persona)
        path.with_suffix(".Modelfile").write_text(text, encoding="utf-8")
        files[quantization] = path
    results: dict[str, JsonValue] = {
        **{f"bytes{name}": path.stat().st_size for name, path in files.items()},
        **_perplexities(context, checkpoint, files),
    }
    facts = stored_facts(context.artifacts, context.spec, persona, _card_keys(context), [])
    facts = replace(facts, files=tuple(exported_file(file, results) for file in files.values()))
    (context.output / CARD).write_text(model_card(facts), encoding="utf-8")
    compute = resolve(context.spec.compute.device, "Float32")
    return StageOutcome(results=results, environment=environment(compute))


def _card_keys(context: StageContext) -> dict[str, str]:
    """Return the keys of the slice and of what it was made from."""
    key = context.planned.inputs["slice"]
    manifest = context.artifacts.manifest("slice", key)
    made_from = {} if manifest is None else manifest.inputs
    return {"slice": key, **{name: made_from[name] for name in made_from if name == "recover"}}


def _perplexities(
    context: StageContext, checkpoint: Path, files: dict[Any, Path]
) -> dict[str, JsonValue]:
    """Return the perplexities of the checkpoint and of each file, if there are held-out answers."""
    compute = resolve(context.spec.compute.device, "Float32")
    data = _held_out(context, checkpoint)
    if not len(data):
        return {}
    model, _ = load(checkpoint, compute)
    stop_between_blocks(model, context.stop.check)
    context.progress.begin("measured models", 1 + len(files))
    own = perplexity(model, data)
    context.advance()
    results: dict[str, JsonValue] = {"perplexity": own, "answerTokens": _tokens(data)}
    for name, path in files.items():
        load_weights(model, path, gguf_tensors(checkpoint, model.config, name))
        found = perplexity(model, data)
        results[f"perplexity{name}"] = found
        results[f"perplexityIncreasePercent{name}"] = 100 * (found / own - 1)
        context.advance()
    return results


def _held_out(context: StageContext, checkpoint: Path) -> TokenizedSet:
    """Return held-out answers; the persona is in their system messages."""
    examples = read_jsonl(context.input_file("rewrite", "test.jsonl"), Example)
    limit = getattr(load_config(checkpoint), "max_position_embeddings", None) or 1 << 30
    tokenizer = load_tokenizer(checkpoint)
    return tokenize(tokenizer, examples[:MAX_MEASURED_EXAMPLES], max_tokens=int(limit))


def _tokens(data: TokenizedSet) -> int:
    return data.answer_tokens(range(len(data)))

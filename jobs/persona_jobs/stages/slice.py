"""slice: prune the model's channels and write a plain Hugging Face checkpoint.

The base model's weights are sliced in their stored number format, so what is kept is byte for byte
the base model's, except the recovered weights. They are streamed from file to file: the stage needs
little memory, however large the model. The persona's text becomes the chat template's default
system message. A model card lies beside it.
"""

from pydantic import JsonValue

from ..export.card_facts import card_facts
from ..export.model_card import CARD, licence_of, model_card
from ..models.checkpoint import save_tokenizer, write_config
from ..models.checkpoint_size import checkpoint_bytes
from ..models.checkpoint_slicing import kept_tensors, recovered_tensors, slice_weights
from ..models.loading import empty_model, load_config, load_tokenizer, parameter_count
from ..models.slicing import slice_model
from ..pipeline.context import StageContext, StageOutcome
from .common import base_directory, chosen_persona, load_mask, stored_dtype


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files."""
    persona = chosen_persona(context).text
    directory = base_directory(context)
    tokenizer = load_tokenizer(directory)
    model = empty_model(load_config(directory))
    dense_parameters = parameter_count(model)
    mask = load_mask(context, model)
    kept = kept_tensors(model, mask.bits, mask.scales)
    replaced = {}
    if "recover" in context.planned.inputs:
        path = context.input_file("recover", "recovered.safetensors")
        replaced = recovered_tensors(model, path)
    slice_model(model, mask.bits)
    context.progress.begin("tensors", len(model.state_dict()))
    slice_weights(directory, context.output, kept, replaced, on_tensor=context.advance)
    dtype = str(stored_dtype(directory)).removeprefix("torch.")
    write_config(directory, context.output, intermediate_size=mask.kept_channels, dtype=dtype)
    save_tokenizer(tokenizer, context.output, system_prompt=persona)
    parameters = parameter_count(model)
    results: dict[str, JsonValue] = {
        "width": mask.kept_channels,
        "parameters": parameters,
        "denseParameters": dense_parameters,
        "checkpointBytes": checkpoint_bytes(context.output),
        "denseCheckpointBytes": checkpoint_bytes(directory),
        "parametersRemovedPercent": round(100 * (1 - parameters / dense_parameters), 2),
    }
    # The evaluation comes later.
    known = {item.stage: item.metrics for item in context.input_manifests()} | {"slice": results}
    facts = card_facts(context.spec, persona, licence_of(directory / CARD), known)
    (context.output / CARD).write_text(model_card(facts), encoding="utf-8")
    for path in context.output.iterdir():
        path.chmod(path.stat().st_mode | 0o444)  # others serve what this user wrote
    return StageOutcome(results=results, environment={"device": "cpu", "dtype": dtype})

"""recover: refit and fine-tune the kept `down_proj` columns.

Writes `recovered.safetensors` with `layers.<i>.down.weight` `[hidden, width]` in the base
model's stored number format, and `curve.jsonl`. All other weights of the sliced model are the base
model's.
"""

import time

from safetensors.torch import save_file

from ..dataset import write_jsonl
from ..models.families import ffn_layers
from ..models.slicing import sliced_copy
from ..pipeline.context import StageContext, StageOutcome
from ..recovery.recover import recover
from .common import base_directory, environment, load_base, load_mask, stored_dtype
from .control import StageControl, StageProgress
from .recovery_settings import recovery_config, recovery_data


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files."""
    started = time.monotonic()
    dense, tokenizer, compute = load_base(context)
    mask = load_mask(context, dense)
    sliced = sliced_copy(dense, mask.bits, scales=mask.scales)
    data = recovery_data(context, tokenizer)
    trainer = recover(
        dense,
        sliced,
        data,
        recovery_config(context.spec),
        scratch=context.scratch,
        progress=StageProgress(context),
        control=StageControl(context),
    )
    dtype = stored_dtype(base_directory(context))
    save_file(
        {
            f"layers.{layer.index}.down.weight": layer.down.weight.detach()
            .to("cpu", dtype)
            .contiguous()
            for layer in ffn_layers(sliced)
        },
        context.output / "recovered.safetensors",
    )
    curve = trainer.curve if trainer is not None else []
    write_jsonl(context.output / "curve.jsonl", curve)
    return StageOutcome(
        metrics={
            "refit": context.spec.recovery.refit.enabled,
            "fineTuneSteps": trainer.step if trainer is not None else 0,
            "bestStep": trainer.best_step if trainer is not None else None,
            "validationLossStart": curve[0].validation_loss if curve else None,
            "validationLoss": trainer.best_loss if trainer is not None else None,
            "trainExamples": len(data.persona.train),
            "genericExamples": len(data.generic.train),
        },
        timings={"recover": time.monotonic() - started},
        environment=environment(compute),
    )

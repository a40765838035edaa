"""recover: refit and fine-tune the kept `down_proj` columns.

Writes `recovered.safetensors` with `layers.<i>.down.weight` `[hidden, width]` in the base
model's stored number format, and `curve.jsonl`. Everything else of the cut model is the base
model's.
"""

import time

from safetensors.torch import save_file

from ..dataset import write_jsonl
from ..models import mask_file
from ..models.families import ffn_layers
from ..models.slicing import sliced_copy
from ..pipeline.context import StageContext, StageOutcome
from ..recovery.recover import RecoveryHooks, recover
from ..training.trainer import Loop
from .common import environment, load_base
from .control import StageControl, resume
from .recovery_settings import recovery_data, recovery_settings


def run(context: StageContext) -> StageOutcome:
    """Make the stage's files."""
    started = time.monotonic()
    dense, tokenizer, compute = load_base(context)
    mask = mask_file.load(context.input_file("mask", "mask.safetensors"))
    layers = ffn_layers(dense)
    mask_file.check_fits(mask, n_layers=len(layers), d_ff=layers[0].width)
    pruned = sliced_copy(dense, mask.bits, scales=mask.scales)
    data = recovery_data(context, tokenizer)

    def advance(count: int) -> None:
        context.progress.advance(count)
        context.stop.check()

    def resumed(loop: Loop) -> bool:
        resume(context, loop)
        return loop.step > 0

    loop = recover(
        dense,
        pruned,
        data,
        recovery_settings(context.spec),
        scratch=context.scratch,
        hooks=RecoveryHooks(
            begin=context.progress.begin,
            advance=advance,
            resume=resumed,
            control=StageControl(context),
        ),
    )
    save_file(
        {
            f"layers.{layer.index}.down.weight": layer.down.weight.detach().cpu().contiguous()
            for layer in ffn_layers(pruned)
        },
        context.output / "recovered.safetensors",
    )
    curve = loop.curve if loop is not None else []
    write_jsonl(context.output / "curve.jsonl", curve)
    return StageOutcome(
        metrics={
            "refit": context.spec.recovery.refit.enabled,
            "fineTuneSteps": loop.step if loop is not None else 0,
            "bestStep": loop.best_step if loop is not None else None,
            "validationLossStart": curve[0].validation_loss if curve else None,
            "validationLoss": loop.best_loss if loop is not None else None,
            "trainExamples": len(data.train),
            "genericExamples": len(data.generic_train),
        },
        timings={"recover": time.monotonic() - started},
        environment=environment(compute),
    )

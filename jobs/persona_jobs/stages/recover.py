"""recover: give the sliced model back what pruning lost, as far as held-out data confirms it.

Writes `recovered.safetensors` with the changed weights, by their names in the sliced model and in
the base model's stored number format, and `curve.jsonl` with the losses of the fine-tuning. All
other weights of the sliced model are the base model's.
"""

import time

from safetensors.torch import save_file

from ..dataset import write_jsonl
from ..models.slicing import sliced_copy
from ..pipeline.context import StageContext, StageOutcome
from ..pipeline.results import RecoveryMetrics
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
    recovered = recover(
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
            name: weight.detach().to("cpu", dtype).contiguous()
            for name, weight in recovered.weights.items()
        },
        context.output / "recovered.safetensors",
    )
    write_jsonl(context.output / "curve.jsonl", recovered.curve)
    start, end = recovered.start, recovered.end
    metrics = RecoveryMetrics(
        persona_kl_before=start.persona,
        persona_kl=end.persona,
        generic_kl_before=start.generic,
        generic_kl=end.generic,
        kept=[part.name for part in recovered.parts if part.kept],
        left_out=[part.name for part in recovered.parts if not part.kept],
        train_examples=len(data.persona.train),
        generic_examples=len(data.generic.train),
        held_out_examples=len(data.persona.validation),
        warnings=recovered.warnings,
        parts=recovered.parts,
    )
    return StageOutcome(
        results=metrics.model_dump(mode="json", by_alias=True, exclude_none=True),
        timings={"recover": time.monotonic() - started},
        environment=environment(compute),
    )

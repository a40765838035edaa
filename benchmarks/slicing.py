"""Peak memory and time of slicing a checkpoint, against loading the model and saving it again.

Both run in processes of their own, one after the other, on a synthetic checkpoint in several
files. Memory is the process's peak above what it has after its imports, as Linux counts it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from results import add_output, memory, report
from safetensors.torch import save_file
from transformers import LlamaConfig

from persona_jobs.models.checkpoint_slicing import kept_tensors, slice_weights
from persona_jobs.models.compute import Compute
from persona_jobs.models.loading import empty_model, load_config, load_model
from persona_jobs.models.safetensors_file import read_contents, weight_files
from persona_jobs.models.slicing import slice_model

MIB = 1 << 20


def make_checkpoint(directory: Path, *, gib: float) -> None:
    """Write a random bfloat16 Llama of about `gib` GiB, a file for every few layers."""
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=5632,
        num_attention_heads=16,
        num_key_value_heads=8,
        num_hidden_layers=1,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    layer_bytes = sum(
        2 * parameter.numel()
        for name, parameter in empty_model(config).named_parameters()
        if "layers" in name
    )
    config.num_hidden_layers = max(1, round(gib * (1 << 30) / layer_bytes))
    config.save_pretrained(directory)
    shards: dict[str, list[str]] = {}
    model = empty_model(config)
    for name in model.state_dict():
        if name != "lm_head.weight":
            number = int(name.split(".")[2]) // 6 if ".layers." in name else 99
            shards.setdefault(f"model-{number:05d}.safetensors", []).append(name)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    for file, names in shards.items():
        tensors = {name: (0.02 * torch.randn(shapes[name])).bfloat16() for name in names}
        save_file(tensors, directory / file, metadata={"format": "pt"})
    index = {
        "metadata": {},
        "weight_map": {name: file for file, names in shards.items() for name in names},
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def half(model: torch.nn.Module) -> torch.Tensor:
    mask = torch.zeros(
        model.config.num_hidden_layers, model.config.intermediate_size, dtype=torch.bool
    )
    mask[:, ::2] = True
    return mask


def streamed(base: Path, target: Path) -> None:
    model = empty_model(load_config(base))
    kept = kept_tensors(model, half(model), None)
    slice_weights(base, target, kept, {}, on_tensor=lambda: None)


def plain(base: Path, target: Path) -> None:
    model = load_model(base, Compute(torch.device("cpu"), torch.bfloat16, "as stored"))
    slice_model(model, half(model))
    model.save_pretrained(target)


def in_this_process(way: str, base: Path, target: Path) -> None:
    import transformers.models.llama.modeling_llama  # noqa: F401 -- part of "its imports"

    before = memory("VmRSS")
    start = time.perf_counter()
    {"streamed": streamed, "plain": plain}[way](base, target)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peakMiB": memory("VmHWM") - before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the synthetic checkpoint")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--process", nargs=3, metavar=("WAY", "BASE", "TARGET"), help="internal")
    add_output(parser)
    options = parser.parse_args()
    if options.process:
        way, base, target = options.process
        in_this_process(way, Path(base), Path(target))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        base = Path(folder, "base")
        make_checkpoint(base, gib=options.gib)
        tensors = [tensor for path in weight_files(base) for tensor in read_contents(path)[0]]
        measured = {}
        for way in ("plain", "streamed"):
            target = Path(folder, way)
            target.mkdir()
            command = [sys.executable, __file__, "--process", way, str(base), str(target)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            measured[way] = json.loads(done.stdout.splitlines()[-1])
        largest = max(tensor.size for tensor in tensors) / MIB
    bound = 1.5 * largest + 300
    peak = {way: result["peakMiB"] for way, result in measured.items()}
    seconds = {way: result["seconds"] for way, result in measured.items()}
    report(
        "slicing",
        options,
        {
            "checkpointMiB": round(sum(tensor.size for tensor in tensors) / MIB),
            "largestTensorMiB": round(largest),
            "peakMiB": round(peak["streamed"], 1),
            "peakPlainMiB": round(peak["plain"], 1),
            "seconds": round(seconds["streamed"], 2),
            "secondsPlain": round(seconds["plain"], 2),
        },
        bounds={"peakMiB": f"<= {bound:.0f}"},
        met={"peakMiB": peak["streamed"] <= bound},
    )


if __name__ == "__main__":
    main()

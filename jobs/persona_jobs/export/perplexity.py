"""How much a GGUF file's rounding changes the model, measured on held-out answers.

The weights are read back from the file itself, so what is measured is what was written. llama.cpp
also rounds activations to 8 bits where weights have 8 or 4, which is not part of the figure.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from ..errors import CorruptArtifactError
from ..training.passes import mean_answer_loss
from ..training.tokens import TokenizedSet
from .gguf_tensors import GgufTensor, in_halves

_ROWS = 4096


def perplexity(model: Any, data: TokenizedSet) -> float:
    """Return the perplexity of the answers' tokens.

    Args:
        model: a causal language model of a supported family.
        data: the conversations, at least one.
    """
    return math.exp(mean_answer_loss(model, data, "CrossEntropy"))


def load_weights(model: Any, path: Path, tensors: list[GgufTensor]) -> None:
    """Replace a model's weights by those of a GGUF file, some rows at a time.

    Args:
        model: the model of the checkpoint that the file was made of.
        path: the file.
        tensors: what was written to it.

    Raises:
        CorruptArtifactError: the file lacks one of the tensors.
    """
    stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    weights = dict(model.named_parameters(remove_duplicate=False))
    for tensor in tensors:
        found = stored.get(tensor.name)
        if found is None or found.tensor_type != tensor.kind:
            raise CorruptArtifactError(
                f"{path.name} lacks the tensor {tensor.name}",
                hint="Run the stage again",
                subject=str(path),
            )
        weight = weights[tensor.target]
        unit = len(weight) // tensor.heads if tensor.heads else 1
        step = max(1, _ROWS // unit) * unit
        for first in range(0, len(weight), step):
            rows = np.asarray(dequantize(found.data[first : first + step], tensor.kind))
            rows = rows.reshape(len(rows), -1) - np.float32(tensor.added)
            if tensor.heads:
                rows = in_halves(rows, len(rows) // unit)
            part = weight[first : first + step]
            with torch.no_grad():
                part.copy_(torch.from_numpy(np.ascontiguousarray(rows)).view(part.shape))

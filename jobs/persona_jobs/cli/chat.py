"""`persona chat`: talk to the checkpoint of the pipeline."""

import sys
from pathlib import Path
from typing import Any

from ..dataset import Message
from ..errors import InputError
from .run import Pipeline, open_pipeline


def checkpoint_of(file: Path, store_url: str | None) -> Path:
    """Return the verified local folder of the persona's checkpoint.

    Raises:
        InputError: there is no checkpoint yet.
    """
    return file if file.is_dir() else sliced_checkpoint(file, open_pipeline(file, store_url))


def sliced_checkpoint(file: Path, pipeline: Pipeline) -> Path:
    """Return the verified local folder of the checkpoint that a pipeline has made.

    Raises:
        InputError: there is no checkpoint yet.
    """
    sliced = next(stage for stage in pipeline.stages if stage.name == "slice")
    if pipeline.artifacts.manifest("slice", sliced.key) is None:
        raise InputError(
            "There is no checkpoint for this PersonaModel yet",
            hint=f"Run `persona run {file}` first",
            subject=str(file),
        )
    return pipeline.artifacts.local_dir("slice", sliced.key)


def chat_with(file: Path, store_url: str | None, *, max_tokens: int, temperature: float) -> None:
    """Read questions from standard input and stream the answers to standard output."""
    directory = checkpoint_of(file, store_url)
    from ..models.compute import resolve
    from ..models.loading import load

    model, tokenizer = load(directory, resolve())
    turns: list[Message] = []
    while question := _ask():
        turns.append(Message(role="user", content=question))
        answer = _answer(model, tokenizer, turns, max_tokens, temperature)
        turns.append(Message(role="assistant", content=answer))


def _ask() -> str:
    if sys.stdin.isatty():
        sys.stdout.write("> ")
        sys.stdout.flush()
    try:
        return sys.stdin.readline().strip()
    except KeyboardInterrupt:
        return ""


def _answer(
    model: Any, tokenizer: Any, turns: list[Message], max_tokens: int, temperature: float
) -> str:
    import torch
    from transformers import TextStreamer

    from ..models.chat import render

    prompt = torch.tensor([render(tokenizer, turns, pinned_date=False)], device=model.device)
    # The checkpoint's generation settings may sample; temperature 0 must not.
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}
    sampling |= {"top_k": None, "min_p": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature}
    output = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max_tokens,
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        **sampling,
    )
    text: str = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    return text

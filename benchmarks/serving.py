"""Throughput and time to first token with several clients, against other ways to serve the model.

1, 4 and 16 clients stream greedy answers of the same length from several servers in turn: this one
takes up to 16 together; the others are itself with one answer at a time (`--max-batch 1`) and, if
asked for, `transformers serve` and vLLM. All compute in float32. Above 1 is better.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from results import add_output, report
from tokenizers import Tokenizer

CLIENTS = (1, 4, 16)


async def one_answer(
    client: httpx.AsyncClient, model: str, number: int, tokens: int
) -> tuple[float, str]:
    """Return the time to the first text in seconds, and the text."""
    question = f"Tell me story number {number} about the sea, the wind and the harbour at night."
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
    }
    started, first, text = time.perf_counter(), 0.0, ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                text += choice["delta"].get("content") or ""
            first = first or (time.perf_counter() - started if text else 0.0)
    return first, text


async def measure(
    server: "Server", clients: int, options: argparse.Namespace
) -> tuple[float, float, list[str]]:
    """Return tokens per second of all clients, the median time to first token, and the answers."""
    async with httpx.AsyncClient(base_url=server.url, timeout=1200) as client:

        async def chat(number: int) -> list[tuple[float, str]]:
            return [
                await one_answer(client, server.model, number * 100 + turn, options.tokens)
                for turn in range(options.answers)
            ]

        started = time.perf_counter()
        done = await asyncio.gather(*(chat(number) for number in range(clients)))
        seconds = time.perf_counter() - started
    found = [answer for own in done for answer in own]
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    texts = [text for _, text in found]
    count = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    return count / seconds, statistics.median(first for first, _ in found), texts


@dataclass
class Server:
    """A way to serve the model.

    Attributes:
        command: starts it, apart from its port.
        port: where it listens.
        health: path that answers with 200 when it is ready.
        model: name of the model in requests.
    """

    command: list[str]
    port: int
    health: str
    model: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        try:
            return httpx.get(self.url + self.health, timeout=10).status_code == 200
        except httpx.TransportError:
            return False


def servers(options: argparse.Namespace) -> dict[str, Server]:
    """Return the servers that are compared; this project's own is the first."""
    model, found = str(options.model), {}

    def add(name: str, health: str, served: str, command: list[str]) -> None:
        found[name] = Server(command, options.port + len(found), health, served)

    for name, batch in (("together", max(CLIENTS)), ("in_turn", 1)):
        own = [sys.executable, "-m", "persona_jobs.serve", "--model", model, "--shutdown-delay"]
        own += ["0", "--max-batch", str(batch), "--max-queue", str(max(CLIENTS))]
        own += ["--dtype", "Float32", "--device", "CPU", "--served-model-name", "model"]
        add(name, "/readyz", "model", own)
    if options.transformers:
        transformers = [str(Path(sys.executable).parent / "transformers"), "serve", model]
        add(
            "transformers",
            "/health",
            model,
            [*transformers, "--device", "cpu", "--dtype", "float32"],
        )
    if options.vllm_python:
        vllm = [str(options.vllm_python), "-m", "vllm.entrypoints.openai.api_server"]
        vllm += ["--model", model, "--served-model-name", "model", "--dtype", "float32"]
        add("vllm", "/health", "model", [*vllm, "--max-model-len", "2048", "--max-num-seqs", "16"])
    return found


@contextmanager
def running(server: Server, options: argparse.Namespace) -> Iterator[Server]:
    """Start a server, wait until it has answered, and end it."""
    command = [*server.command, "--host", "127.0.0.1", "--port", str(server.port)]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + options.start_seconds
        while not server.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"The server does not start: {' '.join(command)}")
            time.sleep(0.5)
        asyncio.run(measure(server, 1, options))
        yield server
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="directory of a checkpoint with a chat template")
    parser.add_argument("--answers", type=int, default=1, help="answers per client and round")
    parser.add_argument("--tokens", type=int, default=32, help="tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=8765, help="first of the servers' ports")
    parser.add_argument("--transformers", action="store_true", help="compare `transformers serve`")
    parser.add_argument("--vllm-python", type=Path, help="compare vLLM, which this Python has")
    parser.add_argument("--start-seconds", type=float, default=900, help="time to start a server")
    add_output(parser)
    options = parser.parse_args()
    compared = servers(options)
    ratios: dict[tuple[str, int], list[tuple[float, float]]] = {}
    answers: dict[tuple[str, int], list[str]] = {}
    with ExitStack() as stack:
        for server in compared.values():
            stack.enter_context(running(server, options))
        for _ in range(options.rounds):
            for clients in CLIENTS:
                own: tuple[float, float] | None = None
                for name, server in compared.items():
                    rate, first, texts = asyncio.run(measure(server, clients, options))
                    print(f"{name}, {clients} clients: {rate:.1f} tokens/s, {first:.2f} s")
                    answers[name, clients] = texts
                    own = own or (rate, first)
                    if name != "together":
                        found = ratios.setdefault((name, clients), [])
                        found.append((own[0] / rate, first / own[1]))
    results: dict[str, float] = {}
    for (name, clients), found in ratios.items():
        results[f"throughput_{name}_{clients}"] = round(statistics.median(r for r, _ in found), 2)
        results[f"first_token_{name}_{clients}"] = round(statistics.median(r for _, r in found), 2)
        same = zip(answers[name, clients], answers["together", clients], strict=True)
        results[f"same_answers_{name}_{clients}"] = round(
            statistics.mean(other == own for other, own in same), 2
        )
    bounds = {"throughput_in_turn_1": 0.9, "throughput_in_turn_4": 1.5, "first_token_in_turn_16": 5}
    report(
        "serving",
        options,
        results,
        bounds={name: f">= {bound}" for name, bound in bounds.items()},
        met={name: results[name] >= bound for name, bound in bounds.items()},
    )


if __name__ == "__main__":
    main()

"""Throughput and time to first token with several clients, against one answer at a time.

1, 4 and 16 clients stream greedy answers of the same length from two servers in turn: one takes
them one after the other (`--max-batch 1`), the other up to 16 together. Above 1 is better.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from results import add_output, report

CLIENTS = (1, 4, 16)


async def one_answer(client: httpx.AsyncClient, number: int, tokens: int) -> tuple[float, int]:
    """Return the time to the first token in seconds, and the number of tokens."""
    question = f"Tell me story number {number} about the sea, the wind and the harbour at night."
    body = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
    }
    started, first, count = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not first and '"logprob"' in line:
                first = time.perf_counter() - started
            if '"completion_tokens"' in line:
                count = int(line.split('"completion_tokens":')[1].split(",")[0])
    return first, count


async def measure(url: str, clients: int, answers: int, tokens: int) -> tuple[float, float]:
    """Return tokens per second of all clients together, and the median time to first token."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:

        async def chat(number: int) -> list[tuple[float, int]]:
            return [
                await one_answer(client, number * 100 + turn, tokens) for turn in range(answers)
            ]

        started = time.perf_counter()
        done = await asyncio.gather(*(chat(number) for number in range(clients)))
        seconds = time.perf_counter() - started
    found = [answer for own in done for answer in own]
    return sum(count for _, count in found) / seconds, statistics.median(f for f, _ in found)


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if server.poll() is not None:
            sys.exit("The server ended")
        try:
            if httpx.get(url + "/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    sys.exit("The server is not ready")


@contextmanager
def running(model: Path, port: int, *, batch: int) -> Iterator[str]:
    """Start a server that answers up to `batch` requests at a time; yields its address."""
    command = [sys.executable, "-m", "persona_jobs.serve", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--shutdown-delay", "0"]
    command += ["--max-batch", str(batch), "--max-queue", str(max(CLIENTS))]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(url, server)
        asyncio.run(measure(url, 1, 1, 4))
        yield url
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="directory of a checkpoint with a chat template")
    parser.add_argument("--answers", type=int, default=1, help="answers per client and round")
    parser.add_argument("--tokens", type=int, default=32, help="tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=8765, help="first of two ports")
    add_output(parser)
    options = parser.parse_args()
    ratios: dict[int, list[tuple[float, float]]] = {clients: [] for clients in CLIENTS}
    with (
        running(options.model, options.port, batch=1) as in_turn,
        running(options.model, options.port + 1, batch=max(CLIENTS)) as together,
    ):
        for _ in range(options.rounds):
            for clients, found in ratios.items():
                before = asyncio.run(measure(in_turn, clients, options.answers, options.tokens))
                after = asyncio.run(measure(together, clients, options.answers, options.tokens))
                found.append((after[0] / before[0], before[1] / after[1]))
    results = {}
    for clients, found in ratios.items():
        results[f"throughput_{clients}"] = round(statistics.median(r for r, _ in found), 2)
        results[f"first_token_{clients}"] = round(statistics.median(r for _, r in found), 2)
    report(
        "serving",
        options,
        results,
        bounds={"throughput_1": ">= 0.9", "throughput_4": ">= 1.5", "first_token_16": ">= 5"},
        met={
            "throughput_1": results["throughput_1"] >= 0.9,
            "throughput_4": results["throughput_4"] >= 1.5,
            "first_token_16": results["first_token_16"] >= 5,
        },
    )


if __name__ == "__main__":
    main()

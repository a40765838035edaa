"""The server as its own process: signals, disconnects and failures to start."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from persona_jobs.pipeline.results import TerminationMessage
from support.serving import MODEL, PERSONA_TEMPLATE
from support.tiny import tiny_model, tiny_tokenizer

URL = "/v1/chat/completions"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    # Large enough that a long answer takes a while, and without an end-of-turn token that a
    # random model might choose.
    model = tiny_model(max_position_embeddings=65536, layers=4, hidden=64)
    model.lm_head.weight.data[model.config.eos_token_id] = 0
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.save_pretrained(directory)
    tiny_tokenizer(PERSONA_TEMPLATE).save_pretrained(directory)
    return directory


class Process:
    def __init__(self, *arguments, message=None):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PERSONA_TERMINATION_MESSAGE", None)
        if message is not None:
            environment["PERSONA_TERMINATION_MESSAGE"] = str(message)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "persona_jobs.serve", *map(str, arguments)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)

    def end(self, timeout=60):
        code = self.process.wait(timeout)
        self._reader.join(10)
        return code, "".join(self.log)


@pytest.fixture
def serve(checkpoint):
    """Start a server and wait until it is ready."""
    started = []

    def start(*arguments):
        port = free_port()
        server = Process(
            "--model", checkpoint, "--served-model-name", MODEL, "--host", "127.0.0.1",
            "--port", port, "--device", "CPU", "--dtype", "Float32", *arguments,
        )  # fmt: skip
        started.append(server)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        deadline = time.monotonic() + 120
        while True:
            assert server.process.poll() is None, "".join(server.log)
            try:
                if client.get("/readyz").status_code == 200:
                    return server, client
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline
            time.sleep(0.1)

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


def body(**fields):
    return {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, **fields}


def value(client, name):
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    return None


def wait_for(client, name, expected):
    deadline = time.monotonic() + 60
    while value(client, "persona_serving_" + name) != expected:
        assert time.monotonic() < deadline, name
        time.sleep(0.05)


def test_text_is_streamed_in_pieces_and_a_disconnect_frees_the_model(serve):
    server, client = serve("--max-queue", 5, "--max-batch", 1)
    # A reader that leaves within the stream.
    with client.stream("POST", URL, json=body(max_tokens=60000, stream=True)) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["choices"][0]["delta"]["role"]
        wait_for(client, "requests_running", 1)
        # Clients that leave while they wait, streamed and whole.
        for stream in (False, True):
            with pytest.raises(httpx.ReadTimeout):
                client.post(URL, json=body(max_tokens=5, stream=stream), timeout=0.5)
        wait_for(client, "queue_depth", 0)
        assert value(client, "persona_serving_requests_running") == 1
    wait_for(client, "requests_running", 0)
    wait_for(client, 'requests_total{status="499"}', 3)
    # A client that leaves while its whole answer is generated.
    with pytest.raises(httpx.ReadTimeout):
        client.post(URL, json=body(max_tokens=60000), timeout=0.5)
    wait_for(client, 'requests_total{status="499"}', 4)
    wait_for(client, "requests_running", 0)
    assert client.post(URL, json=body(max_tokens=5)).status_code == 200
    server.process.send_signal(signal.SIGINT)
    code, log = server.end()
    assert code == 0
    assert "Traceback" not in log
    assert "hello" not in log


def test_sigterm_lets_running_requests_finish(serve):
    server, client = serve("--shutdown-delay", 3, "--shutdown-timeout", 60, "--max-batch", 1)
    answers = []

    def ask():
        with httpx.Client(base_url=client.base_url, timeout=120) as own:
            answers.append(own.post(URL, json=body(max_tokens=500)))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(client, "queue_depth", 1)
    wait_for(client, "requests_running", 1)
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 30
    while client.get("/readyz").status_code != 503:
        assert time.monotonic() < deadline
    for thread in threads:
        thread.join(120)
    code, log = server.end()
    assert code == 0, log
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [500, 500]
    with pytest.raises(httpx.TransportError):
        client.get("/healthz")


def test_requests_that_take_too_long_after_sigterm_end_with_an_error(serve):
    server, client = serve("--shutdown-delay", 0, "--shutdown-timeout", 1)
    with client.stream("POST", URL, json=body(max_tokens=60000, stream=True)) as response:
        lines = response.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        data = [line.removeprefix("data: ") for line in lines if line]
    assert json.loads(data[-1])["error"]["code"] == "server_stopping"
    code, log = server.end()
    assert code == 0, log
    assert "Traceback" not in log


def failure_of(path):
    message = TerminationMessage.decode(path.read_text())
    assert (message.stage, message.outcome) == ("serve", "Failed")
    return message.failure


def test_a_directory_without_a_model_is_an_input_error(tmp_path):
    message = tmp_path / "message"
    server = Process("--model", tmp_path, "--port", free_port(), message=message)
    code, log = server.end(120)
    assert code == 2
    assert "config.json" in log
    assert "Traceback" not in log
    assert failure_of(message).error_class == "InputError"


def test_an_absent_directory_is_an_input_error(tmp_path):
    message = tmp_path / "message"
    code, log = Process("--model", tmp_path / "absent", message=message).end()
    assert code == 2
    assert "is not a directory" in log
    assert "absent" in failure_of(message).message


def test_a_context_beyond_the_model_s_limit_is_an_input_error(checkpoint, tmp_path):
    server = Process(
        "--model", checkpoint, "--port", free_port(), "--device", "CPU",
        "--max-context-tokens", 70000,
    )  # fmt: skip
    code, log = server.end(120)
    assert code == 2
    assert "70000" in log
    assert "65536" in log


def test_a_port_in_use_is_an_error(checkpoint):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = Process("--model", checkpoint, "--host", "127.0.0.1", "--port", port)
        code, log = server.end(120)
    assert code == 2
    assert f"Can't listen on 127.0.0.1:{port}" in log
    assert "Traceback" not in log

"""`persona serve` as a user starts it."""

import re
import signal
import socket
import subprocess

import httpx
import openai
import pytest

from persona_jobs.store import StageArtifacts, open_store
from persona_jobs.store.manifest import StageManifest
from support.local_pipeline import command, environment, manifest, persona, write_manifest
from support.tiny import tiny_checkpoint


@pytest.fixture
def persona_file(tmp_path):
    """A PersonaModel whose checkpoint is in the store, as `persona run` leaves it."""
    file = write_manifest(tmp_path, manifest(tmp_path, "http://127.0.0.1:9/v1"))
    lines = persona(tmp_path, "keys", file).stdout.splitlines()
    key = dict(line.split() for line in lines)["slice"]
    made = tmp_path / "made"
    made.mkdir()
    artifacts = StageArtifacts(open_store((tmp_path / ".persona" / "store").as_uri()))
    artifacts.publish(StageManifest(stage="slice", stage_version=1, key=key), tiny_checkpoint(made))
    return file


def start(folder, *arguments):
    return subprocess.Popen(
        command("serve", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**environment(folder), "PERSONA_SERVE_HOST": "*"},
    )


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_persona_is_served_on_loopback_at_the_printed_address(tmp_path, persona_file, kind):
    target = persona_file if kind == "file" else tiny_checkpoint(tmp_path / "captain")
    process = start(tmp_path, target, "--port", "0")
    try:
        line = process.stdout.readline()
        address = re.search(r"Chat with captain at (http://127\.0\.0\.1:(\d+)/) ", line)
        assert address, (line, process.poll() is not None and process.stderr.read())
        assert f"API is at {address[1]}v1\n" in line
        assert "<title>Chat</title>" in httpx.get(address[1]).text
        api = openai.OpenAI(base_url=address[1] + "v1", api_key="none", max_retries=0)
        assert [model.id for model in api.models.list()] == ["captain"]
        answer = api.chat.completions.create(
            model="captain", messages=[{"role": "user", "content": "Ahoy"}], max_tokens=3
        )
        assert answer.usage.completion_tokens <= 3
        listening = subprocess.run(
            ["cat", f"/proc/{process.pid}/net/tcp"], capture_output=True, text=True, check=True
        ).stdout
        assert f"0100007F:{int(address[2]):04X}" in listening
        assert f"00000000:{int(address[2]):04X}" not in listening
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()


def test_a_persona_without_a_checkpoint_is_refused(tmp_path):
    file = write_manifest(tmp_path, manifest(tmp_path, "http://127.0.0.1:9/v1"))
    result = persona(tmp_path, "serve", file)
    assert result.returncode == 2
    assert "There is no checkpoint" in result.stderr
    assert "persona run" in result.stderr


def test_a_port_in_use_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = persona(tmp_path, "serve", tiny_checkpoint(tmp_path / "m"), "--port", str(port))
    assert result.returncode == 2
    assert f"Can't listen on 127.0.0.1:{port}" in result.stderr
    assert "Set --port to a free port" in result.stderr
    assert "--host" not in result.stderr  # `persona serve` has no such option
    assert "Traceback" not in result.stderr

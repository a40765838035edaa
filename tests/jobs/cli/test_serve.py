"""`persona serve` as a user starts it."""

import re
import signal
import socket
import subprocess

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from persona_jobs.store import StageArtifacts, open_store
from persona_jobs.store.manifest import StageManifest
from support.local_pipeline import (
    PERSONA,
    command,
    environment,
    manifest,
    persona,
    write_manifest,
)
from support.tiny import save_checkpoint, tiny_checkpoint, tiny_model, tiny_tokenizer


@pytest.fixture
def persona_file(tmp_path):
    """A PersonaModel whose checkpoint is in the store, as `persona run` leaves it."""
    file = write_manifest(tmp_path, manifest(tmp_path, "http://127.0.0.1:9/v1"))
    lines = persona(tmp_path, "keys", file).stdout.splitlines()
    key = dict(line.split() for line in lines)["slice"]
    made = tmp_path / "made"
    made.mkdir()
    artifacts = StageArtifacts(open_store((tmp_path / ".persona" / "store").as_uri()))
    save_checkpoint(
        tiny_model(seed=1, intermediate_size=48), tiny_tokenizer(), made, system_prompt=PERSONA
    )
    artifacts.publish(StageManifest(stage="slice", stage_version=1, key=key), made)
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


def test_the_dense_model_is_served_beside_the_persona_s(tmp_path, persona_file):
    process = start(tmp_path, persona_file, "--port", "0", "--compare")
    try:
        line = process.stdout.readline()
        address = re.search(r"(http://127\.0\.0\.1:\d+)/ ", line)
        assert address, (line, process.poll() is not None and process.stderr.read())
        api = openai.OpenAI(base_url=address[1] + "/v1", api_key="none", max_retries=0)
        assert [model.id for model in api.models.list()] == ["captain", "captain-dense"]
        found = {}
        for name in ("captain", "captain-dense"):
            answer = api.chat.completions.create(
                model=name,
                messages=[{"role": "user", "content": "Ahoy"}],
                max_tokens=12,
                temperature=0,
                logprobs=True,
            )
            assert answer.model == name
            found[name] = answer.choices[0].logprobs.content, answer.usage.prompt_tokens
        prompt = [{"role": "system", "content": PERSONA}, {"role": "user", "content": "Ahoy"}]
        for name, folder in (("captain", "made"), ("captain-dense", "base")):
            model = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
            tokenizer = AutoTokenizer.from_pretrained(tmp_path / folder)
            ids = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=False, return_tensors="pt"
            )
            tokens, length = found[name]
            assert length == ids.shape[1]  # both have the persona in their prompt
            with torch.inference_mode():
                likeliest = model(ids).logits[0, -1].log_softmax(-1).max()
            assert tokens[0].logprob == pytest.approx(float(likeliest), abs=1e-4)
        with pytest.raises(openai.NotFoundError, match="'captain' and 'captain-dense'"):
            api.chat.completions.create(model="other", messages=prompt)
    finally:
        process.kill()
        process.wait()


def test_a_folder_has_no_dense_model_to_compare_with(tmp_path):
    result = persona(tmp_path, "serve", tiny_checkpoint(tmp_path / "m"), "--compare")
    assert result.returncode == 2
    assert "does not say which dense model" in result.stderr


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

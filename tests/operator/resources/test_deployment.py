"""The serving pod of the engine VLLM, by its parts and in the real vLLM."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from persona_operator.resources.common import SCRATCH_PATH, USER_ID, Images, Owner
from persona_operator.resources.deployment import MODEL_PATH, ServingDeployment, build_deployment
from persona_operator.settings import Profile
from persona_operator.store_access import StoreAccess
from support.s3_server import free_port
from support.tiny import save_checkpoint, tiny_model, tiny_tokenizer

PYTHON = os.environ.get("VLLM_PYTHON") or (
    sys.executable if importlib.util.find_spec("vllm") else None
)


def pod(**profile: Any) -> dict[str, Any]:
    serving = ServingDeployment(
        owner=Owner("ada", "default", "1"),
        revision="r1",
        slice_key="0" * 64,
        engine="VLLM",
        fetch_images=Images("jobs:1"),
        images=Images("vllm/vllm-openai:v1"),
        profile=Profile.model_validate(profile),
        store=StoreAccess("file:///store"),
        replicas=1,
        progress_deadline_seconds=600,
        env={"HTTPS_PROXY": "http://proxy:3128"},
    )
    spec: dict[str, Any] = build_deployment(serving)["spec"]["template"]["spec"]
    return spec


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container["env"]}


def test_a_vllm_pod_has_a_user_and_writes_to_its_scratch_volume_only() -> None:
    (serve,) = pod()["containers"]
    found = environment(serve)
    assert found["USER"] == found["LOGNAME"] == "persona"
    caches = {name: path for name, path in found.items() if name.startswith(("XDG_", "TRITON_"))}
    assert len(caches) == 3
    assert all(path.startswith(SCRATCH_PATH + "/") for path in caches.values())
    assert (found["VLLM_NO_USAGE_STATS"], found["DO_NOT_TRACK"]) == ("1", "1")
    assert found["HTTPS_PROXY"] == "http://proxy:3128"


def test_the_administrator_s_environment_wins() -> None:
    (serve,) = pod(env=[{"name": "XDG_CACHE_HOME", "value": "/elsewhere"}])["containers"]
    assert environment(serve)["XDG_CACHE_HOME"] == "/elsewhere"


def test_a_vllm_pod_answers_for_a_while_before_it_is_told_to_stop() -> None:
    spec = pod()
    (serve,) = spec["containers"]
    drain = serve["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert 20 <= drain <= spec["terminationGracePeriodSeconds"] - 30


@pytest.mark.skipif(
    PYTHON is None, reason="vLLM is not installed; VLLM_PYTHON can name the Python that has it"
)
@pytest.mark.timeout(1800)
def test_the_pod_s_command_starts_the_real_vllm_for_a_user_without_a_name(tmp_path: Path) -> None:
    model, scratch = tmp_path / "model", tmp_path / "scratch"
    sizes = {"layers": 2, "hidden": 128, "intermediate_size": 256, "head_dim": 32}
    tiny = tiny_model(seed=3, max_position_embeddings=4096, **sizes)
    save_checkpoint(tiny, tiny_tokenizer(), model, system_prompt="You are Ada.")
    scratch.mkdir()
    places = {MODEL_PATH: str(model), SCRATCH_PATH: str(scratch)}
    args = ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "4"]
    cpu = [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "1"}]
    (serve,) = pod(args=args, env=cpu)["containers"]
    port = free_port()

    def here(text: str) -> str:
        for inside, outside in places.items():
            if text == inside or text.startswith(inside + "/"):
                return outside + text[len(inside) :]
        return text

    environ = {name: here(value) for name, value in environment(serve).items()}
    environ |= {"PATH": f"{Path(PYTHON or '').parent}:/usr/bin:/bin", "NO_PROXY": "*"}
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", *map(here, serve["args"])]
    command[command.index("8000")] = str(port)
    if os.geteuid() == 0:
        # The environment of vLLM may lie where only root reads.
        reading = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        user = ["--reuid", str(USER_ID), "--regid", str(USER_ID), "--clear-groups"]
        command = ["setpriv", *user, *reading, *command]
        os.chown(scratch, USER_ID, USER_ID)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(map(str, command), env=environ, stdout=log, stderr=log, cwd="/")
    try:
        check_server(process, f"http://127.0.0.1:{port}", model, serve)
    except BaseException:
        print((tmp_path / "log").read_text()[-8000:])
        raise
    finally:
        process.kill()
        process.wait()
    assert not list(scratch.rglob("usage_stats.json"))


def check_server(process: Any, url: str, model: Path, serve: dict[str, Any]) -> None:
    ready = url + serve["readinessProbe"]["httpGet"]["path"]
    deadline = time.monotonic() + 1200
    while not answers(ready):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(1)
    assert "vllm:num_requests_running" in httpx.get(url + "/metrics").text
    api = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=600)
    assert [found.id for found in api.models.list()] == ["ada"]
    plain, tokenizer = (
        kind.from_pretrained(model) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    for question in ("Ahoy", "Where are we bound?", "x" * 100):
        messages: Any = [{"role": "user", "content": question}]
        answer = api.chat.completions.create(
            model="ada", messages=messages, max_tokens=24, temperature=0,
            extra_body={"return_token_ids": True},
        )  # fmt: skip
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False, return_tensors="pt"
        )
        expected = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )
        assert answer.choices[0].token_ids == expected[0, ids.shape[1] :].tolist()
    check_end(process, ready, api)


def check_end(process: Any, ready: str, api: openai.OpenAI) -> None:
    """Stream an answer over the time that the pod has before SIGTERM, then end the server."""
    ends = []

    def stream() -> None:
        chunks = api.chat.completions.create(
            model="ada", messages=[{"role": "user", "content": "long"}], max_tokens=200,
            stream=True, extra_body={"ignore_eos": True},
        )  # fmt: skip
        ends.extend(chunk.choices[0].finish_reason for chunk in chunks)

    thread = threading.Thread(target=stream)
    thread.start()
    thread.join(600)  # the kubelet sleeps meanwhile, and the server knows nothing of its end
    assert ends[-1] == "length"
    assert answers(ready)
    process.send_signal(signal.SIGTERM)
    process.wait(60)  # and not only by SIGKILL
    assert not answers(ready)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.TransportError:
        return False

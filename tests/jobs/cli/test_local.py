"""What is settled before planning on one machine."""

import json
import os
from pathlib import Path

import pytest
import torch

from persona_jobs import __main__ as stage_process
from persona_jobs.api import API_VERSION, KIND, PersonaModel, parse_resource
from persona_jobs.cli import local
from persona_jobs.errors import InputError
from persona_jobs.pipeline.graph import keys
from persona_jobs.store import open_store
from support.s3_server import S3Server


def resource(**spec: object) -> PersonaModel:
    return parse_resource(
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": "captain"},
            "spec": {
                "persona": {"text": "You are a captain."},
                "baseModel": {"uri": "hf://org/model", "revision": "a" * 40},
                **spec,
            },
        }
    )


@pytest.mark.parametrize(("has_cuda", "dtype"), [(True, "BFloat16"), (False, "Float32")])
def test_the_number_format_in_the_keys_is_the_one_that_torch_will_use(
    monkeypatch: pytest.MonkeyPatch, has_cuda: bool, dtype: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    # Where there is no such device, torch is not asked.
    monkeypatch.setattr(local, "_GPU_DEVICES", ("/dev/null",))
    found = keys(local.resolved(resource()).spec)
    assert found == keys(local.resolved(resource(compute={"dtype": dtype})).spec)


def test_a_stage_process_never_plans_with_an_open_number_format(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    planned = []

    def run_stage(_spec: object, stage: object, *_: object, **__: object) -> None:
        planned.append(stage)
        raise SystemExit

    monkeypatch.setattr(stage_process, "run_stage", run_stage)
    manifest = tmp_path / "persona.json"
    manifest.write_text(json.dumps(resource().manifest()))
    monkeypatch.setenv("PERSONA_TERMINATION_MESSAGE", str(tmp_path / "message"))
    with pytest.raises(SystemExit):
        stage_process.main(
            ["reference", "--manifest", str(manifest), "--store", (tmp_path / "store").as_uri()]
        )
    assert planned[0].parameters["compute.dtype"] == "Float32"


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}"])
def test_every_form_of_a_file_uri_is_stamped_with_the_content(tmp_path: Path, form: str) -> None:
    model, data = tmp_path / "My Models" / "tiny v1", tmp_path / "my data.jsonl"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    data.write_text("{}\n")
    encoded = {path: form.format(str(path).replace(" ", "%20")) for path in (model, data)}

    def reference() -> str:
        spec = {"baseModel": {"uri": encoded[model]}, "instructions": {"uri": encoded[data]}}
        return keys(local.resolved(resource(**spec)).spec)["reference"]

    first = reference()
    assert reference() == first
    (model / "model.safetensors").write_bytes(b"other weights")
    second = reference()
    assert second != first
    data.write_text("{} \n")
    assert reference() not in {first, second}


def test_a_missing_base_model_is_an_error_before_planning(tmp_path: Path) -> None:
    missing = {"baseModel": {"uri": (tmp_path / "no model").as_uri()}}
    with pytest.raises(InputError, match="no model does not exist"):
        local.resolved(resource(**missing))


def test_the_endpoint_of_the_storage_is_also_that_of_s3_sources(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    keys_only = {k: v for k, v in s3_server.environment().items() if "ENDPOINT" not in k}
    os.environ.update(keys_only, PERSONA_CACHE=str(tmp_path))
    uri = f"s3://sources/{tmp_path.name}/instructions.jsonl"
    open_store("s3://sources", s3_server.options()).write_bytes(
        f"{tmp_path.name}/instructions.jsonl", b'{"instruction": "a", "output": "b"}\n'
    )
    found = local.resolved(
        resource(storage={"endpoint": s3_server.endpoint}, instructions={"uri": uri})
    )
    assert found.spec.instructions.revision is not None
    assert found.spec.instructions.uri == uri

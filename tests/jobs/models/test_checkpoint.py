import json

from persona_jobs.models.checkpoint import save_tokenizer, write_config
from support.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer


def test_the_configuration_is_the_base_models_with_the_new_intermediate_size(tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    tiny_checkpoint(base, rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    out.mkdir()
    write_config(base, out, intermediate_size=40, dtype="float32")
    before = json.loads((base / "config.json").read_text())
    after = json.loads((out / "config.json").read_text())
    assert after == {**before, "intermediate_size": 40}
    assert after["architectures"] == ["LlamaForCausalLM"]


def test_code_of_the_base_model_is_not_named(tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    tiny_checkpoint(base, "phi3")
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    (base / "config.json").write_text(json.dumps(config))
    out.mkdir()
    write_config(base, out, intermediate_size=40, dtype="float32")
    assert "auto_map" not in json.loads((out / "config.json").read_text())


def test_an_older_configuration_keeps_its_name_for_the_number_format(tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    tiny_checkpoint(base)
    config = json.loads((base / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    (base / "config.json").write_text(json.dumps(config))
    out.mkdir()
    write_config(base, out, intermediate_size=40, dtype="bfloat16")
    after = json.loads((out / "config.json").read_text())
    assert after["torch_dtype"] == "bfloat16"
    assert "dtype" not in after


def test_the_generation_configuration_goes_along(tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    model = tiny_model()
    model.generation_config.eos_token_id = [5, 6]
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.7
    model.save_pretrained(base)
    out.mkdir()
    write_config(base, out, intermediate_size=40, dtype="float32")
    saved = json.loads((out / "generation_config.json").read_text())
    assert (saved["eos_token_id"], saved["temperature"]) == ([5, 6], 0.7)


def test_no_local_path_is_written(tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    tiny_checkpoint(base)
    secret = str(tmp_path / "where-it-was")
    for name in ("config.json", "generation_config.json"):
        content = json.loads((base / name).read_text())
        (base / name).write_text(json.dumps({**content, "_name_or_path": secret}))
    tokenizer = tiny_tokenizer()
    tokenizer.name_or_path = secret
    tokenizer.init_kwargs.update(name_or_path=secret, local_files_only=True)
    out.mkdir()
    write_config(base, out, intermediate_size=40, dtype="float32")
    save_tokenizer(tokenizer, out, system_prompt="You are Ada.")
    for path in out.iterdir():
        assert b"where-it-was" not in path.read_bytes(), path.name
    assert "local_files_only" not in (out / "tokenizer_config.json").read_text()


def test_saving_the_tokenizer_leaves_it_unchanged(tmp_path):
    tokenizer = tiny_tokenizer()
    template = tokenizer.chat_template
    save_tokenizer(tokenizer, tmp_path, system_prompt="You are Ada.")
    assert tokenizer.chat_template == template
    assert "You are Ada." in (tmp_path / "chat_template.jinja").read_text()

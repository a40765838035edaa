import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from persona_jobs.errors import CorruptArtifactError, InputError, StageInterruptedError
from persona_jobs.models.checkpoint_size import checkpoint_bytes
from persona_jobs.models.loading import parameter_count
from persona_jobs.pipeline.context import StageOutcome
from persona_jobs.pipeline.results import ShownAnswers
from persona_jobs.stages.evaluate import stage as evaluate
from persona_jobs.stages.recovery_settings import recovery_data
from persona_jobs.training import distillation
from support.evaluation import NO_RECOVERY, WIDTH, World
from support.stages import StopAfter


def test_every_variant_is_measured(world: Callable[..., World]):
    made = world()
    outcome = made.run()
    assert "<h2>Recovery</h2>" in made.report
    metrics = made.metrics
    assert outcome.results == metrics.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert outcome.environment["dtype"] == "float32"
    assert list(metrics.variants) == ["dense", "masked", "sliced", "recovered", "baseline"]
    assert metrics.served == "recovered"
    assert metrics.queries == 3
    # The reference persona that equals the target doesn't count.
    assert metrics.chance_persona_score == pytest.approx(33.33)
    dense, masked, sliced = (metrics.variants[n] for n in ("dense", "masked", "sliced"))
    recovered, baseline = metrics.variants["recovered"], metrics.variants["baseline"]
    assert dense.persona_kl == dense.generic_kl == 0.0
    for variant in (sliced, recovered, baseline):
        assert variant.persona_kl is not None and variant.persona_kl > 0
        assert variant.generic_kl is not None and variant.generic_kl > 0
    assert len({v.persona_loss for v in (dense, sliced, recovered, baseline)}) == 4
    assert (masked.persona_loss, masked.persona_score) == (
        sliced.persona_loss,
        sliced.persona_score,
    )
    # Three questions are too few for an interval.
    for variant in metrics.variants.values():
        assert variant.persona_score is not None and 0 <= variant.persona_score <= 100
        assert variant.persona_score_low is variant.persona_score_high is None
    # The served model is timed; the others have its shapes.
    assert all(v.prefill_tokens_per_second for v in (dense, masked, recovered))
    assert all(v.decode_tokens_per_second is None for v in (sliced, baseline))


def test_sizes_are_those_of_the_stored_weights(world: Callable[..., World]):
    made = world()
    made.run()
    variants = made.metrics.variants
    dense_bytes = checkpoint_bytes(made.base)
    assert variants["dense"].checkpoint_bytes == dense_bytes
    assert variants["dense"].parameters == parameter_count(made.model)
    assert dense_bytes < variants["masked"].checkpoint_bytes < dense_bytes + 2000
    removed = 3 * 3 * 32 * (64 - WIDTH)
    assert variants["sliced"].parameters == parameter_count(made.model) - removed
    for name in ("sliced", "recovered", "baseline"):
        assert variants[name].checkpoint_bytes == checkpoint_bytes(made.root / "made/slice")  # type: ignore[index]


def test_samples_have_all_answers_with_their_probability(world: Callable[..., World]):
    made = world()
    made.run()
    assert [line.query for line in made.samples] == [e.query for e in made.held_out[:3]]
    scores = made.metrics.variants
    for name in ("dense", "sliced", "recovered", "baseline"):
        mean = sum(line.scores[name] for line in made.samples) / 3  # type: ignore[index]
        assert scores[name].persona_score == pytest.approx(100 * mean, abs=0.01)  # type: ignore[index]
        for figure in ("voice", "relevance", "fluency", "originality"):
            mean = sum(getattr(line, figure)[name] for line in made.samples) / 3
            assert getattr(scores[name], figure) == pytest.approx(100 * mean, abs=0.01)  # type: ignore[index]
        for line in made.samples:
            assert name in line.answers
            assert name in line.finished
            assert (line.losses[name] is None) == (not line.answers[name].strip())  # type: ignore[index]


def test_several_answers_to_a_question_are_one_value(world: Callable[..., World]):
    evaluation = {"maxQueries": 3, "maxAnswerTokens": 8, "samplesPerQuestion": 3}
    made = world(evaluation={**evaluation, "baseline": False})
    made.run()
    queries = [example.query for example in made.held_out[:3]]
    assert [(line.sample, line.query) for line in made.samples] == [
        (sample, query) for sample in range(3) for query in queries
    ]
    answers = {(line.query, line.answers["dense"]) for line in made.samples}
    assert len(answers) == 9
    assert (made.metrics.queries, made.metrics.answers_per_query) == (3, 3)
    for name in ("dense", "recovered"):
        mean = sum(line.scores[name] for line in made.samples) / 9  # type: ignore[index]
        assert made.metrics.variants[name].persona_score == pytest.approx(100 * mean, abs=0.01)  # type: ignore[index]


def test_report_shows_all_and_escapes_the_persona(world: Callable[..., World]):
    made = world()
    made.run()
    assert "<script" not in made.report
    for text in (
        "&lt;script&gt;alert",
        "Mask learning",
        "Recovery: fine-tuning",
        "Kept channels",
        "kept here, not by activation RMS",
        "Persona sensitivity",
        "Answers side by side",
        "bootstrapSamples: 100",
        "float32",
        "transformers",
    ):
        assert text in made.report, text


def test_same_seed_same_result(world: Callable[..., World]):
    made = world()
    first = made.run()
    made.forget()
    second = evaluate.run(made.context())

    def steady(outcome: StageOutcome) -> str:
        variants = outcome.results["variants"]
        assert isinstance(variants, dict)
        for values in variants.values():
            assert isinstance(values, dict)
            values.pop("prefillTokensPerSecond", None)
            values.pop("decodeTokensPerSecond", None)
        return json.dumps(outcome.results)

    assert steady(first) == steady(second)


def test_without_recovery_and_baseline(world: Callable[..., World]):
    made = world(
        recovery=NO_RECOVERY,
        evaluation={"maxQueries": 2, "maxAnswerTokens": 8, "baseline": False},
    )
    made.run()
    assert list(made.metrics.variants) == ["dense", "masked", "sliced"]
    assert made.metrics.served == "sliced"
    assert "recovery switched off" in made.report
    assert "<h2>Recovery</h2>" not in made.report
    assert "not by activation RMS" not in made.report


def test_question_files_take_turns_with_held_out_queries(
    world: Callable[..., World], tmp_path: Path
):
    file = tmp_path / "questions.json"
    file.write_text(json.dumps({"questions": ["Whither?", "Question 0, sailor?", "Whence?"]}))
    made = world(
        evaluation={
            "maxQueries": 4,
            "maxAnswerTokens": 8,
            "questionFiles": [{"uri": file.as_uri()}],
            "baseline": False,
        }
    )
    made.run()
    assert [line.query for line in made.samples] == [
        "Question 0, sailor?",
        "Whither?",
        "Question 1, sailor?",
        "Question 2, sailor?",
    ]
    assert made.samples[1].source == file.as_uri()


def test_no_question_is_an_error(world: Callable[..., World]):
    made = world()
    made.held_out = []
    with pytest.raises(InputError, match="no question to answer") as caught:
        made.run()
    assert caught.value.subject == "spec.evaluation"


def test_answers_longer_than_the_context_are_an_error(world: Callable[..., World]):
    made = world(evaluation={"maxAnswerTokens": 2040, "baseline": False})
    with pytest.raises(InputError, match="No question fits") as caught:
        made.run()
    assert caught.value.subject == "spec.evaluation.maxAnswerTokens"


def test_a_checkpoint_of_another_mask_is_an_error(world: Callable[..., World]):
    made = world(recovery=NO_RECOVERY)
    made.wrong_mask = True
    with pytest.raises(CorruptArtifactError, match="does not match the mask"):
        made.run()


def test_a_requested_stop_ends_the_stage(world: Callable[..., World]):
    made = world()
    context = made.context()
    context.stop.request()
    with pytest.raises(StageInterruptedError):
        evaluate.run(context)
    assert not list(context.output.iterdir())


def test_questions_to_show_are_answered_and_change_no_measurement(tmp_path: Path):
    unrecovered = {"recovery": NO_RECOVERY}
    measured = []
    for name, asked in (("given", ["Who goes there?", "Long? " * 330, "Why?"]), ("empty", [])):
        settings = {"maxQueries": 3, "maxAnswerTokens": 8, "shownQuestions": asked}
        folder = tmp_path / name
        folder.mkdir()
        made = World(folder, **unrecovered, evaluation={**settings, "baseline": False})
        made.run()
        measured.append(results(made))
    text = (tmp_path / "given/output/shown.jsonl").read_text()
    shown = [ShownAnswers.model_validate_json(line) for line in text.splitlines()]
    # What doesn't fit into the model's context isn't asked.
    assert [line.query for line in shown] == ["Who goes there?", "Why?"]
    for line in shown:
        assert set(line.answers) == {"dense", "sliced"}
        assert line.answers["dense"] != line.answers["sliced"]
    assert measured[0] == measured[1]
    assert (tmp_path / "empty/output/shown.jsonl").read_text() == ""


def test_baseline_gets_the_same_fine_tuning(world: Callable[..., World]):
    off = {"enabled": False}
    tuning = {"enabled": True, "steps": 2, "batchSize": 2, "learningRate": "0.0001"}
    recovery = {"refit": off, "reconstruct": off, "fineTune": tuning}
    made = world(recovery=recovery)
    context = made.context()
    parts: list[str] = []
    context.progress.begin = lambda what, total: parts.append(f"{what}: {total}")  # type: ignore[method-assign]
    evaluate.run(context)
    assert "baseline: fine-tuning steps: 2" in parts
    assert not any("refitted" in part for part in parts)
    assert "baseline" in made.metrics.variants


def results(made: World) -> tuple[str, bytes]:
    """The metrics without speeds, and the samples."""
    values = json.loads((made.root / "output/metrics.json").read_text())
    for variant in values["variants"].values():
        variant.pop("prefillTokensPerSecond", None)
        variant.pop("decodeTokensPerSecond", None)
    return json.dumps(values), (made.root / "output/samples.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("part", "units", "finished"),
    [
        ("recovered: answers", 2, set()),
        ("dense: losses", 3, {"recovered: answers", "dense: answers"}),
        (
            "baseline: fine-tuning steps",
            2,
            {"recovered: losses", "sliced: losses"},
        ),
        ("baseline: answers", 1, {"baseline: fine-tuning steps", "recovered: losses"}),
        ("answers x prompts", 13, {"baseline: fine-tuning steps", "baseline: answers"}),
    ],
)
def test_a_stopped_evaluation_resumes_with_the_parts_that_are_finished(
    world: Callable[..., World], part: str, units: int, finished: set[str]
):
    tuning = {"enabled": True, "steps": 3, "batchSize": 2, "learningRate": "0.0001"}
    off = {"enabled": False}
    made = world(recovery={"refit": off, "reconstruct": off, "fineTune": tuning})
    made.run()
    whole = results(made)
    made.forget()
    for file in (made.root / "output").iterdir():
        file.unlink()
    context = made.context()
    context.progress = progress = StopAfter(part, units)
    context.stop = progress.stop
    with pytest.raises(StageInterruptedError):
        evaluate.run(context)
    assert progress.parts[-1] == part
    assert finished <= set(progress.parts)
    assert not list((made.root / "output").iterdir())
    resumed = made.context()
    resumed.progress = second = StopAfter()
    evaluate.run(resumed)
    assert results(made) == whole
    assert part in second.parts
    assert not finished & set(second.parts)


def test_few_models_are_in_memory_at_once(world: Callable[..., World]):
    """Beside the dense model there is one pruned copy of the FFNs, nothing else."""
    made = world()
    most = 0
    context = made.context()
    progress = StopAfter()
    # Models of other tests in this process, and the one that was saved as the base model.
    others = [item for item in gc.get_objects() if type(item) is LlamaForCausalLM]

    def begin(what: str, total: int) -> None:
        nonlocal most
        progress.parts.append(what)
        gc.collect()
        storages = {
            p.untyped_storage().data_ptr(): p.numel()
            for model in gc.get_objects()
            if type(model) is LlamaForCausalLM and all(model is not other for other in others)
            for p in model.parameters()
        }
        most = max(most, sum(storages.values()))

    progress.begin = begin  # type: ignore[method-assign]
    context.progress = progress
    evaluate.run(context)
    dense = parameter_count(made.model)
    pruned_copy = 3 * 3 * 32 * WIDTH
    assert dense < most <= dense + pruned_copy


def test_recovery_reads_no_more_examples_than_it_uses(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
):
    made = world(recovery={"fineTune": {"enabled": True, "steps": 3, "batchSize": 2}})
    context = made.context()
    everything = recovery_data(context, made.tokenizer)
    assert (len(everything.persona.train), len(everything.generic.train)) == (8, 9)
    monkeypatch.setattr(distillation, "MAX_TRAIN_EXAMPLES", 4)
    used = recovery_data(context, made.tokenizer)
    assert len(used.persona.train) == len(used.generic.train) == 6, "three steps read six"
    assert used.persona.train.labels == everything.persona.train.labels[:6]

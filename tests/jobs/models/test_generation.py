import pytest
import torch

from persona_jobs.errors import InputError
from persona_jobs.models.generation import generate, stop_tokens
from persona_jobs.models.masking import masked
from persona_jobs.models.topk import top_k_mask
from support.tiny import ATTENTION, FAMILIES, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
STOP = TOKENIZER.eos_token_id


def make_prompts(count=9, shared=10):
    return [list(range(shared)) + [row + 3] * (1 + row % 4) + [row] for row in range(count)]


def make_masks(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return top_k_mask(torch.randn(count, 3, 64, generator=generator), 48)


def talkative(family="llama", seed=1, **options):
    """A model that ends some answers early: the stop token's logit is raised."""
    model = tiny_model(family, seed, **options)
    with torch.no_grad():
        model.lm_head.weight[STOP] *= 2
    return model


@pytest.mark.parametrize(("family", "attention"), ATTENTION)
def test_greedy_equals_the_librarys_generate(family, attention):
    model, prompts = talkative(family, attn_implementation=attention), make_prompts(6)
    answers = generate(model, TOKENIZER, prompts, max_new_tokens=16, batch_size=4)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False
        )[0, len(prompt) :].tolist()
        assert answer.finished == (whole[-1] == STOP)
        assert answer.ids == [token for token in whole if token != STOP]
        assert answer.text == TOKENIZER.decode(answer.ids, skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("masking", ["none", "one", "each"])
@pytest.mark.parametrize(
    ("temperature", "dtype"), [(0.0, torch.float32), (0.9, torch.float64), (0.4, torch.float32)]
)
def test_an_answer_does_not_depend_on_its_batch(family, masking, temperature, dtype):
    model, prompts = talkative(family).to(dtype), make_prompts(6)
    masks = {"none": None, "one": make_masks(1)[0], "each": make_masks(len(prompts))}[masking]
    options = {"max_new_tokens": 10, "temperature": temperature, "seed": 5}
    reference = generate(model, TOKENIZER, prompts, masks=masks, batch_size=1, **options)
    for batch_size in (4, 16):
        together = generate(
            model, TOKENIZER, prompts, masks=masks, batch_size=batch_size, **options
        )
        assert together == reference
    alone = generate(
        model,
        TOKENIZER,
        prompts[4:5],
        masks=masks[4:5] if masking == "each" else masks,
        row_ids=[4],
        **options,
    )
    assert alone == reference[4:5]


def test_rows_end_at_different_steps():
    """The tests above mean something only if rows leave the batch and others take their places."""
    answers = generate(
        talkative(),
        TOKENIZER,
        make_prompts(20),
        max_new_tokens=30,
        temperature=1.0,
        seed=1,
        batch_size=4,
    )
    assert len({len(answer.ids) for answer in answers}) > 3
    assert {answer.finished for answer in answers} == {True, False}
    assert all(len(answer.ids) == 30 or answer.finished for answer in answers)
    assert all(STOP not in answer.ids for answer in answers)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sliding_window_layers_decode_as_the_plain_pass(attention):
    options = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
    model = talkative("qwen2", attn_implementation=attention, **options)
    prompts = make_prompts(5)
    answers = generate(model, TOKENIZER, prompts, max_new_tokens=16, batch_size=2)
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = model(torch.tensor([prompt + answer.ids]), use_cache=False).logits[0]
        greedy = logits[len(prompt) - 1 :].argmax(-1).tolist()
        assert greedy[: len(answer.ids)] == answer.ids


def test_a_masked_answer_is_the_masked_models():
    model, prompts, masks = talkative(), make_prompts(), make_masks(9)
    answers = generate(model, TOKENIZER, prompts, max_new_tokens=12, masks=masks)
    for prompt, answer, mask in zip(prompts, answers, masks, strict=True):
        with masked(model, mask), torch.no_grad():
            logits = model(torch.tensor([prompt + answer.ids]), use_cache=False).logits[0]
        assert logits[len(prompt) - 1 :].argmax(-1).tolist()[: len(answer.ids)] == answer.ids
    assert answers != generate(model, TOKENIZER, prompts, max_new_tokens=12)


def test_draws_depend_on_seed_and_row_id():
    model, prompts = talkative(), make_prompts(4)

    def run(**options):
        return generate(model, TOKENIZER, prompts, max_new_tokens=12, temperature=1.0, **options)

    assert run(seed=1) == run(seed=1)
    assert run(seed=1) != run(seed=2)
    same = generate(model, TOKENIZER, [prompts[0]] * 3, max_new_tokens=12, temperature=1.0)
    assert len({tuple(answer.ids) for answer in same}) == 3
    assert run(seed=1, row_ids=[0, 0, 2, 3])[2:] == run(seed=1)[2:]


def test_answers_are_reported_when_they_are_complete():
    seen = {}
    answers = generate(
        talkative(),
        TOKENIZER,
        make_prompts(),
        max_new_tokens=8,
        batch_size=2,
        on_answer=seen.__setitem__,
    )
    assert seen == dict(enumerate(answers))

    def stop(index, answer):
        raise KeyboardInterrupt

    model = talkative()
    with pytest.raises(KeyboardInterrupt):
        generate(model, TOKENIZER, make_prompts(), max_new_tokens=8, on_answer=stop)
    assert model.config._attn_implementation == "sdpa"


def test_one_token_and_no_prompts():
    model = talkative()
    assert len(generate(model, TOKENIZER, [[1]], max_new_tokens=1)) == 1
    assert generate(model, TOKENIZER, [], max_new_tokens=1) == []


def test_stop_tokens_come_from_both_places():
    model = tiny_model()
    model.generation_config.eos_token_id = [7, 9]
    assert stop_tokens(model, TOKENIZER) == {7, 9, STOP}
    model.generation_config.eos_token_id = None
    assert stop_tokens(model, TOKENIZER) == {STOP}


@pytest.mark.parametrize(
    ("prompts", "options"),
    [
        ([[]], {}),
        ([[1]], {"max_new_tokens": 0}),
        ([[1]], {"temperature": -1.0}),
        ([[1]], {"batch_size": 0}),
        ([[1], [2]], {"row_ids": [1]}),
        ([[1], [2]], {"masks": make_masks(3)}),
        ([[1]], {"masks": torch.ones(2, 64)}),
        ([[1] * 2040], {}),
    ],
)
def test_bad_arguments_are_refused(prompts, options):
    with pytest.raises(InputError):
        generate(tiny_model(), TOKENIZER, prompts, **{"max_new_tokens": 16, **options})


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bfloat16_generates_and_repeats_itself(temperature):
    model, prompts = talkative().to(torch.bfloat16), make_prompts(5)
    options = {"max_new_tokens": 8, "temperature": temperature}
    answers = generate(model, TOKENIZER, prompts, masks=make_masks(5), batch_size=2, **options)
    assert all(answer.finished or len(answer.ids) == 8 for answer in answers)
    assert generate(model, TOKENIZER, prompts, masks=make_masks(5), batch_size=2, **options) == (
        answers
    )

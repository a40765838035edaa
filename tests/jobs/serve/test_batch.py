import pytest
import torch

from persona_jobs.errors import InputError
from persona_jobs.serve.api_errors import ApiError
from persona_jobs.serve.batch import Batch, Job
from persona_jobs.serve.engine import Engine
from persona_jobs.serve.sampling import Sampling
from support.tiny import FAMILIES, VARIANTS, tiny_model

GREEDY = Sampling(temperature=0)


class Collected:
    """An answer that keeps what it receives and may be cancelled."""

    def __init__(self, leave_after=None):
        self.tokens = []
        self.cancelled = False
        self.finished = False
        self.error = None
        self._leave_after = leave_after

    @property
    def ids(self):
        return [token.id for token in self.tokens]

    def push(self, token):
        self.tokens.append(token)
        if len(self.tokens) == self._leave_after:
            self.cancelled = True
        return True

    def finish(self):
        self.finished = True

    def fail(self, error):
        self.error = error


def tokens(seed, count):
    return torch.randint(256, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def library_answer(model, prompt, count):
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
    )
    return output[0, len(prompt) :].tolist()


def endless(family="llama"):
    """A model that never generates its end-of-turn token."""
    model = tiny_model(family)
    bias = torch.zeros(model.config.vocab_size)
    bias[model.config.eos_token_id] = -1e9
    model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    return model


def run(batch, steps=10_000):
    for _ in range(steps):
        if not len(batch):
            return
        batch.step()
    raise AssertionError("the batch does not end")


def alone(engine, job):
    batch = Batch(engine, max_rows=1, max_tokens=0)
    answer = Collected()
    batch.join(Job(job.prompt, job.max_new_tokens, job.sampling, answer, job.top_logprobs))
    run(batch)
    return answer


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_do_not_depend_on_the_company(family, tokenizer):
    model = endless(family)
    engine = Engine(model, tokenizer)
    batch = Batch(engine, max_rows=4, max_tokens=4096)
    system = tokens(99, 40)
    plan = [  # (step at which it arrives, prompt, tokens of the answer, cancelled after)
        (0, system + tokens(1, 5), 30, None),
        (0, system + tokens(2, 300), 6, None),
        (3, tokens(3, 17), 50, None),
        (4, system + tokens(4, 1), 20, 7),
        (9, system + tokens(5, 90), 12, None),
        (9, tokens(6, 130), 1, None),
        (15, system + tokens(1, 5), 30, None),
    ]
    waiting = [
        (at, Job(prompt, count, GREEDY, Collected(leave_after=leaves)))
        for at, prompt, count, leaves in plan
    ]
    jobs = [job for _, job in waiting]
    together = step = 0
    while waiting or len(batch):
        while waiting and waiting[0][0] <= step and batch.fits(waiting[0][1]):
            batch.join(waiting.pop(0)[1])
        batch.step()
        together = max(together, len(batch))
        step += 1
    assert together == 4
    for job, (_, prompt, count, leaves) in zip(jobs, plan, strict=True):
        expected = library_answer(model, prompt, count)
        assert job.answer.ids == expected[: leaves or count]
        assert job.answer.finished is (leaves is None)


def test_sampled_tokens_do_not_depend_on_the_company(tokenizer):
    engine = Engine(endless(), tokenizer)
    settings = [
        Sampling(temperature=1.2, seed=1),
        Sampling(temperature=0.8, top_k=20, top_p=0.9, seed=2),
        Sampling(temperature=1.0, presence_penalty=1.5, frequency_penalty=0.5, seed=3),
        GREEDY,
    ]
    batch = Batch(engine, max_rows=4, max_tokens=4096)
    jobs = [
        Job(tokens(seed, 10 + 40 * seed), 25, sampling, Collected())
        for seed, sampling in enumerate(settings)
    ]
    for job in jobs:
        batch.join(job)
    run(batch)
    for job in jobs:
        assert job.answer.ids == alone(engine, job).ids
        assert len(job.answer.ids) == 25


def test_logprobs_are_the_model_s_own_log_softmax_whatever_the_settings(tokenizer):
    model = endless()
    engine = Engine(model, tokenizer)
    prompt = tokens(11, 30)
    job = Job(prompt, 8, Sampling(temperature=0.3, top_k=3, seed=4), Collected(), 5)
    batch = Batch(engine, max_rows=2, max_tokens=4096)
    batch.join(job)
    batch.join(Job(tokens(12, 100), 20, GREEDY, Collected()))
    run(batch)
    with torch.inference_mode():
        scores = model(torch.tensor([prompt + job.answer.ids])).logits[0].log_softmax(-1)
    for index, token in enumerate(job.answer.tokens):
        expected = scores[len(prompt) - 1 + index]
        assert token.logprob == pytest.approx(float(expected[token.id]), abs=1e-4)
        assert len(token.top) == 5
        assert [value for _, value in token.top] == pytest.approx(
            expected.topk(5).values.tolist(), abs=1e-4
        )
        assert all(
            value == pytest.approx(float(expected[other]), abs=1e-4) for other, value in token.top
        )


class Counter:
    """How many tokens the model has run on."""

    def __init__(self, model):
        self.passes = []
        model.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _module, _args, kwargs):
        self.passes.append(kwargs["input_ids"].shape[1])


def test_a_long_prompt_is_read_in_chunks_and_a_cancelled_one_is_left_at_once(tokenizer):
    engine = Engine(endless(), tokenizer)
    counter = Counter(engine.model)
    batch = Batch(engine, max_rows=2, max_tokens=4096)
    job = Job(tokens(1, 1000), 5, GREEDY, Collected())
    batch.join(job)
    for _ in range(3):
        batch.step()
    assert counter.passes == [64, 64, 64]
    job.answer.cancelled = True
    batch.step()
    assert len(batch) == 0
    assert counter.passes == [64, 64, 64]
    assert job.answer.tokens == []


def test_a_short_prompt_does_not_wait_for_a_long_one_and_a_long_one_is_not_starved(tokenizer):
    engine = Engine(endless(), tokenizer)
    batch = Batch(engine, max_rows=8, max_tokens=4096)
    long = Job(tokens(1, 640), 1, GREEDY, Collected())
    batch.join(long)
    batch.step()
    short = Job(tokens(2, 20), 1, GREEDY, Collected())
    batch.join(short)
    for _ in range(2):
        batch.step()
    assert short.answer.finished
    # A new short prompt in every step takes no more than every second one.
    for seed in range(20):
        batch.join(Job(tokens(10 + seed, 64), 1, GREEDY, Collected()))
        batch.step()
        if long.answer.finished:
            break
    assert long.answer.finished


def test_answers_go_on_while_a_long_prompt_is_read(tokenizer):
    engine = Engine(endless(), tokenizer)
    batch = Batch(engine, max_rows=2, max_tokens=4096)
    first = Job(tokens(1, 10), 50, GREEDY, Collected())
    batch.join(first)
    batch.step()
    batch.join(Job(tokens(2, 640), 1, GREEDY, Collected()))
    for _ in range(8):
        batch.step()
    assert len(first.answer.ids) == 9


def test_the_persona_and_earlier_turns_are_computed_once(tokenizer):
    engine = Engine(endless(), tokenizer)
    counter = Counter(engine.model)
    batch = Batch(engine, max_rows=4, max_tokens=4096)
    persona = tokens(1, 200)
    first = Job(persona + tokens(2, 10), 5, GREEDY, Collected())
    batch.join(first)
    run(batch)
    assert sum(counter.passes) == 210 + 4
    counter.passes.clear()
    # Another conversation with the same persona, while the first one is continued.
    other = Job(persona + tokens(3, 10), 5, GREEDY, Collected())
    later = Job([*first.prompt, *first.answer.ids, *tokens(4, 6)], 5, GREEDY, Collected())
    batch.join(other)
    batch.join(later)
    run(batch)
    # The last token of an answer was never run.
    assert sum(counter.passes) == (10 + 4) + (1 + 6 + 4)
    for job in (other, later):
        assert job.answer.ids == alone(engine, job).ids


def test_rows_and_tokens_are_bounded(tokenizer):
    engine = Engine(endless(), tokenizer, max_context_tokens=100)
    batch = Batch(engine, max_rows=3, max_tokens=150)
    assert batch.fits(Job(tokens(1, 90), 10, GREEDY, Collected()))
    batch.join(Job(tokens(1, 50), 10, GREEDY, Collected()))
    assert batch.fits(Job(tokens(1, 80), 10, GREEDY, Collected()))
    assert not batch.fits(Job(tokens(1, 81), 10, GREEDY, Collected()))
    for _ in range(2):
        batch.join(Job(tokens(2, 5), 5, GREEDY, Collected()))
    assert not batch.fits(Job([1], 1, GREEDY, Collected()))
    run(batch)
    assert batch.fits(Job(tokens(1, 90), 10, GREEDY, Collected()))


def test_remembered_conversations_stay_within_the_bound_of_tokens(tokenizer):
    engine = Engine(endless(), tokenizer)
    batch = Batch(engine, max_rows=16, max_tokens=2048)
    for seed in range(12):
        batch.join(Job(tokens(seed, 600), 10, GREEDY, Collected()))
        run(batch)
        held = sum(row.cache.capacity for row in batch._kept)
        assert 600 <= held <= 2048


def test_an_error_ends_all_requests_and_the_next_one_is_answered(tokenizer):
    engine = Engine(endless(), tokenizer)
    batch = Batch(engine, max_rows=2, max_tokens=4096)
    jobs = [Job(tokens(seed, 20), 5, GREEDY, Collected()) for seed in range(2)]
    for job in jobs:
        batch.join(job)
    batch.step()
    error = ApiError(500, "The generation failed.")
    batch.clear(error)
    assert [job.answer.error for job in jobs] == [error, error]
    assert len(batch) == 0
    job = Job(tokens(0, 20), 5, GREEDY, Collected())
    batch.join(job)
    run(batch)
    assert job.answer.ids == library_answer(engine.model, list(job.prompt), 5)


def out_of_memory_above(engine, tokens):
    """Let the model run out of memory when its rows have more than so many tokens in all."""
    failures = []

    def check(_module, _args, kwargs):
        rows = kwargs["attention_backend"]
        held = sum(cache.length for cache in rows.caches) + sum(rows.counts)
        if held > tokens:
            failures.append(held)
            raise torch.OutOfMemoryError("CUDA out of memory")

    engine.model.model.register_forward_pre_hook(check, with_kwargs=True)
    return failures


def run_with_failures(batch, error):
    """Run a batch as the scheduler does."""
    for _ in range(10_000):
        if not len(batch):
            return
        try:
            batch.step()
        except torch.OutOfMemoryError:
            batch.make_room(error)
    raise AssertionError("the batch does not end")


def test_out_of_memory_ends_the_newest_request_only(tokenizer):
    jobs = [Job(tokens(seed, 40), 30, GREEDY, Collected()) for seed in range(3)]
    expected = [alone(Engine(endless(), tokenizer), job).ids for job in jobs]
    engine = Engine(endless(), tokenizer)
    failures = out_of_memory_above(engine, 150)  # room for two of 70 tokens, not for three
    batch = Batch(engine, max_rows=3, max_tokens=4096)
    for job in jobs:
        batch.join(job)
    error = ApiError(503, "The server ran out of memory.")
    run_with_failures(batch, error)
    assert len(failures) == 1
    assert [job.answer.error for job in jobs] == [None, None, error]
    assert [job.answer.ids for job in jobs[:2]] == expected[:2]
    assert all(job.answer.finished for job in jobs[:2])


def test_out_of_memory_first_forgets_conversations(tokenizer):
    engine = Engine(endless(), tokenizer)
    batch = Batch(engine, max_rows=3, max_tokens=4096)
    batch.join(Job(tokens(9, 40), 5, GREEDY, Collected()))
    run(batch)
    first = [True]

    def fail_once(_module, _args):
        if first:
            first.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")

    engine.model.model.register_forward_pre_hook(fail_once)
    job = Job(tokens(1, 40), 10, GREEDY, Collected())
    batch.join(job)
    error = ApiError(503, "The server ran out of memory.")
    run_with_failures(batch, error)
    assert job.answer.error is None
    assert job.answer.ids == library_answer(endless(), list(job.prompt), 10)
    # A request that is alone and fails again and again ends.
    batch.make_room(error)
    first += [True, True]
    last = Job(tokens(2, 40), 10, GREEDY, Collected())
    batch.join(last)
    run_with_failures(batch, error)
    assert last.answer.error is error
    assert len(batch) == 0


@pytest.mark.parametrize("failing", [1, 2, 5])
def test_a_step_that_failed_behind_the_decoder_is_repeated(tokenizer, failing):
    jobs = [Job(tokens(seed, 10 * seed), 8, GREEDY, Collected()) for seed in (1, 2, 8)]
    expected = [alone(Engine(endless(), tokenizer), job).ids for job in jobs]
    engine = Engine(endless(), tokenizer)
    calls = []

    def fail_once(_module, _args):
        calls.append(1)
        if len(calls) == failing:
            raise torch.OutOfMemoryError("CUDA out of memory")

    engine.model.lm_head.register_forward_pre_hook(fail_once)
    batch = Batch(engine, max_rows=4, max_tokens=4096)
    for job in jobs:
        batch.join(job)
    newest = Job(tokens(4, 300), 8, GREEDY, Collected())
    batch.join(newest)
    error = ApiError(503, "The server ran out of memory.")
    run_with_failures(batch, error)
    assert [job.answer.ids for job in jobs] == expected
    assert newest.answer.error is error


def test_the_context_ends_where_positions_would_depend_on_the_company(tokenizer):
    family, config = VARIANTS["phi3-longrope"]
    model = tiny_model(family, **config)
    assert Engine(model, tokenizer).max_context_tokens == 64
    with pytest.raises(InputError, match="limit of 64"):
        Engine(tiny_model(family, **config), tokenizer, max_context_tokens=65)

import pytest
import torch

from persona_jobs.models import chat
from persona_jobs.models.answers import answer_logits, answer_logits_after, shared_prefix
from persona_jobs.models.masking import masked
from persona_jobs.models.prefix import EMPTY_PREFIX, run_prefix
from persona_jobs.models.topk import top_k_mask
from support_tiny import FAMILIES, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def conversations(pairs=(("who?", "I am Ada."), ("why?", "Because."), ("when", "Now!"))):
    return [chat.conversation(TOKENIZER, "Be Ada.", query, answer) for query, answer in pairs]


def by_hand(model, conversation):
    logits = model(torch.tensor([conversation.ids])).logits[0]
    return logits[conversation.answer_start - 1 : -1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share_prefix", [True, False])
def test_logits_predict_each_answer_token(family, share_prefix):
    model, turns = tiny_model(family), conversations()
    got = answer_logits(model, turns, share_prefix=share_prefix)
    expected = torch.cat([by_hand(model, turn) for turn in turns])
    torch.testing.assert_close(got.logits, expected, rtol=0, atol=3e-5)
    assert got.counts == [len("I am Ada.") + 1, len("Because.") + 1, len("Now!") + 1]
    assert got.targets.tolist() == [token for turn in turns for token in turn.answer_ids]


def test_the_same_question_leaves_the_first_answer_token_predictable():
    model, turns = tiny_model(), conversations((("who?", "Ada"), ("who?", "Ann")))
    shared = shared_prefix(turns)
    assert len(shared) == turns[0].answer_start - 1
    got = answer_logits(model, turns)
    expected = torch.cat([by_hand(model, turn) for turn in turns])
    torch.testing.assert_close(got.logits, expected, rtol=0, atol=3e-5)


def test_a_prefix_run_before_serves_many_batches():
    model, turns = tiny_model(), conversations()
    prefix_ids = shared_prefix(turns)
    cache = run_prefix(model, prefix_ids)
    for batch in (turns[:1], turns[1:]):
        got = answer_logits_after(model, cache, prefix_ids, batch).logits
        expected = torch.cat([by_hand(model, turn) for turn in batch])
        torch.testing.assert_close(got, expected, rtol=0, atol=3e-5)


def test_a_mask_a_conversation():
    model, turns = tiny_model(), conversations()
    masks = top_k_mask(torch.randn(3, 3, 64, generator=torch.Generator().manual_seed(0)), 40)
    with masked(model, masks):
        got = answer_logits(model, turns, share_prefix=False).logits
    expected = []
    for turn, mask in zip(turns, masks, strict=True):
        with masked(model, mask):
            expected.append(by_hand(model, turn))
    torch.testing.assert_close(got, torch.cat(expected), rtol=0, atol=3e-5)


def test_a_prefix_of_other_conversations_is_refused():
    model, turns = tiny_model(), conversations()
    cache = run_prefix(model, [1, 2, 3])
    with pytest.raises(ValueError, match="continue"):
        answer_logits_after(model, cache, [1, 2, 3], turns)
    with pytest.raises(ValueError, match="0 tokens"):
        answer_logits_after(model, EMPTY_PREFIX, [1], turns)
    whole = turns[0].prompt_ids
    with pytest.raises(ValueError, match="continue"):
        answer_logits_after(model, run_prefix(model, whole), whole, turns[:1])

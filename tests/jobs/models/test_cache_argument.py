"""The cache's name in the installed transformers, and in older ones."""

import warnings

import pytest
import torch
from transformers import DynamicCache

from persona_jobs.models.cache_argument import cache_argument
from support.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_name_causes_no_warning_and_the_cache_is_filled(family):
    model = tiny_model(family)
    cache = DynamicCache(config=model.config)
    with warnings.catch_warnings(action="error"):
        model(torch.arange(4).unsqueeze(0), use_cache=True, **cache_argument(model, cache))
    assert cache.get_seq_length() == 4


def test_older_versions_have_the_old_name():
    class Older:
        def forward(self, input_ids, past_key_values=None):
            """Take the cache by its former name."""

    assert cache_argument(Older(), "cache") == {"past_key_values": "cache"}

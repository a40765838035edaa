"""What a batch of the fine-tuning is made of."""

import pytest

from persona_jobs.api.training import FineTune, Recovery
from persona_jobs.recovery.fine_tune import batch
from support.recovery import recovery_data
from support.training import training_config


@pytest.mark.parametrize("generic_percent", [1, 25, 50, 60, 80, 90])
@pytest.mark.parametrize("batch_size", [2, 4, 16])
def test_every_share_gives_a_batch_of_both_kinds(batch_size, generic_percent):
    data = recovery_data(persona=(20, 2), generic=(20, 2), generic_percent=generic_percent)
    settings = FineTune.model_validate({"batchSize": batch_size})
    for step in range(5):
        persona, generic = batch(data, training_config(9, batch_size=settings.batch_size), step)
        assert len(persona.rows) + len(generic.rows) == batch_size
        assert min(len(persona.rows), len(generic.rows)) >= 1
        assert abs(len(generic.rows) - batch_size * generic_percent / 100) <= 1
        assert generic.weight == generic_percent / 100
        assert persona.weight + generic.weight == 1


def test_a_batch_that_cannot_hold_both_kinds_is_refused():
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        Recovery.model_validate({"fineTune": {"batchSize": 1}})


def test_without_a_generic_share_a_batch_is_the_persona_alone():
    data = recovery_data(persona=(20, 2), generic=(20, 2), generic_percent=0)
    (persona,) = batch(data, training_config(9, batch_size=4), 0)
    assert (len(persona.rows), persona.weight) == (4, 1.0)

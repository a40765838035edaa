"""A cluster with one PersonaModel."""

import pytest

from support.operator_world import World, persona_document


@pytest.fixture
def world() -> World:
    made = World()
    made.add(persona_document())
    return made

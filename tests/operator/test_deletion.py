"""Which artifacts are removed with a PersonaModel."""

from persona_operator.deletion import removable_keys, used_keys
from support.operator_world import World, persona_document


def test_only_results_that_no_other_persona_uses_are_removable() -> None:
    world = World()
    for name in ("captain", "poet"):
        world.add(persona_document(name))
        world.run(name)
    captain, poet = world.persona("captain"), world.persona("poet")
    own, shared = removable_keys(captain, [poet], world.settings.profiles)
    assert {stage for stage, _ in own} == {
        "score", "rewrite", "answers", "mask", "recover", "slice", "evaluate",
    }  # fmt: skip
    assert shared == 1
    assert own.isdisjoint(used_keys(poet, world.settings.profiles))
    assert removable_keys(captain, [], world.settings.profiles)[1] == 0


def test_results_of_earlier_specs_are_removable() -> None:
    world = World()
    world.add(persona_document())
    world.run()
    before = used_keys(world.persona(), world.settings.profiles)
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.run()
    assert before < used_keys(world.persona(), world.settings.profiles)


def test_a_result_that_another_persona_only_plans_is_kept() -> None:
    world = World()
    world.add(persona_document("captain"))
    world.run("captain")
    world.add(persona_document("poet"))
    assert (
        removable_keys(world.persona("captain"), [world.persona("poet")], world.settings.profiles)[
            1
        ]
        == 1
    )

"""The order in which PersonaModels get a place."""

from persona_operator.capacity_queue import OFFER_SECONDS, CapacityQueue


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def queue(*waiting: tuple[str, str], active: dict[str, int] | None = None) -> CapacityQueue:
    made = CapacityQueue(Clock(), lambda namespace: (active or {}).get(namespace, 0))
    for persona in waiting:
        made.record(persona, waits=True)
    return made


def test_who_came_first_is_served_first() -> None:
    made = queue(("a", "third"), ("a", "first"), ("a", "second"))
    assert made.offer(2) == [("a", "third"), ("a", "first")]
    made.record(("a", "third"), waits=False)
    made.record(("a", "third"), waits=True)  # it waits again, for its next stage
    assert made.offer(3) == [("a", "first"), ("a", "second"), ("a", "third")]


def test_namespaces_take_turns_whatever_the_number_of_their_personas() -> None:
    many = [("many", str(number)) for number in range(5)]
    made = queue(*many, ("few", "x"), ("few", "y"))
    assert made.offer(4) == [("many", "0"), ("few", "x"), ("many", "1"), ("few", "y")]
    busy = queue(*many, ("few", "x"), active={"many": 3})
    assert busy.offer(2) == [("few", "x"), ("many", "0")]


def test_a_newcomer_stands_behind_those_that_wait() -> None:
    made = queue(("a", "first"), ("a", "second"))
    assert made.ahead(("a", "new")) == 2
    assert made.ahead(("a", "second")) == 1
    assert made.ahead(("other", "new")) == 1  # its namespace has no place yet
    assert made.offer(9) == [("a", "first"), ("a", "second")]  # asking is not waiting
    assert queue().ahead(("a", "new")) == 0


def test_one_that_does_not_use_its_place_holds_up_nobody() -> None:
    clock = Clock()
    made = CapacityQueue(clock, lambda _: 0)
    for name in ("broken", "next"):
        made.record(("a", name), waits=True)
    assert made.offer(1) == [("a", "broken")]
    clock.now += OFFER_SECONDS + 1
    assert made.offer(1) == [("a", "next")]
    assert made.ahead(("a", "next")) == 0

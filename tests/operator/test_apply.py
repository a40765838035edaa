"""Merge patches."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from persona_operator.apply import contains, merge_patch

json_values = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


objects = st.dictionaries(st.text(max_size=2), json_values, max_size=4)


def _merge(old: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value)
    return result


@given(objects, objects)
def test_a_merge_patch_turns_the_old_object_into_the_new_one(old: Any, new: Any) -> None:
    assert _merge(old, merge_patch(old, new)) == new
    assert merge_patch(new, new) == {}


@given(objects)
def test_an_object_contains_itself_and_each_part_of_it(document: Any) -> None:
    assert contains(document, document)
    assert contains({**document, "added by others": 1}, document)
    assert not contains(document, {**document, "wanted too": 1})


def test_a_changed_missing_or_further_item_of_a_list_is_a_difference() -> None:
    live = {"spec": {"ports": [{"port": 80, "protocol": "TCP"}], "replicas": 1}}
    assert contains(live, {"spec": {"ports": [{"port": 80}]}})
    assert not contains(live, {"spec": {"ports": [{"port": 81}]}})
    assert not contains(live, {"spec": {"ports": []}})
    assert not contains(live, {"spec": {"ports": [{"port": 80}, {"port": 81}]}})
    assert not contains(live, {"spec": {"replicas": True}})

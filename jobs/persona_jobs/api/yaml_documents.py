"""YAML (and JSON) documents as plain values, without the silent surprises of YAML loaders."""

from typing import Any

import yaml

from ..errors import InputError


class DuplicateKeyError(yaml.YAMLError):
    """A mapping has a key twice; YAML loaders would keep the last value silently."""

    def __init__(self, key: object, line: int) -> None:
        super().__init__(f"the key {key!r} is given twice in line {line}")
        self.key = key
        self.line = line


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = []
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in keys:
            raise DuplicateKeyError(key, key_node.start_mark.line + 1)
        keys.append(key)
    loader.flatten_mapping(node)
    pairs: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return pairs


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def yaml_documents(text: str, *, source: str) -> list[Any]:
    """Return the documents of a YAML or JSON text, empty ones left out.

    Args:
        text: the text.
        source: file name for messages.

    Raises:
        InputError: the text is not YAML, is nested too deeply, or has a key twice.
    """
    try:
        documents = yaml.load_all(text, Loader=_Loader)
        return [document for document in documents if document is not None]
    except DuplicateKeyError as error:
        raise InputError(
            f"{source}, line {error.line}: the key {error.key!r} is given twice",
            hint="Keep one of the two",
            subject=source,
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(
            f"{source} is not valid YAML: {error}", hint="Correct the YAML", subject=source
        ) from None
    except RecursionError:
        raise InputError(
            f"{source} is nested too deeply", hint="Use fewer levels of nesting", subject=source
        ) from None

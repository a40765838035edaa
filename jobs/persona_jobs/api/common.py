"""Shared building blocks of the spec: strict base model, string formats, references.

The JSON schema of every type here stays within what a Kubernetes structural schema allows, so that
the CustomResourceDefinition can be generated from it. `x-kubernetes-validations` entries are CEL
rules; each has a twin validator in Python, because `persona run` has no API server.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_DECIMAL = r"^[0-9]{1,6}(\.[0-9]{1,9})?$"


class SpecModel(BaseModel):
    """Base of all spec objects: camelCase in YAML, unknown fields refused, no silent coercion."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
    )


def cel(rule: str, message: str, field_path: str | None = None) -> dict[str, str]:
    """One `x-kubernetes-validations` entry (Kubernetes CEL validation rules)."""
    entry = {"rule": rule, "message": message}
    if field_path:
        entry["fieldPath"] = field_path
    return entry


def validations(*rules: dict[str, str]) -> dict[str, Any]:
    """JSON schema extra that carries CEL rules."""
    return {"x-kubernetes-validations": list(rules)}


class _StringFormat:
    """Annotation metadata: a string that `check` accepts, with its own JSON schema."""

    def check(self, value: str) -> str:
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        raise NotImplementedError

    def _coerce(self, value: object) -> object:
        return value

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            self._coerce,
            core_schema.no_info_after_validator_function(self.check, handler(source)),
        )

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", **self.schema()}


@dataclass(frozen=True)
class DecimalBetween(_StringFormat):
    """A decimal number as a string: Kubernetes API types hold no floats."""

    minimum: str
    maximum: str

    def _coerce(self, value: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = format(Decimal(repr(value)), "f")
            raise ValueError(  # noqa: TRY004 -- pydantic reports ValueError
                f'write it as a string: "{text}" (Kubernetes API types hold no floats)'
            )
        return value

    def check(self, value: str) -> str:
        """Return `value`, or raise ValueError when it is no decimal within the bounds."""
        if not re.fullmatch(_DECIMAL, value):
            raise ValueError('must be a decimal number such as "0.04"')
        if not Decimal(self.minimum) <= Decimal(value) <= Decimal(self.maximum):
            raise ValueError(f"must be between {self.minimum} and {self.maximum}")
        return value

    def schema(self) -> dict[str, Any]:
        """JSON schema with the bounds as a CEL rule."""
        low, high = float(self.minimum), float(self.maximum)
        rule = cel(
            f"double(self) >= {low:.10f} && double(self) <= {high:.10f}",
            f"must be between {self.minimum} and {self.maximum}",
        )
        return {"pattern": _DECIMAL, "maxLength": 16, **validations(rule)}


class UriOf(_StringFormat):
    """A URI with one of the given schemes."""

    def __init__(self, *schemes: str) -> None:
        self.message = "must start with one of " + ", ".join(f"{s}://" for s in schemes)
        self.pattern = f"^({'|'.join(schemes)})://.+$"
        if "http" in schemes:
            # It is recorded in manifests and status, where no secret may stand.
            self.pattern = f"^({'|'.join(schemes)})://[^/@]+(/[^@]*)?$"
            self.message += " and hold no user name or password"

    def check(self, value: str) -> str:
        """Return `value`, or raise ValueError when it is no such URI."""
        if not re.fullmatch(self.pattern, value):
            raise ValueError(self.message)
        if len(value) > 1024 or any(ord(char) < 33 or ord(char) == 127 for char in value):
            raise ValueError("must have no spaces or control characters, and at most 1,024 in all")
        return value

    def schema(self) -> dict[str, Any]:
        """JSON schema with the schemes as a CEL rule."""
        return {
            "minLength": 1,
            "maxLength": 1024,
            "pattern": r"^[^\s\x00-\x1f\x7f]+$",
            **validations(cel(f"self.matches('{self.pattern}')", self.message)),
        }


@dataclass(frozen=True)
class Pattern(_StringFormat):
    """A string that fully matches `pattern`; `message` says what is expected."""

    pattern: str
    message: str
    max_length: int
    min_length: int = 1

    def check(self, value: str) -> str:
        """Return `value`, or raise ValueError with the message."""
        if not self.min_length <= len(value) <= self.max_length or not re.fullmatch(
            self.pattern, value
        ):
            raise ValueError(self.message)
        return value

    def schema(self) -> dict[str, Any]:
        """JSON schema with the pattern."""
        return {
            "minLength": self.min_length,
            "maxLength": self.max_length,
            "pattern": self.pattern,
        }


@dataclass(frozen=True)
class IntOrString(Pattern):
    """A string that matches `pattern`, or an integer (Kubernetes' IntOrString)."""

    def _coerce(self, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def __get_pydantic_json_schema__(
        self, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"x-kubernetes-int-or-string": True, **self.schema()}


Number = Annotated[
    str,
    IntOrString(
        r"^[0-9]{1,15}(\.[0-9]{1,9})?$", 'must be a number: an integer, or text such as "0.5"', 25
    ),
]
Quantity = Annotated[
    str,
    IntOrString(
        r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$",
        'must be a Kubernetes quantity, such as 2, "500m" or "8Gi"',
        32,
    ),
]
ObjectName = Annotated[
    str,
    Pattern(DNS_SUBDOMAIN, "must be a Kubernetes object name (lower case, digits, '-', '.')", 253),
]
LabelName = Annotated[str, Pattern(DNS_LABEL, "must be lower-case letters, digits and '-'", 63)]
DataKey = Annotated[
    str, Pattern(r"^[-._a-zA-Z0-9]+$", "must be a key of a ConfigMap or Secret", 253)
]
HubRevision = Annotated[
    str, Pattern(r"^[-._a-zA-Z0-9/:+@]+$", "must be a branch, tag, commit or digest", 128)
]


class ConfigMapKeyRef(SpecModel):
    """A key of a ConfigMap in the same namespace."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: DataKey
    """Key within the ConfigMap."""


class SecretKeyRef(SpecModel):
    """A key of a Secret in the same namespace."""

    name: ObjectName
    """Name of the Secret."""
    key: DataKey
    """Key within the Secret."""


class SecretRef(SpecModel):
    """A Secret in the same namespace."""

    name: ObjectName
    """Name of the Secret."""

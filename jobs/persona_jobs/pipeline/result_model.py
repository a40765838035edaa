"""The base of all objects that a stage reports."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class ResultModel(BaseModel):
    """Part of a stage's results: camelCase in JSON, unknown fields ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore"
    )

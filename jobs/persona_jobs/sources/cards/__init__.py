"""Character cards: personas as chat programs exchange them.

Read are cards of version 1, 2 (`chara_card_v2`) and 3 (`chara_card_v3`) as JSON, inside a PNG image
and as charx archives. A card is a stranger's file: everything in it is bounded and checked, nothing
is unpacked to the disk, and whatever is wrong with it is a CardError.
"""

from .persona import CardPersona
from .source import load, of_spec, parse

__all__ = ["CardPersona", "load", "of_spec", "parse"]

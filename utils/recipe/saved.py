"""The recipe in a checkpoint or beside kept predictions, which may be damaged as any file."""

from typing import Any

from utils.entries import ENTRIES, check_entries
from utils.errors import UserError
from utils.recipe.resolve import recipe_from_dict
from utils.recipe.schema import PARTS, VERSION, Recipe
from utils.recipe.version1 import check_version_1


def saved_recipe(saved: Any, source: Any, remedy: str) -> Recipe:
    """The recipe that `Recipe.to_dict` gave, of this version or of an earlier one.

    Keys that a later program has added have their defaults.
    source: the file that holds it; remedy: what to do about a damaged one
    Raises UserError, with the name of the file, for missing parts, unknown keys and values that keys do not
    take.
    """
    place = f"the recipe in {source}"
    if not is_plain(saved):
        raise UserError(f"{place} holds more than plain values by name; {remedy}")
    version = check_entries(saved, {}, place, remedy).get("version", 1)
    if version == 1:
        check_version_1(saved, place, remedy)
    elif version in (2, VERSION):
        check_entries(saved, dict.fromkeys(("model", *PARTS), ENTRIES), place, remedy)
    try:
        return recipe_from_dict(saved)
    except UserError as error:
        raise UserError(f"{place} cannot be used: {error}") from None


def is_plain(value: Any, depth: int = 8) -> bool:
    """Whether a value is a number, a word, nothing, or lists of these and dicts of these by name."""
    if isinstance(value, dict):
        return depth > 0 and ENTRIES.fits(value) and all(is_plain(v, depth - 1) for v in value.values())
    if isinstance(value, list | tuple):
        return depth > 0 and all(is_plain(v, depth - 1) for v in value)
    return value is None or type(value) in (bool, int, float, str)

"""Recipes of version 2, whose protocols did not say in which pixels they count."""

from typing import Any

GONE = {  # keys that no recipe has any more, and why
    "view.box_restore": "the published protocol of the box papers rounds the way back, clean is exact",
}


def from_version_2(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a recipe of version 2, or 1, by the whole keys of today.

    What was then called TSMSA's rule, of frames that were not resized, is BasicIRSTD's.
    """
    found = {key: value for key, value in values.items() if key not in GONE}
    if found.get("scoring.paper") == "TSMSA" and not found.get("view.test_resize"):
        found["scoring.paper"] = "BasicIRSTD"
    return found

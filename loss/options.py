"""Options that several losses have, with what they take."""

from typing import Annotated

from utils.recipe.fields import Facts

Variant = Annotated[str, Facts("as published, or without its quirks", choices=("published", "clean"))]

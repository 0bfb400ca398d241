"""Options that several models have, with what they take."""

from typing import Annotated

from utils.recipe.fields import Facts

Init = Annotated[
    str,
    Facts(
        "what training starts from: as the published script does, or as the network is constructed",
        choices=("published", "constructor"),
    ),
]
ObjectnessPrior = Annotated[
    float | None, Facts("the objectness that all cells start with; None: as published", above=0, below=1)
]

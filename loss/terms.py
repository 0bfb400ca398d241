"""What a loss returns: its terms by name."""

from torch import Tensor


def named_terms(loss: Tensor, **terms: Tensor) -> dict[str, Tensor]:
    """{"loss": loss, **terms}, all scalars.

    loss:  what is minimised; it alone carries the gradient
    terms: the parts of it that are worth logging, each as it enters the loss, so that together they make the
           loss up to rounding. They are detached: whoever keeps them keeps no graph alive.
    """
    return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

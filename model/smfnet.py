"""SMFNet: STMENet under its earlier name; for IRDST it has another top-down fusion.

"A Simple and Effective Multi-Scale Time Fusion Network for Moving Infrared Dim-small Target Detection". The
network is in model/stmenet.py.
"""

from model.options import Init, ObjectnessPrior
from model.stmenet import RECIPE, RENAME, STMENet, build
from utils.registry import register_model


@register_model("SMFNet", recipe=RECIPE, rename=RENAME, task="boxes")
def smfnet(
    variant: str = "ITSDT-15K", init: Init = "published", objectness_prior: ObjectnessPrior = None
) -> STMENet:
    """SMFNet, with the options of STMENet; "ITSDT-15K" and "DAUB" are STMENet itself.

    The published files to start from are STMENet's; the variant IRDST has no Kinetics weights.
    """
    fusions = {"ITSDT-15K": "plain", "DAUB": "plain", "IRDST": "csp"}
    return build("SMFNet", fusions, variant, init, objectness_prior)

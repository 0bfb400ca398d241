"""The classes of faults, in the order in which they are tried: the cheap ones first."""

from tests.faults.campaign import FaultClass
from tests.faults.data import IMAGE_CLASS, LIST_CLASS, TRUTH_CLASS

CLASSES: dict[str, FaultClass] = {
    cls.name: cls for cls in (IMAGE_CLASS, LIST_CLASS, TRUTH_CLASS)
}

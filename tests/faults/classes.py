"""The classes of faults, in the order in which they are tried."""

from tests.faults.campaign import FaultClass
from tests.faults.checkpoints import CHECKPOINTS
from tests.faults.data import IMAGE_CLASS, LIST_CLASS, TRUTH_CLASS
from tests.faults.disks import DISKS
from tests.faults.flags import FLAGS
from tests.faults.found import FOUND
from tests.faults.kills import GROUPS, KILLS
from tests.faults.memory import MEMORY
from tests.faults.predictions import PREDICTIONS
from tests.faults.resume import RESUME
from tests.faults.saves import SAVES

CLASSES: dict[str, FaultClass] = {
    cls.name: cls
    for cls in (
        KILLS,
        SAVES,
        GROUPS,
        FOUND,
        DISKS,
        IMAGE_CLASS,
        LIST_CLASS,
        TRUTH_CLASS,
        CHECKPOINTS,
        PREDICTIONS,
        FLAGS,
        MEMORY,
        RESUME,
    )
}

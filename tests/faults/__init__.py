"""A campaign of injected faults: `python -m tests.faults --help`.

Each class of faults is one file with a `FaultClass`; harness.py runs commands as processes, campaign.py runs
the classes, judges.py says what a well-behaved command looks like from outside.
"""

import os

# Before torch is imported: a process may be forked only while it has no other threads.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

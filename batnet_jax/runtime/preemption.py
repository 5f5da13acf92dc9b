"""SIGTERM to one of several processes: all of them end after the same step.

None of several processes may end by itself, because the others would wait for it in a step. JAX's
preemption service receives their signals and agrees on a step after which all processes end.
"""

import itertools

from jax.experimental import multihost_utils

from batnet_jax.runtime import processes

_questions = itertools.count()


def is_agreed() -> bool:
    """Return whether one of several processes has received SIGTERM and all must end now.

    All processes get the same answer if they call this equally often, because the service numbers
    the calls like steps. A call does not wait for other processes.
    """
    return not processes.alone() and multihost_utils.reached_preemption_sync_point(next(_questions))

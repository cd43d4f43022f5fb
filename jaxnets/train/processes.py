"""Several processes that train as one: how they find one another, agree, and end together."""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxnets.train.interruption import TERMINATED, Terminated

_STOPS: tuple[type[KeyboardInterrupt] | None, ...] = (None, KeyboardInterrupt, Terminated)


@contextmanager
def joined(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    notice_seconds: int = 8,
) -> Iterator[None]:
    """Joins the processes of a launch, for as long as the context is open; none outlives another that fails.

        with train.joined():
            mesh = jn.sharding.make_mesh()
            state = jn.sharding.place_state(state, mesh)
            state, metrics = train.fit(state, step, jn.sharding.place_data(loader, mesh, whole=True), steps=1000)

    Without arguments JAX finds the others by what the launcher left in the environment: that of Slurm, Open MPI,
    Kubernetes (jobs with an index) and Cloud TPU pods is known to it. With any other, give all three, as on one machine
    `joined("127.0.0.1:1234", 2, 0)` in one process and `joined("127.0.0.1:1234", 2, 1)` in the other. It is entered
    before the first computation, and `jax.devices()` are those of all processes from then on.

    An exception here would leave the others waiting for this process for ever. So it is reported, and the process ends
    at once, with code 143 after SIGTERM, 130 after Ctrl-C, the code of a SystemExit and otherwise 1, without what is
    registered to run at its exit. The others end when they miss it: their next exchange with it fails, or its
    heartbeats stay away.

    Args:
      coordinator_address: Host and port of process 0, the port free; a loopback address is bound to alone.
      num_processes: How many there are.
      process_id: Which this is.
      notice_seconds: After how long without a heartbeat a process counts as dead, and the others end.

    Raises:
      ValueError: If a launcher is not found and the arguments are not given.
      RuntimeError: If JAX has computed something already, or the others do not come.
    """
    host = (coordinator_address or "").rpartition(":")[0]
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        coordinator_bind_address=coordinator_address if host in ("127.0.0.1", "localhost") else None,
        heartbeat_timeout_seconds=notice_seconds,
    )
    # JAX takes SIGTERM over to count preemptions, and the process would not end by it any more.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    try:
        yield
    except BaseException as error:
        _end(error)
    jax.distributed.shutdown()


def agreed(state: Any, length: int, stop: KeyboardInterrupt | None) -> tuple[int, KeyboardInterrupt | None]:
    """The least length of any process and the stop of any, where they share the state: all must run the same calls."""
    if not shared(state):
        return length, stop
    own = 0 if stop is None else _STOPS.index(type(stop))
    told = multihost_utils.process_allgather(np.array([length, own], np.int32))
    stops = _STOPS[told[:, 1].max()]
    return int(told[:, 0].min()), stop if stop is not None or stops is None else stops()


def shared(state: Any) -> bool:
    """Whether other processes hold a part or a copy of the state, and take its steps too."""
    return not getattr(state.step, "is_fully_addressable", True)


def fetched(tree: Any) -> Any:
    """The whole of arrays as NumPy's, on every process; all must ask where an array is cut across them."""

    def whole(leaf: Any) -> Any:
        here = getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated
        return leaf if here else multihost_utils.process_allgather(leaf, tiled=True)

    return jax.device_get(jax.tree.map(whole, tree))


def placed(leaf: Any, sharding: jax.sharding.Sharding, *, may_alias: bool | None = False) -> jax.Array:
    """Puts an array where it belongs, on devices of other processes too, each of which must give the same array."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding, may_alias=may_alias)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(placed(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    whole = np.array(fetched(leaf))
    return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)


def check_agreed(op: str, name: str, value: int) -> None:
    """Raises ValueError unless the number is the same on every process."""
    values = np.ravel(multihost_utils.process_allgather(np.int32(value)))
    if (values != values[0]).any():
        raise ValueError(f"{op}: the processes have {name} {values.tolist()}: all must see the same files")


def _end(error: BaseException) -> None:
    """Ends the process, whatever its threads wait for."""
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
    code: Any = 1
    if isinstance(error, KeyboardInterrupt):
        code = TERMINATED if isinstance(error, Terminated) else 130
    elif isinstance(error, SystemExit):
        # As Python does: no code is 0, and a message is an error.
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

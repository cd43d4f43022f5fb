"""Checkpoints through Orbax: whole, checked leaf by leaf, and with the one before to fall back on."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnets.train.checksums import check_seal, checksum_of_index, checksums_of_leaves, read_leaves, seal, write_leaves
from jaxnets.train.files import first_line, why_not_written
from jaxnets.train.fingerprint import check_fingerprint, whole_fingerprint
from jaxnets.train.leaves import check_keys, data_of, described, is_key, rebuilt
from jaxnets.train.paths import check_same, flatten
from jaxnets.train.processes import check_agreed, fetched, shared
from jaxnets.train.state import State

_LOGGER = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run, `<directory>/<step>/`, written in the background and waited for on leaving.

    An instance is itself a callback for `every`, and one that Ctrl-C calls:

        with Checkpoints(run / "checkpoints") as checkpoints:
            found = checkpoints.restore(state)
            state, extra = found or (state, {})
            state, metrics = fit(state, step, data, steps=1000, callbacks=[every(100, checkpoints)])
            checkpoints.save(state)

    Where processes share a state the first writes it, whole, for which it needs the memory; all read it, from a folder
    that all see.

    Steps that lie there already are only written over by an instance that restored one of them.

    A flipped bit on the disk raises no error by itself, so each leaf is kept with its checksum, and so are the list of
    them and each file: the files are compared first, for the libraries that read a damaged one tell of it at length.
    """

    on_interrupt = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 2,
        fingerprint: Mapping[str, Any] | None = None,
        extra: Callable[[], Mapping[str, Any]] | None = None,
        report: Callable[[str], None] = _LOGGER.warning,
    ):
        """Opens a directory of checkpoints, which the first save makes.

        Args:
          directory: Where they lie.
          keep: How many of the newest are kept.
          fingerprint: What the batches hang on, such as `{"seed": 0, "batch_size": 64}` or the `settings` of a loader,
            the same on every process; must fit in JSON. A run that goes on with another one is refused. The number of
            processes is added as `processes`, unless it is there: where each process gives the whole batch, which does
            not hang on it, say 1. None checks nothing.
          extra: Gives what else to keep at each save that is not told, such as where an iterator of batches stands.
          report: Told in one line of each checkpoint that cannot be used.

        Raises:
          ValueError: If keep is not positive.
          TypeError: If the fingerprint does not fit in JSON.
        """
        if keep < 1:
            raise ValueError(f"Checkpoints: keep must be positive, got {keep}")
        self.directory = Path(directory).absolute()
        self.keep = keep
        self.fingerprint = None if fingerprint is None else json.loads(json.dumps(fingerprint))
        self.extra = extra or dict
        self.report = report
        self._manager: Any = None
        self._goes_on = False
        self._saved: int | None = None
        self._under_way: int | None = None
        self._arrays: Mapping[str, np.ndarray] = {}

    def save(self, state: State, extra: Mapping[str, Any] | None = None) -> None:
        """Copies the state and writes it in the background; a failure surfaces at the next save, wait or exit.

        Later steps that are on the disk, of a history that was left for an older checkpoint, are deleted.

        Args:
          state: May be donated as soon as this returns.
          extra: What else to keep; must fit in JSON. None for what the `extra` of the directory gives.

        Raises:
          ValueError: If this step or later ones are on the disk, and this instance restored none.
          TypeError: If `extra` does not fit in JSON.
          OSError: If this save, or the one before, could not be written; says what to change where the disk is full.
        """
        step = int(state.step)
        if step == self._saved:
            return
        import orbax.checkpoint as ocp

        leaves = flatten(state)
        # A copy of its own, since on a CPU a fetched array is a view of the buffer that is about to be donated.
        numbers = fetched({path: data_of(leaf) for path, leaf in leaves.items()})
        if shared(state) and jax.process_index() != 0:
            self._saved = step
            return
        arrays = {path: np.array(array) for path, array in numbers.items()}
        description = {path: described(leaf) for path, leaf in leaves.items()}
        keys = {path: str(jax.random.key_impl(leaf)) for path, leaf in leaves.items() if is_key(leaf)}
        # As it will be read, where the keys of every dict are strings.
        index = json.loads(
            json.dumps({"leaves": description, "keys": keys, "extra": dict(self.extra() if extra is None else extra)})
        )
        index["fingerprint"] = None if self.fingerprint is None else whole_fingerprint(self.fingerprint)
        index["checksum"] = checksum_of_index(index)
        manager = self._opened(step)
        items = {"state": ocp.args.StandardSave(arrays), "index": ocp.args.JsonSave(index)}
        with self._writing(step):
            self._under_way, self._arrays = step, arrays
            manager.save(step, args=ocp.args.Composite(**items), force=True)
        self._saved, self._goes_on = step, True

    def __call__(self, step: int, state: State | None, metrics: Mapping[str, Any]) -> None:
        """Saves, as a callback of `every`."""
        if state is None:
            raise TypeError("Checkpoints: needs the state, so wrap it: every(100, checkpoints)")
        self.save(state)

    def restore(self, template: State) -> tuple[State, dict[str, Any]] | None:
        """Reads the newest good checkpoint.

        Args:
          template: A state of the same structure, such as `create` makes, on any mesh; its values are not used. Each
            leaf is placed where it has it.

        Returns:
          The state and what was saved beside it; None where there is no checkpoint, or none that can be read.

        Raises:
          ValueError: If a checkpoint is whole but of another structure, shape or dtype: names the path, what was
            found and what was wanted. If it is of another fingerprint: names what differs, before any array is read.
            If processes that share the state find different steps.
        """
        found = self._newest_good(template)
        if shared(template):
            check_agreed("restore", "steps", -1 if found is None else int(found[0].step))
        return found

    def steps(self) -> list[int]:
        """The steps that are on the disk, in order."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal())

    def wait(self) -> None:
        """Waits until everything is written; raises OSError if something could not be."""
        if self._under_way is not None:
            with self._writing(self._under_way), _silence():
                self._manager.wait_until_finished()
            self._under_way = None

    def __enter__(self) -> "Checkpoints":
        # It takes seconds to import, which the first save may not have: SIGTERM can ask for it.
        import orbax.checkpoint  # noqa: F401

        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            self.wait()
        finally:
            self._close()

    def _newest_good(self, template: State) -> tuple[State, dict[str, Any]] | None:
        self.wait()
        for step in self.steps()[::-1]:
            try:
                with _silence():
                    index, arrays = self._read(step, template)
            except _MismatchError as error:
                raise ValueError(str(error)) from None
            except Exception as error:  # whatever a damaged file makes the libraries raise
                reason = f"{type(error).__name__}: {first_line(error)}"
                self.report(f"checkpoint {self.directory / str(step)} cannot be used: {reason}")
                continue
            self._saved, self._goes_on = step, True
            return rebuilt(template, arrays, index["keys"]), index["extra"]
        return None

    def _opened(self, step: int) -> Any:
        """Orbax's manager, ready to write a step that is newer than all the others."""
        import orbax.checkpoint as ocp

        self.wait()
        later = [other for other in self.steps() if other >= step]
        if later and not self._goes_on:
            raise ValueError(
                f"Checkpoints: {self.directory} holds steps {later} of a run that was not restored, and step {step} "
                "would take their place: restore it, or name another folder"
            )
        for other in later:
            shutil.rmtree(self.directory / str(other))
        if self._manager is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self.keep,
                cleanup_tmp_directories=True,
                create=False,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
                **_by_itself(),
            )
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        elif later:
            self._manager.reload()
        return self._manager

    def _seal(self) -> None:
        """Called in the background when all is written, but for the name that the folder of a finished step has."""
        arrays, self._arrays = self._arrays, {}
        for folder in self.directory.glob(f"{self._under_way}.*"):
            write_leaves(folder, arrays)
            seal(folder)

    @contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Says what to change where a step cannot be written, which the next save begins anew after."""
        try:
            yield
        except Exception as error:
            # By then the manager has struck the oldest step off its list, and would never delete it.
            with suppress(Exception), _silence():
                self._close()
            self._saved = self._under_way = None
            self._arrays = {}
            raise OSError(
                f"Checkpoints: step {step} could not be written to {self.directory}, where steps {self.steps()} are: "
                f"{why_not_written(error)}"
            ) from error

    def _close(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.close()

    def _read(self, step: int, template: State) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        import orbax.checkpoint as ocp

        folder = self.directory / str(step)
        check_seal(folder)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler(), **_by_itself()) as reader:
            index = reader.restore(folder / "index", args=ocp.args.JsonRestore())
        if index["checksum"] != checksum_of_index(index):
            raise ValueError("index is damaged")
        found = {path: (shape, dtype) for path, (shape, dtype) in index["leaves"].items()}
        sums, leaves = read_leaves(folder), flatten(template)
        try:
            if self.fingerprint is not None:
                check_fingerprint(f"restore: {folder}", index.get("fingerprint"), whole_fingerprint(self.fingerprint))
            check_same(f"restore: {folder}", found, {path: described(leaf) for path, leaf in leaves.items()})
        except ValueError as error:
            raise _MismatchError(str(error)) from None
        data = {path: jax.eval_shape(data_of, leaf) for path, leaf in leaves.items()}
        target = {path: np.empty(like.shape, like.dtype) for path, like in data.items()}
        _check_stored(folder / "state", data)
        check_keys(index["keys"], leaves, data)
        with ocp.Checkpointer(ocp.StandardCheckpointHandler(**_by_itself()), **_by_itself()) as reader:
            arrays = reader.restore(folder / "state", args=ocp.args.StandardRestore(target))
        for path, checksum in checksums_of_leaves(arrays).items():
            if sums.get(path) != checksum:
                raise ValueError(f"{path} is damaged")
        return index, arrays


def _by_itself() -> dict[str, Any]:
    """Orbax's options for a process that waits for no other."""
    import orbax.checkpoint as ocp

    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )
    return {"multiprocessing_options": options}


class _MismatchError(Exception):
    """A checkpoint of another structure or other batches: nothing is damaged, so the one before would not help."""


def _check_stored(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raises ValueError if an array or a piece of it is larger than wanted, and the memory for it with that."""
    import orbax.checkpoint as ocp

    for path, stored in ocp.StandardCheckpointHandler(**_by_itself()).metadata(folder).tree.items():
        shape = wanted[path].shape
        pieces = stored.storage.chunk_shape if stored.storage else shape
        if tuple(stored.shape) != shape or math.prod(pieces) > math.prod(max(size, 1) for size in shape):
            raise ValueError(f"{path} is stored as {list(stored.shape)} in pieces of {list(pieces)}")


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps the libraries' own accounts of a damaged file off the screen: `report` gives one."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)

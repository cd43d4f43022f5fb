"""The ledger of compilations: what was compiled, for which shapes, and how long it took."""

import logging
from typing import Any, NamedTuple

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_LOGGER = logging.getLogger("jax._src.interpreters.pxla")


class Compilation(NamedTuple):
    """One program.

    Attributes:
      name: The function's.
      shapes: Of its arguments, as `float32[8,6]`.
      seconds: What XLA took.
    """

    name: str
    shapes: tuple[str, ...]
    seconds: float


class CompileLedger:
    """Writes down every compilation while it is open, and can hold a program to a number of them.

        with CompileLedger(max_compiles=2) as ledger:
            state, _ = fit(state, step, data, steps=100)
        print(ledger)

    Attributes:
      entries: The compilations, in order.
    """

    def __init__(self, *, max_compiles: int | None = None):
        """Makes a ledger.

        Args:
          max_compiles: Leaving it with more raises RuntimeError, which lists them; None for any number.
        """
        self.entries: list[Compilation] = []
        self._max = max_compiles
        self._shapes: dict[str, tuple[str, ...]] = {}
        self._level = logging.NOTSET

    def __enter__(self) -> "CompileLedger":
        self._level = _LOGGER.level
        # JAX tells the shapes in its log alone. A filter hears them, and lets none through that was not wanted before.
        self._threshold = _LOGGER.getEffectiveLevel()
        _LOGGER.addFilter(self._hear)
        _LOGGER.setLevel(min(logging.DEBUG, self._threshold))
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        return self

    def __exit__(self, kind: Any, *exception: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_event)
        _LOGGER.removeFilter(self._hear)
        _LOGGER.setLevel(self._level)
        if kind is None and self._max is not None and len(self.entries) > self._max:
            raise RuntimeError(f"CompileLedger: {len(self.entries)} compilations, {self._max} allowed:\n{self}")

    def __str__(self) -> str:
        return "\n".join(f"{each.seconds:7.2f} s  {each.name}({', '.join(each.shapes)})" for each in self.entries)

    def _hear(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("Compiling ") and isinstance(record.args, tuple) and len(record.args) > 1:
            name, arguments = record.args[:2]
            if isinstance(arguments, list | tuple):
                self._shapes[str(name)] = tuple(_shown(argument) for argument in arguments)
        return record.levelno >= self._threshold

    def _on_event(self, event: str, duration_secs: float, **about: Any) -> None:
        if event == _EVENT:
            name = str(about.get("fun_name", ""))
            self.entries.append(Compilation(name, self._shapes.get(name, ()), duration_secs))


def _shown(argument: Any) -> str:
    return f"{argument.dtype}[{','.join(map(str, argument.shape))}]" if hasattr(argument, "dtype") else str(argument)

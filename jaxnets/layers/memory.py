"""Recurrent layers that begin with a memory as long as they will need."""

import math
from collections.abc import Callable
from typing import Any

from jaxnets.layers.initializers import chrono
from jaxnets.layers.linear_units import LRU, RGLRU
from jaxnets.layers.min_recurrent import MinGRU, MinLSTM
from jaxnets.layers.recurrent import GRU, LSTM, RNN


def remembering(layer: Any, steps: int) -> Any:
    """The layer, made so that its units remember for up to so many steps before they are trained.

    `LSTM`, `GRU`, `MinGRU` and `MinLSTM` get `chrono` biases. In `LRU` the modulus of an eigenvalue, in `RGLRU` a^c, is
    drawn from 0.9 to 1 - 1/steps, and phases are at most pi/10. An `RNN` stays as it is: it has nothing of the kind.

    Args:
      layer: Not yet bound, as layers are when they are made.
      steps: The longest memory wanted, more than 10.

    Raises:
      TypeError: If the layer is of another kind.
      ValueError: If the memory is too short, or the layer an LSTM with coupled gates.

    References:
      Tallec and Ollivier, 2018. Can recurrent neural networks warp time?
      Orvieto et al., 2023. Resurrecting recurrent neural networks for long sequences.
      De et al., 2024. Griffin: mixing gated linear recurrences with local attention for efficient language models.

    >>> remembering(jn.layers.LRU(features=8), 1000).r_max
    0.999
    """
    if type(layer) not in _OPTIONS:
        known = ", ".join(kind.__name__ for kind in _OPTIONS)
        raise TypeError(f"remembering: layer is of type {type(layer).__name__}, wanted one of {known}")
    if steps <= 10:
        raise ValueError(f"remembering: steps wants to be more than 10 but is {steps}")
    if getattr(layer, "coupled", False):
        raise ValueError("remembering: wants an LSTM whose gates are not coupled")
    return layer.clone(**_OPTIONS[type(layer)](layer.features, steps))


_OPTIONS: dict[type[Any], Callable[[int, int], dict[str, Any]]] = {
    RNN: lambda features, steps: {},
    LSTM: lambda features, steps: {"forget_bias": 0.0, "bias_init": chrono(features, steps, (-1, 1, 0, 0))},
    GRU: lambda features, steps: {"bias_init": chrono(features, steps, (0, 1, 0))},
    MinGRU: lambda features, steps: {"bias_init": chrono(features, steps, (-1, 0))},
    MinLSTM: lambda features, steps: {"forget_bias": 0.0, "bias_init": chrono(features, steps, (-1, 1, 0))},
    LRU: lambda features, steps: {"r_min": 0.9, "r_max": 1 - 1 / steps, "max_phase": 0.1 * math.pi},
    RGLRU: lambda features, steps: {"a_min": 0.9, "a_max": 1 - 1 / steps},
}

"""How rotary frequencies are stretched, so that a model reads more steps than it was trained on."""

import dataclasses
import math
from typing import Any

import numpy as np


def rotary_frequencies(base: float, width: int) -> np.ndarray:
    """base^(-2i / width) radians a step, for each of the width / 2 planes i."""
    return base ** (-np.arange(0, width, 2) / width)


@dataclasses.dataclass(frozen=True)
class RotaryLinear:
    """Position interpolation: every frequency divided by `factor`.

    References:
      Chen et al., 2023. Extending context window of large language models via positional interpolation.

    >>> RotaryLinear(4.0).frequencies(100.0, 4)
    array([0.25 , 0.025])
    """

    factor: float

    def __post_init__(self) -> None:
        _check_positive(self)

    def frequencies(self, base: float, width: int) -> np.ndarray:
        """Radians a step, [width / 2]."""
        return rotary_frequencies(base, width) / self.factor


@dataclasses.dataclass(frozen=True)
class RotaryNTK:
    """A base raised to base * factor^(width / (width - 2)), so that the lowest frequency is divided by `factor`.

    The highest stays as it is, and what lies between is divided by more the lower it is.

    References:
      Peng et al., 2023. YaRN: efficient context window extension of large language models, section 3.1.

    >>> RotaryNTK(4.0).frequencies(100.0, 4)
    array([1.   , 0.025])
    """

    factor: float

    def __post_init__(self) -> None:
        _check_positive(self)

    def frequencies(self, base: float, width: int) -> np.ndarray:
        """Radians a step, [width / 2]."""
        plane = np.arange(0, width, 2)
        # The power of the raised base without the base itself: that has no value where there is one plane.
        return rotary_frequencies(base, width) * self.factor ** (-plane / max(width - 2, 1))


@dataclasses.dataclass(frozen=True)
class RotaryLlama3:
    """Frequencies by bands, as in Llama 3.1: high ones kept, low ones divided by `factor`, a ramp between.

    A frequency is high where it turns at least `high_freq_factor` times in `original_length` steps, and low where it
    turns at most `low_freq_factor` times.

    References:
      Llama team, 2024. The Llama 3 herd of models.

    >>> RotaryLlama3(8.0, original_length=100).frequencies(100.0, 4)
    array([1.        , 0.02975353])
    """

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"RotaryLlama3: low_freq_factor is {self.low_freq_factor} but wants to be below high_freq_factor, "
                f"{self.high_freq_factor}"
            )

    def frequencies(self, base: float, width: int) -> np.ndarray:
        """Radians a step, [width / 2]."""
        frequencies = rotary_frequencies(base, width)
        turns = self.original_length * frequencies / (2 * math.pi)
        kept = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


@dataclasses.dataclass(frozen=True)
class RotaryYarn:
    """YaRN: high frequencies kept, low ones divided by `factor`, a ramp over the planes between, and sharper scores.

    The ramp goes from the plane that turns `beta_fast` times in `original_length` steps, rounded down, to the one that
    turns `beta_slow` times, rounded up. Queries and keys are multiplied by `attention_factor`, so scores by its
    square; None means 0.1 ln(factor) + 1 (and 1 where the factor is at most 1).

    References:
      Peng et al., 2023. YaRN: efficient context window extension of large language models.

    >>> RotaryYarn(4.0, original_length=100).frequencies(100.0, 4)
    array([1.    , 0.0625])
    >>> round(RotaryYarn(4.0, original_length=100).magnitude, 4)
    1.1386
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        _check_positive(self)

    @property
    def magnitude(self) -> float:
        """What rotated queries and keys are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(max(self.factor, 1.0)) + 1.0

    def frequencies(self, base: float, width: int) -> np.ndarray:
        """Radians a step, [width / 2]."""

        def plane(turns: float) -> float:
            return width * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

        low = max(math.floor(plane(self.beta_fast)), 0)
        high = min(math.ceil(plane(self.beta_slow)), width - 1)
        # Where the two meet the ramp is a step.
        stretched = np.clip((np.arange(width // 2) - low) / max(high - low, 1e-3), 0, 1)
        return rotary_frequencies(base, width) * (1 - stretched + stretched / self.factor)


def _check_positive(scaling: Any) -> None:
    for field in dataclasses.fields(scaling):
        value = getattr(scaling, field.name)
        if value is not None and value <= 0:
            raise ValueError(f"{type(scaling).__name__}: {field.name} is {value} but wants to be above 0")


RotaryScaling = RotaryLinear | RotaryNTK | RotaryLlama3 | RotaryYarn

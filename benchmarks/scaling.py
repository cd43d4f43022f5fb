"""Scaling on paper: what a training step costs on 8, 64 and 512 chips, and which parallel form is fastest.

A calculation, not a measurement, whose equations are in benchmarks/README.md. Every number in it is an option: give it
your own chips, and what `python -m benchmarks run` measured on one of them.
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxnets.train import cli

FORMS = ("data", "fsdp", "tensor")
# (features, depth, vocabulary, time)
SIZES = {"lstm": (2048, 2, 32768, 128), "transformer": (4096, 32, 32768, 1024)}
STATE_BYTES = 16  # of a parameter: itself, its gradient and Adam's two moments in float32


class Step(NamedTuple):
    """What a step costs on each chip: seconds, and bytes at once; `passes` are the parts that a batch is cut into."""

    compute: float
    communication: float
    seconds: float
    memory: float
    passes: int


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Prints the table: a row for each model, number of chips and parallel form."""

    model: Literal["lstm", "transformer", "both"] = "both"
    """Which model of language."""
    chips: tuple[int, ...] = (8, 64, 512)
    """Numbers of chips."""
    rows: int = 512
    """Sequences in a batch, over all chips."""
    flops: float = 989e12
    """Peak of a chip in bfloat16, in products a second."""
    used: float = 0.4
    """The part of it that large products reach: an assumption, unless it is measured."""
    memory: float = 80e9
    """Bytes of a chip."""
    bandwidth: float = 3.35e12
    """Bytes a second between a chip and its memory."""
    host: int = 8
    """Chips of a host."""
    near: float = 450e9
    """Bytes a second that a chip sends to others of its host."""
    far: float = 50e9
    """Bytes a second that a chip sends to other hosts."""
    overhead: float = 5e-6
    """Seconds of a step of a loop on a chip, beside its products."""
    latency: float = 10e-6
    """Seconds until the first byte of a collective operation arrives."""
    debug: bool = False
    """Let the traceback of a mistake through."""

    def __call__(self) -> None:
        """Prints it."""
        options = {name: value for name, value in dataclasses.asdict(self).items() if name not in ("model", "debug")}
        for name, value in options.items():
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or not all(number > 0 for number in numbers):
                raise ValueError(f"--{name} wants to be positive, got {' '.join(map(str, numbers)) or 'nothing'}")
        print("| model | chips | form | compute | communication | step | memory of a chip |")
        print("| --- | --: | --- | --: | --: | --: | --: |")
        for model in SIZES if self.model == "both" else (self.model,):
            for chips in self.chips:
                steps = {form: self.step(model, chips, form) for form in FORMS}
                fitting = {form: step.seconds for form, step in steps.items() if step and step.memory <= self.memory}
                best = min(fitting, key=fitting.__getitem__, default=None)
                for form, step in steps.items():
                    print(f"| {model} | {chips} | {_told(form, step, form == best, self.memory)} |")

    def step(self, model: str, chips: int, form: str) -> Step | None:
        """The cost of a step, with as few passes over parts of the batch as fit; None where the form cannot be."""
        features, depth, vocabulary, time = SIZES[model]
        tensor = math.gcd(self.host, chips) if form == "tensor" else 1
        groups = chips // tensor  # each takes rows of its own
        if groups > self.rows:
            return None
        rows = math.ceil(self.rows / groups)
        recurrent = 4 * features**2 * depth if model == "lstm" else 0
        kernels = (8 if model == "lstm" else 12) * features**2 * depth
        parameters = kernels + vocabulary * features
        held = STATE_BYTES * parameters / (chips if form == "fsdp" else tensor)
        # Bytes of a token: an LSTM's gates and states, or each block's residual and what is inside one block; logits.
        inside = 12 * features * depth / tensor if recurrent else 2 * features * depth + 32 * features / tensor
        kept = inside + 8 * vocabulary / tensor
        fit = min(max((self.memory - held) / (kept * time), 1), rows)
        passes = math.ceil(rows / math.floor(fit))
        memory = held + math.ceil(rows / passes) * time * kept

        rate, tokens = self.flops * self.used, rows * time
        # Of a token: 2 a weight forward, 4 backward, but for what is done step by step; causal attention.
        work = 6 * parameters - 4 * recurrent + (0 if recurrent else 6 * depth * features * time)
        compute = work * tokens / tensor / rate
        gradients = 4 * parameters / tensor
        hidden = {"data": 2, "fsdp": 3 * passes, "tensor": 2}[form] * self._collective(gradients, groups, tensor)
        exposed = 0.0
        if recurrent:  # forward and backward, every step of every layer waits for the one before
            in_step = recurrent / depth / tensor
            alone = max(2 * rows / passes * in_step / rate, 2 * in_step / self.bandwidth)
            turns = 2 * depth * time * passes
            compute += turns * (self.overhead + alone)
            exposed = turns * self.latency if tensor > 1 else 0.0
        elif tensor > 1:  # two sums of activations a block forward, and two backward, none of which can wait
            each = 2 * self._collective(2 * tokens / passes * features, tensor, 1)
            exposed = 4 * depth * passes * each
        return Step(compute, hidden + exposed, max(compute, hidden) + exposed, memory, passes)

    def _collective(self, size: float, chips: int, tensor: int) -> float:
        """Seconds to gather, or to sum and scatter, so many bytes: first inside a host, then between hosts."""
        if chips == 1:
            return 0.0
        inside = min(chips, max(1, self.host // tensor))
        hosts = math.ceil(chips / inside)
        rings = (self.near, inside, size), (self.far, hosts, size / inside)
        return sum(part * (n - 1) / n / speed + self.latency for speed, n, part in rings if n > 1)


def _told(form: str, step: Step | None, best: bool, memory: float) -> str:
    if step is None:
        return f"{form} | | | more chips than rows |"
    parts = f", {step.passes} passes" if step.passes > 1 else ""
    compute, communication, seconds = (f"{each:.2f} s" if each >= 1 else f"{1e3 * each:.3g} ms" for each in step[:3])
    told = f"**{seconds}**" if best else seconds
    size = f"{step.memory / 1e9:.3g} GB" + (": too much" if step.memory > memory else "")
    return f"{form}{parts} | {compute} | {communication} | {told} | {size}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table for the options given."""
    return cli.main({"scaling": Scaling}, ["scaling", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())

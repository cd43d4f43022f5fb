"""What a model is made of: parameters, bytes and operations by layer."""

import dataclasses
from typing import Any, NamedTuple

import jax

from jaxnets.train.jaxprs import equations, product_flops
from jaxnets.train.paths import flatten
from jaxnets.train.state import model_inputs
from jaxnets.typing import Batch


class Layer(NamedTuple):
    """A row of a summary.

    Attributes:
      path: Where the layer lies, `""` for the model itself.
      parameters: Their number.
      bytes: What they take up.
      flops: Multiplications and additions of its matrix products and convolutions for one batch, in one forward pass.
    """

    path: str
    parameters: int
    bytes: int
    flops: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """The layers of a model in the order of their parameters' paths; as text it is a table."""

    layers: tuple[Layer, ...]

    @property
    def total(self) -> Layer:
        """The sums over the layers."""
        return Layer("total", *(sum(column) for column in list(zip(*self.layers, strict=True))[1:]))

    def __str__(self) -> str:
        rows = [
            Layer._fields,
            *((path or ".", *map("{:,}".format, rest)) for path, *rest in (*self.layers, self.total)),
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for path, *numbers in rows:
            cells = [
                path.ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)),
            ]
            lines.append("  ".join(cells))
        return "\n".join(lines)


def summary(model: Any, batch: Batch) -> Summary:
    """Counts the parameters, bytes and operations of each layer; nothing is computed, and no memory taken.

    What a layer does inside a loop whose length is not known counts once.

    Args:
      model: Anything with the `init` and `apply` of a Flax module.
      batch: One batch, or its shapes; `"x"` (and `"lengths"`, `"starts"` where it has them) go to the model.

    >>> from flax import linen as nn
    >>> class Two(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, *, train=False):
    ...         x = nn.Dense(3)(x)
    ...         return nn.Dense(2)(x)
    >>> print(summary(Two(), {"x": jax.ShapeDtypeStruct((10, 5), "float32")}))
    path     parameters  bytes  flops
    Dense_0          18     72    300
    Dense_1           8     32    120
    total            26    104    420
    """
    inputs = model_inputs(batch)
    variables = jax.eval_shape(lambda inputs: model.init(jax.random.key(0), **inputs, train=False), inputs)
    parameters: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for path, leaf in flatten(variables.get("params", {})).items():
        layer = path.rpartition("/")[0]
        parameters[layer] = parameters.get(layer, 0) + leaf.size
        sizes[layer] = sizes.get(layer, 0) + leaf.size * leaf.dtype.itemsize

    traced = jax.make_jaxpr(lambda variables, inputs: model.apply(variables, **inputs, train=False))(variables, inputs)
    flops: dict[str, int] = {}
    for eqn, names, times in equations(traced):
        if count := product_flops(eqn):
            layer = _layer(names, parameters)
            flops[layer] = flops.get(layer, 0) + times * count

    layers = [*parameters, *(layer for layer in flops if layer not in parameters)]
    return Summary(
        tuple(Layer(path, parameters.get(path, 0), sizes.get(path, 0), flops.get(path, 0)) for path in layers)
    )


def _layer(names: str, layers: Any) -> str:
    """The path of the innermost module that has parameters, itself or in its parts, among the names that enclose."""
    modules = [part for part in names.split("/") if part and "(" not in part]
    # The first is the model's own name; one of a method has that after a dot.
    parts = [part.partition(".")[0] for part in modules[1:]]
    for end in range(len(parts), 0, -1):
        path = "/".join(parts[:end])
        if any(layer == path or layer.startswith(path + "/") for layer in layers):
            return path
    return ""

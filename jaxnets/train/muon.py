"""Muon: the momentum of each kernel, its singular values brought near one another."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

from jaxnets.train.paths import last


def muon(*, consistent_rms: Any = 0.2, **options: Any) -> optax.GradientTransformation:
    """Muon on kernels, Adam on the rest; updates are as large as AdamW's, so that one learning rate fits both.

    The recurrent kernel [H, G * H] of a cell with G gates, and the kernel of its input, are G matrices side by side:
    each is taken by itself. As one, they would share what one of them could have alone, and the gates with the largest
    gradients would leave little to the others.

    References:
      Jordan, 2024. Muon: an optimizer for hidden layers in neural networks.
    """

    def dimensions(kernels: Any) -> Any:
        return jax.tree.map(lambda leaf: MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1), kernels)

    def labels(params: Any) -> Any:
        return jax.tree.map_with_path(
            lambda path, leaf: "muon" if is_kernel(path) and leaf.ndim > 1 else "adam", params
        )

    def scaled(updates: Any, _: Any) -> Any:
        gates = _gates(updates)
        return jax.tree.map(lambda leaf, count: consistent_rms * _unit_rms(leaf, count), updates, gates)

    rule = optax.chain(
        optax.contrib.scale_by_muon(ns_steps=0, weight_dimension_numbers=dimensions, **options),  # the momentum
        optax.stateless(scaled),
    )
    return optax.partition({"muon": rule, "adam": optax.scale_by_adam(nesterov=True)}, labels)


def is_kernel(path: Any) -> bool:
    """Whether it is one, such as `kernel`, `recurrent_kernel` or `output_kernel`."""
    return last(path).endswith("kernel")


def _gates(kernels: Any) -> Any:
    """How many matrices stand side by side in each kernel; a projected LSTM's [P, 4 H], P below H, are taken as one."""
    found = {
        path[:-1]: leaf.shape for path, leaf in jax.tree.leaves_with_path(kernels) if last(path) == "recurrent_kernel"
    }

    def count(path: Any, leaf: Any) -> int:
        *_, into, out = found.get(path[:-1], (1, 1))
        return out // into if out in (2 * into, 3 * into, 4 * into) and leaf.shape[-1] == out else 1

    return jax.tree.map_with_path(count, kernels)


def _unit_rms(update: Any, count: int) -> Any:
    """Brings the singular values of `count` matrices side by side, [..., count * out], near one another."""
    matrices = update.reshape(-1, count, update.shape[-1] // count)
    return jax.vmap(_newton_schulz, 1, 1)(matrices).reshape(update.shape)


def _newton_schulz(x: Any) -> Any:
    """The same of one, by Muon's five steps X <- X p(XᵀX); the mean square of its entries is then near 1.

    The powers of XᵀX commute: so where X is much longer than wide the steps are taken on the small Gram matrix, and X
    is multiplied once, by the product of the polynomials. That takes a third of the time of the steps on X itself.
    """
    if x.shape[0] < x.shape[1]:
        return _newton_schulz(x.T).T
    a, b, c = 3.4445, -4.7750, 2.0315
    one = jnp.eye(x.shape[1], dtype=x.dtype)
    matmul = functools.partial(jnp.matmul, precision="highest")  # the Gram matrix squares the condition

    def polynomial(gram: Any) -> Any:
        return a * one + b * gram + c * matmul(gram, gram)

    x = x / (jnp.linalg.norm(x) + 1e-8)
    if x.shape[0] < 2 * x.shape[1]:
        for _ in range(5):
            x = matmul(x, polynomial(matmul(x.T, x)))
    else:
        gram, product = matmul(x.T, x), one
        for _ in range(5):
            factor = polynomial(gram)
            product, gram = matmul(product, factor), matmul(factor, matmul(gram, factor))
        x = matmul(x, product)
    return math.sqrt(len(x)) * x

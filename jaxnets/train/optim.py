"""The classic optimizers by name, all from Optax, and the schedules that scale their learning rate."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnets.train.muon import is_kernel, muon
from jaxnets.train.paths import flatten, last
from jaxnets.train.paths import name as path_name


def optimizer(
    name: str,
    learning_rate: Any,
    *,
    schedule: str = "constant",
    steps: int | None = None,
    warmup: int = 0,
    weight_decay: Any = 0.0,
    momentum: Any = 0.9,
    clip: Any = None,
    frozen: Sequence[str] = (),
    rates: Mapping[str, Any] | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """Makes an optimizer from its name; learning_rate, weight_decay, momentum and clip may be traced values.

    Weight decay acts on the parameters named kernel, recurrent_kernel or embedding, so never on a bias or a norm. It
    is decoupled from the gradient (and scaled by the learning rate) for adamw, lion and muon; for the others it is
    the classic penalty, added to the gradient. Muon acts on kernels, their last axis being the output, a recurrent
    cell's gate by gate; everything else is left to Adam, at the same learning rate.

    Args:
      name: One of `OPTIMIZERS`: sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw, lion, muon.
      learning_rate: The scale of the schedule, its largest value.
      schedule: The schedule's shape: constant, cosine, linear or one_cycle.
      steps: The horizon, at which the schedule ends; not needed for constant.
      warmup: Steps over which the rate rises to its full value.
      weight_decay: 0 for none.
      momentum: For momentum and nesterov alone.
      clip: Largest global norm of the gradient, the frozen parameters left out; None for no limit.
      frozen: As for `by_path`.
      rates: As for `by_path`.
      **options: Handed to the Optax rule, such as `b2=0.99` for adam.

    Raises:
      ValueError: If a name is unknown, a plain learning rate or weight decay is negative, or the horizon is missing or
        no longer than the warm-up.

    >>> tx = optimizer("adamw", 1e-3, schedule="cosine", steps=1000, warmup=50, weight_decay=0.01)
    """
    if name not in _RULES:
        raise ValueError(f"optimizer: unknown name {name!r}, choose from {', '.join(OPTIMIZERS)}")
    for label, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        # What is traced cannot be compared.
        if isinstance(value, int | float) and not value >= 0:
            raise ValueError(f"optimizer: {label} is {value} but wants at least 0")
    factor = make_schedule(schedule, steps, warmup)
    if name in ("momentum", "nesterov"):
        options["decay"] = momentum
    limit = [] if clip is None else [optax.clip_by_global_norm(clip)]
    # Only a plain 0 leaves decay out.
    none = isinstance(weight_decay, int | float) and weight_decay == 0
    decay = [] if none else [optax.add_decayed_weights(weight_decay, mask=decay_mask)]
    before, after = ([], decay) if name in ("adamw", "lion", "muon") else (decay, [])
    scale = optax.scale_by_learning_rate(lambda count: learning_rate * factor(count))
    whole = optax.chain(*limit, *before, _RULES[name](**options), *after, scale)
    return by_path(whole, frozen=frozen, rates=rates)


def by_path(
    optimizer: optax.GradientTransformation, *, frozen: Sequence[str] = (), rates: Mapping[str, Any] | None = None
) -> optax.GradientTransformation:
    """Freezes parameters or gives them rates of their own, by their path, as for learning on from another task.

    A frozen parameter keeps its bits, decay or not, and the optimizer remembers nothing of it; statistics of a batch
    norm, which are no parameters, go on. All that an optimizer does to the others is scaled by their rate.

    Args:
      optimizer: Any of Optax.
      frozen: Regular expressions that are looked for in paths such as `Conv_0/kernel`.
      rates: Factors by regular expression; the first that is found counts, and 1 where none is.

    Returns:
      An Optax transformation, whose `init` and `update` raise ValueError for an expression that is found nowhere.

    >>> tx = by_path(optax.adam(1e-3), frozen=["^Conv_"], rates={"^Dense_1/": 10.0})
    """
    factors = dict(rates or {})
    if not frozen and not factors:
        return optimizer

    def is_frozen(params: Any) -> Any:
        paths = list(flatten(params))
        for pattern in (*frozen, *factors):
            if not any(re.search(pattern, path) for path in paths):
                raise ValueError(f"by_path: {pattern!r} is found in no parameter, there are {', '.join(paths)}")
        return jax.tree.map_with_path(lambda path, _: _first(frozen, path) is not None, params)

    def scaled(updates: Any, params: Any) -> Any:
        def leaf(path: Any, update: Any) -> Any:
            pattern = _first(factors, path)
            return update if pattern is None else update * factors[pattern]

        return jax.tree.map_with_path(leaf, updates)

    trained = optax.chain(optimizer, optax.stateless(scaled)) if factors else optimizer
    return optax.partition({False: trained, True: optax.set_to_zero()}, is_frozen)


def make_schedule(name: str, steps: int | None = None, warmup: int = 0) -> Callable[[Any], Any]:
    """Makes a schedule's shape: from the number of steps taken to a factor in [0, 1].

    The rate rises in a line to 1 at step `warmup`, then keeps (constant) or falls to 0 at step `steps` (a line or
    half a cosine) and stays there. one_cycle rises and falls in half cosines, up for
    `warmup` steps, by default 30 % of all.

    Args:
      name: One of `SCHEDULES`.
      steps: The horizon.
      warmup: Steps before the factor is 1.

    Raises:
      ValueError: If the name is unknown, or the horizon is missing or no longer than the warm-up.

    References:
      Loshchilov and Hutter, 2017. SGDR: stochastic gradient descent with warm restarts (cosine).
      Smith and Topin, 2018. Super-convergence (one cycle).

    >>> float(make_schedule("linear", 100)(25))
    0.75
    """
    if name not in SCHEDULES:
        raise ValueError(f"make_schedule: unknown name {name!r}, choose from {', '.join(SCHEDULES)}")
    if warmup < 0:
        raise ValueError(f"make_schedule: warmup must be at least 0, got {warmup}")
    if name != "constant" and (steps is None or steps <= warmup):
        raise ValueError(f"make_schedule: {name} needs steps above warmup={warmup}, got steps={steps}")
    shape = _shape(name, steps or 0, warmup)
    # Rounding takes Optax's line a little below 0.
    return lambda count: jnp.clip(shape(count), 0.0, 1.0)


def _shape(name: str, steps: int, warmup: int) -> Callable[[Any], Any]:
    if name == "one_cycle":
        # Optax rounds down to whole steps, hence the half.
        return optax.cosine_onecycle_schedule(steps, 1.0, pct_start=(warmup + 0.5) / steps if warmup else 0.3)
    if name == "cosine":
        fall = optax.cosine_decay_schedule(1.0, steps - warmup)
    elif name == "linear":
        fall = optax.linear_schedule(1.0, 0.0, steps - warmup)
    else:
        fall = optax.constant_schedule(1.0)
    if warmup == 0:
        return fall
    # Rising from 1 / (warmup + 1), since a first step at rate 0 would be wasted.
    return optax.join_schedules([optax.linear_schedule(1 / (warmup + 1), 1.0, warmup), fall], [warmup])


def decay_mask(params: Any) -> Any:
    """True for the parameters that weight decay acts on, told by the last name of their path."""
    return jax.tree.map_with_path(lambda path, _: is_kernel(path) or last(path) == "embedding", params)


def _first(patterns: Iterable[str], path: Any) -> str | None:
    """The first of the patterns that is found in a path."""
    return next((pattern for pattern in patterns if re.search(pattern, path_name(path))), None)


_RULES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": optax.identity,
    "momentum": optax.trace,
    "nesterov": functools.partial(optax.trace, nesterov=True),
    "adagrad": optax.scale_by_rss,
    "rmsprop": optax.scale_by_rms,
    "adam": optax.scale_by_adam,
    "adamw": optax.scale_by_adam,
    "lion": optax.scale_by_lion,
    "muon": muon,
}

OPTIMIZERS = tuple(_RULES)
SCHEDULES = ("constant", "cosine", "linear", "one_cycle")

"""The laws about time: chunks, padding, empty rows, packing."""

import itertools
import operator
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.testing._findings import Difference, differences, nonzeros
from jaxnets.testing._subject import Inputs, Subject, cut

Found = Iterator[tuple[str, Difference]]


def chunks(s: Subject) -> Found:
    """Any split of time, the carry threaded through, equals the whole."""
    if not s.has_carry:
        yield from _refuses(s, "carry", (np.zeros((s.rows, 1), np.float32),))
        if jax.tree.leaves(s.forward.eval_shape(s.params, s.inputs)[1]):
            yield "carry=False", Difference("carry", "is not (): the layer returns a carry")
        return
    n = s.blocks
    for turn, sizes in itertools.product(range(4), ([1] * n, [0, n - 2, 1, 0, 1])):
        # A sequence begins where a chunk does, a block before, at both ends, and nowhere.
        where: list[list[int]] = [[n - 2], [n - 3], [0, n - 1], []]
        if s.reverse:
            # Backwards a sequence ends where the next one starts, which a chunk that ends there cannot know.
            where = [[], [], [], []] if sizes[0] else [[1], [], [1], []]
        starts = _starts(s, [where[(row + turn) % 4] for row in range(s.rows)])
        yield from _in_chunks(s, s.inputs._replace(starts=starts), sizes)
    yield from _in_chunks(s, s.inputs._replace(carry=s.fresh()), [0, n - 2, 1, 0, 1])


def _in_chunks(s: Subject, inputs: Inputs, sizes: list[int]) -> Found:
    weights, final = s.weights(inputs)
    want = s.run(inputs)
    cuts = [s.block * sum(sizes[:n]) for n in range(len(sizes) + 1)]
    outputs = s.output_lengths(np.array(cuts, np.int32))
    parts = [cut(inputs, begin, end) for begin, end in itertools.pairwise(cuts)]
    pieces = [weights[:, begin:end] for begin, end in itertools.pairwise(outputs)]
    order = slice(None, None, -1 if s.reverse else 1)
    got = s.chain(parts[order], pieces[order], final)
    got["y"] = np.concatenate(got["y"][order], 1)
    xs = got["gradient"]["x"][order]
    got["gradient"]["x"] = None if xs[0] is None else np.concatenate(xs, 1)
    begin = "" if inputs.carry is not None else ", carry=None"
    case = f"chunks of {[size * s.block for size in sizes]}{begin}"
    yield from labelled(case, differences(got, want, s.tolerance))


def padding(s: Subject) -> Found:
    """Past lengths x may hold anything."""
    none_empty = s.inputs.lengths
    one_empty = np.roll(np.where(none_empty == none_empty.min(), 0, none_empty), 1).astype(np.int32)
    several = [s.inputs, s.inputs._replace(lengths=one_empty)]
    if s.has_carry:
        several.append(s.inputs._replace(carry=s.fresh()))
    for inputs in several:
        valid = valid_steps(inputs.lengths, s.time)
        clean = inputs._replace(x=_fill(inputs.x, valid, 0))
        want = s.run(clean)
        padded = ~valid_steps(s.output_lengths(inputs.lengths), want["y"].shape[1])
        yield from labelled("y past the lengths", nonzeros({"y": want["y"]}, padded))
        if want["gradient"]["x"] is not None:
            yield from labelled("x past the lengths", nonzeros({"gradient": {"x": want["gradient"]["x"]}}, ~valid))
        for name, garbage in _garbage(s):
            got = s.run(inputs._replace(x=_fill(inputs.x, valid, garbage)))
            yield from labelled(f"{name} in padding", differences(got, want, 0.0))
        if s.has_starts:
            got = s.run(clean._replace(starts=inputs.starts | ~valid))
            yield from labelled("starts in padding", differences(got, want, 0.0))
        weights, final = s.weights(clean)
        got = s.run(clean, (_fill(weights, ~padded, 0), final))
        yield from labelled("a loss that sees y in padding", differences(got, want, 0.0))
    yield from _cut_off(s)
    whole = s.inputs._replace(lengths=np.full(s.rows, s.time, np.int32), starts=_starts(s, [[]] * s.rows))
    got = s.run(whole._replace(lengths=None, starts=None))
    yield from labelled("lengths=None, starts=None", differences(got, s.run(whole), s.tolerance))


def _cut_off(s: Subject) -> Found:
    """Padding is as if it was not there."""
    end = s.time - 2 * s.block
    padded = s.inputs._replace(lengths=np.full(s.rows, end, np.int32))
    short = cut(padded, 0, end)
    weights, final = s.weights(short)
    got = s.run(padded, (_pad(weights, s.weights(padded)[0].shape[1]), final))
    got["y"] = got["y"][:, : weights.shape[1]]
    if got["gradient"]["x"] is not None:
        got["gradient"]["x"] = got["gradient"]["x"][:, :end]
    yield from labelled("padding against a shorter x", differences(got, s.run(short), s.tolerance))


def empty_rows(s: Subject) -> Found:
    """A length of 0, and T = 0, return the incoming carry and zeros."""
    odd = np.arange(s.rows) % 2 == 1
    cases = [("every length 0", s.inputs, np.ones(s.rows, bool)), ("a length of 0 in odd rows", s.inputs, odd)]
    cases.append(("T = 0", cut(s.inputs, 0, 0), np.ones(s.rows, bool)))
    for name, inputs, empty in cases:
        inputs = inputs._replace(lengths=np.where(empty, 0, inputs.lengths).astype(np.int32))
        weights = s.weights(inputs)
        got = s.run(inputs, weights)
        yield from labelled(name, nonzeros({"y": got["y"]}, empty))
        gradient = got["gradient"]
        zero = {"x": gradient["x"]} if gradient["x"] is not None else {}
        yield from labelled(name, nonzeros({"gradient": zero}, empty))
        if empty.all():
            yield from labelled(name, nonzeros({"gradient": {"params": gradient["params"]}}, True))
        if s.has_carry:
            kept, given = (s.masked(carry, empty) for carry in (got["carry"], inputs.carry))
            yield from labelled(name, differences({"carry": kept}, {"carry": given}, 0.0))
            got_back, want_back = (s.masked(carry, empty) for carry in (gradient["carry"], weights[1]))
            yield from labelled(
                name, differences({"gradient": {"carry": got_back}}, {"gradient": {"carry": want_back}}, s.tolerance)
            )
    if s.has_carry and not s.has_capacity:
        fresh = s.inputs._replace(lengths=np.zeros(s.rows, np.int32), carry=None)
        got, want = s.run(cut(fresh, 0, 0)), s.run(fresh)
        final = s.weights(fresh)[1]
        got = s.run(cut(fresh, 0, 0), (s.weights(cut(fresh, 0, 0))[0], final))
        for result in (got, want):
            del result["y"], result["gradient"]["x"]
        yield from labelled("T = 0 against lengths of 0, carry=None", differences(got, want, s.tolerance))


def packing(s: Subject) -> Found:
    """Sequences packed in a row equal the same sequences run apart."""
    if not s.has_starts:
        yield from _refuses(s, "starts", np.zeros((s.rows, s.time), bool))
        return
    for turn in range(3):
        # The last of these begins with a sequence that goes on from the carry given.
        where = ([0, 1, s.blocks - 1], [0, s.blocks - 2], [2])
        begins = [where[(row + turn) % 3] for row in range(s.rows)]
        inputs = s.inputs._replace(starts=_starts(s, begins), lengths=s.inputs.lengths[::-1].copy())
        yield from labelled(f"starts in blocks {begins}", _packed(s, inputs))


def _packed(s: Subject, inputs: Inputs) -> Iterator[Difference]:
    parts = [inputs, s.tail] if _goes_on(s) else [inputs]
    weights = [s.weights(part._replace(carry=inputs.carry))[0] for part in parts]
    packed = s.chain(parts, weights, None)
    del packed["carry"]
    apart = jax.tree.map(np.zeros_like, packed)
    for going_on, group in _groups(s, inputs):
        _run_apart(s, inputs, weights, going_on, group, apart)
    yield from differences(packed, apart, s.tolerance)


def _goes_on(s: Subject) -> bool:
    # What follows shows whether the carry is that of the last sequence: two caches may hold the same in other places.
    # Backwards, what follows comes before the first start, and so is another sequence.
    return s.has_carry and not s.reverse


def _groups(s: Subject, inputs: Inputs) -> Iterator[tuple[bool, dict[int, tuple[int, int]]]]:
    """Yields sequences to run together, from the carry given or from none: for each row at most one (begin, end)."""
    rows = []
    for starts, length in zip(inputs.starts, inputs.lengths, strict=True):
        edges = [0, *(int(t) for t in np.flatnonzero(starts) if 0 < t < length), int(length)]
        rows.append(list(itertools.pairwise(edges)))
    going_on = {}
    if s.has_carry:
        going_on = {
            row: spans.pop(-1 if s.reverse else 0)
            for row, spans in enumerate(rows)
            if s.reverse or not inputs.starts[row, 0]
        }
    if going_on:
        yield True, going_on
    while any(rows):
        yield False, {row: spans.pop(0) for row, spans in enumerate(rows) if spans}


def _run_apart(
    s: Subject, inputs: Inputs, weights: list[Any], going_on: bool, group: dict[int, tuple[int, int]], apart: Any
) -> None:
    """Runs each sequence at the front of a row of its own, and adds what comes of it where it was packed."""
    x, lengths, weight = np.zeros_like(inputs.x), np.zeros_like(inputs.lengths), np.zeros_like(weights[0])
    last = np.zeros(s.rows, bool)
    outputs = {row: tuple(int(n) for n in s.output_lengths(np.array(span, np.int32))) for row, span in group.items()}
    for row, (begin, end) in group.items():
        x[row, : end - begin] = inputs.x[row, begin:end]
        lengths[row], last[row] = end - begin, end == inputs.lengths[row]
        first, stop = outputs[row]
        weight[row, : stop - first] = weights[0][row, first:stop]
    carry = inputs.carry if going_on else s.fresh()
    parts, seeds = [Inputs(x, lengths, s.none(inputs.starts), carry)], [weight]
    if _goes_on(s):
        parts.append(s.tail._replace(lengths=np.where(last, s.tail.lengths, 0).astype(np.int32)))
        seeds.append(_fill(weights[1], np.broadcast_to(last[:, None], weights[1].shape[:2]), 0))
    got = s.chain(parts, seeds, None)

    gradient, total = got["gradient"], apart["gradient"]
    for row, (begin, end) in group.items():
        first, stop = outputs[row]
        apart["y"][0][row, first:stop] = got["y"][0][row, : stop - first]
        if total["x"][0] is not None:
            total["x"][0][row, begin:end] = gradient["x"][0][row, : end - begin]
        if last[row] and _goes_on(s):
            apart["y"][1][row] = got["y"][1][row]
            if total["x"][1] is not None:
                total["x"][1][row] = gradient["x"][1][row]
    total["params"] = jax.tree.map(operator.add, total["params"], gradient["params"])
    if going_on:
        total["carry"] = jax.tree.map(operator.add, total["carry"], gradient["carry"])


def _refuses(s: Subject, argument: str, value: Any) -> Found:
    """A layer that cannot do something says so, rather than forget what it was given."""
    arguments = {"lengths": s.inputs.lengths, "train": False, argument: value}
    variables = {**s.state, "params": s.params}
    try:
        jax.eval_shape(lambda x: s.layer.apply(variables, x, **arguments), s.inputs.x)
    except (ValueError, TypeError, NotImplementedError):
        return
    yield f"{argument}=False", Difference("", f"the layer takes {argument} without an error, and without use")


def valid_steps(lengths: Any, time: int) -> np.ndarray:
    """True before the lengths."""
    return np.arange(time) < np.asarray(lengths)[:, None]


def _starts(s: Subject, blocks: list[list[int]]) -> np.ndarray | None:
    """True in the first step of the blocks that are named for each row."""
    if not s.has_starts:
        return None
    starts = np.zeros((s.rows, s.time), bool)
    for row, where in enumerate(blocks):
        starts[row, [block * s.block for block in where]] = True
    return starts


def _fill(array: np.ndarray, keep: np.ndarray, value: Any) -> np.ndarray:
    """The array where `keep` is True, the value elsewhere."""
    return np.where(keep.reshape(keep.shape + (1,) * (array.ndim - 2)), array, np.asarray(value, array.dtype))


def _garbage(s: Subject) -> Iterator[tuple[str, Any]]:
    if s.vocabulary is not None:
        yield "another token", s.vocabulary - 1
        yield "a token past the vocabulary", s.vocabulary
        yield "the largest integer", np.iinfo(s.spec.dtype).max
        if np.iinfo(s.spec.dtype).min < 0:
            yield "a negative token", -1
        return
    largest = float(jnp.finfo(s.spec.dtype).max)
    yield from {"NaN": np.nan, "inf": np.inf, "-inf": -np.inf, "noise": 1.0}.items()
    yield "huge noise", np.where(s.inputs.x > 0, largest, -largest)


def _pad(array: np.ndarray, time: int) -> np.ndarray:
    return np.pad(array, [(0, 0), (0, time - array.shape[1])] + [(0, 0)] * (array.ndim - 2))


def labelled(case: str, found: Iterator[Difference]) -> Found:
    """Says of each difference in which case it was found."""
    return ((case, difference) for difference in found)

"""The cases by name; a new one is a file here, a line below and a function in each peer's module."""

import dataclasses

from benchmarks.case import Case, Target
from benchmarks.cases import (
    attention,
    checkpoint,
    cnn,
    convolution,
    generation,
    linear_recurrence,
    loading,
    newton,
    pooling,
    recurrent,
    resnet,
    sharding,
    startup,
    training,
    transformer,
    variants,
)


def _never_behind(case: Case) -> Case:
    """With what holds for all on a GPU: no shape is slower than in Flax or Keras."""
    shapes = tuple(shape.name for shape in case.shapes)
    targets = tuple(
        Target(peer, 1.0, shapes, device="gpu", mode=mode, each=True)
        for peer in ("flax", "keras")
        if peer in case.peers
        for mode in case.modes
    )
    return dataclasses.replace(case, targets=case.targets + targets)


CASES: dict[str, Case] = {
    case.name: case if case is startup.CASE else _never_behind(case)
    for case in (
        cnn.CASE,
        convolution.CASE,
        pooling.CASE,
        resnet.CASE,
        recurrent.LSTM,
        recurrent.GRU,
        recurrent.RNN,
        variants.CASE,
        linear_recurrence.CASE,
        newton.CASE,
        attention.ATTENTION,
        attention.DECODE,
        attention.PREFILL,
        transformer.CASE,
        generation.LSTM,
        generation.TRANSFORMER,
        training.TRAINER,
        training.SWEEP,
        loading.CASE,
        checkpoint.CASE,
        sharding.CASE,
        startup.CASE,
    )
}

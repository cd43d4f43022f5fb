"""The cases by name; a new one is a file here, a line below and a function in each peer's module."""

from benchmarks.case import Case
from benchmarks.cases import (
    attention,
    cnn,
    convolution,
    linear_recurrence,
    newton,
    recurrent,
    resnet,
    training,
    transformer,
    variants,
)

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        cnn.CASE,
        convolution.CASE,
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
        training.TRAINER,
        training.SWEEP,
    )
}

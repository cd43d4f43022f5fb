"""The cases by name; a new one is a file here, a line below and a function in each peer's module."""

from benchmarks.case import Case
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

CASES: dict[str, Case] = {
    case.name: case
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

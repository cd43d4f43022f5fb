"""The classic small network on images of 28x28."""

from benchmarks.case import Case, Shape, Target
from benchmarks.cases import images

_PEERS = {"torch": 0.65, "flax": 0.45, "keras": 0.4}

CASE = Case(
    name="cnn",
    summary="one Adam step of SmallCNN (93,322 parameters), 28x28x1",
    shapes=(
        Shape("batch 32", {"batch": 32, "size": 28, "channels": 1}),
        Shape("batch 128", {"batch": 128, "size": 28, "channels": 1}, ours=("jaxnets", "jaxnets_tuned")),
    ),
    peers=(*_PEERS, "torch_compiled"),
    agreement={"logits": 1e-4, "losses": 1e-4},
    batch=images.batch,
    targets=(
        *(Target(peer, ratio, ("batch 32",)) for peer, ratio in _PEERS.items()),
        *(Target(peer, ratio, ("batch 128",), ours="jaxnets_tuned") for peer, ratio in _PEERS.items()),
        Target("torch", 0.5, ("batch 32",), stage="then"),
        Target("torch", 0.5, ("batch 128",), stage="then"),
    ),
)

"""ResNet-18 on images of 32x32."""

from benchmarks.case import Case, Shape, Target
from benchmarks.cases import images

CASE = Case(
    name="resnet",
    summary="one momentum SGD step of ResNet-18 (CIFAR stem, 11,173,962 parameters), 32x32x3",
    # `blocks` to a stage and `width` of the first stage: what makes it ResNet-18, or a small one.
    shapes=(Shape("batch 64", {"batch": 64, "size": 32, "channels": 3, "blocks": 2, "width": 64}),),
    peers=("torch", "torch_compiled", "flax"),
    agreement={"logits": 1e-4, "losses": 1e-3},
    batch=images.batch,
    targets=(
        Target("torch", 1.25, ("batch 64",)),
        Target("flax", 0.7, ("batch 64",)),
        Target("torch", 1.0, ("batch 64",), stage="then"),
    ),
)

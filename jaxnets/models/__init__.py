"""Models: Linen modules called as `model(x, *, train=False)`, giving logits [B, classes] or the numbers asked for."""

from jaxnets.models.classifier import SequenceClassifier
from jaxnets.models.cnn import MLP, ConvNet, LeNet5, SmallCNN
from jaxnets.models.language import LanguageModel, hybrid_lm, transformer_lm
from jaxnets.models.resnet import ResNet, resnet18, resnet34, resnet50
from jaxnets.models.writing import Writer

__all__ = [
    "MLP",
    "ConvNet",
    "LanguageModel",
    "LeNet5",
    "ResNet",
    "SequenceClassifier",
    "SmallCNN",
    "Writer",
    "hybrid_lm",
    "resnet18",
    "resnet34",
    "resnet50",
    "transformer_lm",
]

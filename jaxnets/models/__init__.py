"""Models: Linen modules called as `model(x, *, train=False)`, giving logits [B, classes]."""

from jaxnets.models.cnn import MLP, ConvNet, LeNet5, SmallCNN
from jaxnets.models.resnet import ResNet, resnet18, resnet34, resnet50

__all__ = ["MLP", "ConvNet", "LeNet5", "ResNet", "SmallCNN", "resnet18", "resnet34", "resnet50"]

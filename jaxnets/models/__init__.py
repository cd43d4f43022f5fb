"""Models: Linen modules called as `model(x, *, train=False)`, giving logits [B, classes] or the numbers asked for."""

from jaxnets.models.classifier import SequenceClassifier
from jaxnets.models.cnn import MLP, ConvNet, LeNet5, SmallCNN
from jaxnets.models.encoder import Encoder
from jaxnets.models.forecasting import DLinear, InstanceNormalised, NLinear, PatchTST, SequenceForecaster, roll_out
from jaxnets.models.language import HybridLM, LanguageModel, RecurrentLM, TransformerLM
from jaxnets.models.mirrored import Mirrored
from jaxnets.models.resnet import ResNet, resnet18, resnet34, resnet50
from jaxnets.models.seq2seq import Seq2Seq, recurrent_seq2seq, transformer_seq2seq
from jaxnets.models.text_classifier import TextClassifier, WordCNN
from jaxnets.models.vit import ViT
from jaxnets.models.writing import Writer

__all__ = [
    "MLP",
    "ConvNet",
    "DLinear",
    "Encoder",
    "HybridLM",
    "InstanceNormalised",
    "LanguageModel",
    "LeNet5",
    "Mirrored",
    "NLinear",
    "PatchTST",
    "RecurrentLM",
    "ResNet",
    "Seq2Seq",
    "SequenceClassifier",
    "SequenceForecaster",
    "SmallCNN",
    "TextClassifier",
    "TransformerLM",
    "ViT",
    "WordCNN",
    "Writer",
    "recurrent_seq2seq",
    "resnet18",
    "resnet34",
    "resnet50",
    "roll_out",
    "transformer_seq2seq",
]

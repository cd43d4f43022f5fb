"""Flax Linen modules: they declare parameters, check shapes and call the ops."""

from jaxnets.layers.convolution import Conv, ConvTranspose

__all__ = ["Conv", "ConvTranspose"]

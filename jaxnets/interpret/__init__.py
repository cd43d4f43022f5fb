"""Interpretation: what a trained or untrained network does, as pure functions of a layer and its variables."""

from jaxnets.interpret.attribution import integrated_gradients
from jaxnets.interpret.coloured import Span, coloured_html, coloured_text
from jaxnets.interpret.gates import gate_activations, saturation
from jaxnets.interpret.gradient_flow import (
    classifier_gradient_flow,
    gradient_flow,
    gradient_norms,
    memory_length,
    state_gradients,
)

__all__ = [
    "Span",
    "classifier_gradient_flow",
    "coloured_html",
    "coloured_text",
    "gate_activations",
    "gradient_flow",
    "gradient_norms",
    "integrated_gradients",
    "memory_length",
    "saturation",
    "state_gradients",
]

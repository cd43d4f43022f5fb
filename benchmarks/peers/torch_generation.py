"""PyTorch's text token by token, in a loop of Python's."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.case import Problem
from benchmarks.peers.eager import device_of
from benchmarks.peers.looped import Looped


def generation(problem: Problem) -> Looped:
    """`nn.LSTM` with the embedding for a head: the prompt at once, then a token at a time."""
    device, features = device_of(problem), problem.parameters["features"]
    weights = {name.split("/")[-1]: torch.from_numpy(value).to(device) for name, value in problem.weights.items()}
    table = weights["embedding"]
    layer = nn.LSTM(features, features, batch_first=True).to(device)
    ours = weights["kernel"].T, weights["recurrent_kernel"].T, weights["bias"], 0 * weights["bias"]
    with torch.no_grad():
        # They come in this order.
        for parameter, value in zip(layer.parameters(), ours, strict=True):
            parameter.copy_(value)
    prompts = torch.from_numpy(problem.batch["x"]).long().to(device)

    @torch.inference_mode()
    def likeliest(tokens: torch.Tensor, carry: Any) -> tuple[torch.Tensor, Any]:
        y, carry = layer(functional.embedding(tokens, table), carry)
        return functional.linear(y[:, -1], table).argmax(dim=-1), carry

    def more(token: torch.Tensor, carry: Any) -> tuple[torch.Tensor, Any]:
        return likeliest(token[:, None], carry)

    return Looped(problem, lambda: likeliest(prompts, None), more)

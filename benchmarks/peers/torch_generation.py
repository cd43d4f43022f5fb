"""PyTorch's text token by token, in a loop of Python's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.case import Problem
from benchmarks.peers.eager import device_of
from benchmarks.peers.looped import Texts, looped
from benchmarks.peers.torch_attention import Transformer, converted_transformer

_Logits = Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]]
"""From tokens [batch, time] and a carry, None for the first, to the logits after the last, and a carry."""


def generation(problem: Problem) -> Texts:
    """Either model: the prompt at once, then a token at a time."""
    logits = (_recurrent if problem.case == "lstm_generation" else _transformer)(problem)
    prompts = torch.from_numpy(problem.batch["x"]).long().to(device_of(problem))

    @torch.inference_mode()
    def likeliest(tokens: torch.Tensor, carry: Any) -> tuple[torch.Tensor, Any]:
        last, carry = logits(tokens, carry)
        return last.argmax(dim=-1), carry

    def more(token: torch.Tensor, carry: Any) -> tuple[torch.Tensor, Any]:
        return likeliest(token[:, None], carry)

    return looped(problem, lambda: likeliest(prompts, None), more)


def _recurrent(problem: Problem) -> _Logits:
    """`nn.LSTM` with the embedding for a head, after the prompt as `nn.LSTMCell`, which packs no weights anew."""
    device, features = device_of(problem), problem.parameters["features"]
    weights = {name.split("/")[-1]: torch.from_numpy(value).to(device) for name, value in problem.weights.items()}
    table = weights["embedding"]
    layer, cell = nn.LSTM(features, features, batch_first=True).to(device), nn.LSTMCell(features, features).to(device)
    ours = weights["kernel"].T, weights["recurrent_kernel"].T, weights["bias"], 0 * weights["bias"]
    for module in layer, cell:
        with torch.no_grad():
            # They come in this order.
            for parameter, value in zip(module.parameters(), ours, strict=True):
                parameter.copy_(value)

    def logits(tokens: torch.Tensor, carry: Any) -> tuple[torch.Tensor, Any]:
        x = functional.embedding(tokens, table)
        if carry is None:
            y, (h, c) = layer(x)
            return functional.linear(y[:, -1], table), (h[0], c[0])
        h, c = cell(x[:, 0], carry)
        return functional.linear(h, table), (h, c)

    return logits


def _transformer(problem: Problem) -> _Logits:
    """Blocks whose keys and values are written to a cache [B, N, T, H], in place."""
    device, sizes = device_of(problem), problem.parameters
    batch, room = len(problem.batch["x"]), sizes["prompt"] + sizes["tokens"]
    network = Transformer(sizes["vocabulary"], room, *(sizes[name] for name in ("features", "heads", "depth")))
    weights = {name: torch.from_numpy(value) for name, value in problem.weights.items()}
    network.load_state_dict(converted_transformer(weights, sizes["depth"]))
    network.to(device)
    shape = sizes["depth"], 2, batch, sizes["heads"], room, sizes["features"] // sizes["heads"]
    cache = torch.zeros(shape, device=device)

    def logits(tokens: torch.Tensor, place: int | None) -> tuple[torch.Tensor, int]:
        begin = place or 0
        end = begin + tokens.shape[1]
        x = network.embedding(tokens) + network.table[begin:end]
        for block, cached in zip(network.blocks, cache, strict=True):
            heads = block.qkv(block.norm_mixer(x)).unflatten(-1, (3, block.heads, -1)).permute(2, 0, 3, 1, 4)
            cached[:, :, :, begin:end] = heads[1:]
            # One token after all others sees all there is.
            y = functional.scaled_dot_product_attention(heads[0], *cached[:, :, :, :end], is_causal=place is None)
            x = x + block.out(y.transpose(1, 2).flatten(2))
            x = x + block.down(functional.gelu(block.up(block.norm_mlp(x)), approximate="tanh"))
        return functional.linear(network.norm(x[:, -1]), network.embedding.weight), end

    return logits

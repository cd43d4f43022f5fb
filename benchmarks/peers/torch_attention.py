"""PyTorch's attention, eager or compiled: alone, with a cache, and in a Transformer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.case import Arrays, Contender, Problem
from benchmarks.peers.eager import compiled, device_of, first_seconds


def attention(problem: Problem) -> Contender:
    """`scaled_dot_product_attention`, from its own layout."""
    return _Attention(problem)


def decode(problem: Problem) -> Contender:
    """The same with what a layer of attention does around it."""
    return _Cached(problem, held=problem.batch["x"].shape[1] - 1)


def prefill(problem: Problem) -> Contender:
    """The same from an empty cache."""
    return _Cached(problem, held=0)


def transformer(problem: Problem) -> Contender:
    """The same in blocks, normalised first."""
    return _LanguageModel(problem)


class _Eager:
    variant = ""
    compile_seconds: float | None = None
    program_bytes = None

    def _step(self) -> Any:
        raise NotImplementedError

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._step()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()


class _Attention(_Eager):
    variant = "[B, N, T, H]"

    def __init__(self, problem: Problem):
        device = device_of(problem)
        self._forward = problem.mode == "forward"
        self._heads = {
            name: torch.from_numpy(value).transpose(1, 2).contiguous().to(device).requires_grad_(not self._forward)
            for name, value in problem.weights.items()
        }
        self._attend = compiled(problem, _causal)
        self.compile_seconds = first_seconds(problem, self._step)

    def results(self) -> Arrays:
        if self._forward:
            return {"y": self._step().transpose(1, 2).cpu().numpy()}
        loss, gradients = self._step()
        found = {name: gradient.transpose(1, 2) for name, gradient in zip(self._heads, gradients, strict=True)}
        return {name: value.cpu().numpy() for name, value in ({"loss": loss.detach()} | found).items()}

    def _step(self) -> Any:
        y = self._attend(*(self._heads[name] for name in "qkv"))
        if self._forward:
            return y
        loss = y.square().sum() / 2
        return loss, torch.autograd.grad(loss, list(self._heads.values()))


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


class _Cached(_Eager):
    """Takes the tokens after those that are held, again at every step."""

    def __init__(self, problem: Problem, held: int):
        device, self._heads, self._held = device_of(problem), problem.parameters["heads"], held
        self._kernels = {
            name.split("/")[0]: torch.from_numpy(np.ascontiguousarray(value.T)).to(device)
            for name, value in problem.weights.items()
        }
        x = torch.from_numpy(problem.batch["x"]).to(device)
        self._tokens = x[:, held:].contiguous()
        with torch.inference_mode():
            self._cache = {name: self._split(x, name).contiguous() for name in ("key", "value")}
            for cached in self._cache.values():
                cached[:, :, held:] = 0
        self._taken = compiled(problem, self._take)
        self.compile_seconds = first_seconds(problem, self._step)

    def results(self) -> Arrays:
        found = {"y": self._step()}
        if not self._held:
            found |= {name[0]: cached.transpose(1, 2) for name, cached in self._cache.items()}
        return {name: value.cpu().numpy() for name, value in found.items()}

    def _split(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, self._kernels[name]).unflatten(-1, (self._heads, -1)).transpose(1, 2)

    @torch.inference_mode()
    def _step(self) -> torch.Tensor:
        return self._taken()

    def _take(self) -> torch.Tensor:
        for name, cached in self._cache.items():
            cached[:, :, self._held :] = self._split(self._tokens, name)
        q = self._split(self._tokens, "query")
        # One token after all others sees all there is.
        y = functional.scaled_dot_product_attention(q, *self._cache.values(), is_causal=not self._held)
        return functional.linear(y.transpose(1, 2).flatten(2), self._kernels["out"])


class _Block(nn.Module):
    def __init__(self, features: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_mixer, self.norm_mlp = (nn.LayerNorm(features, eps=1e-6) for _ in range(2))
        self.qkv = nn.Linear(features, 3 * features, bias=False)
        self.out = nn.Linear(features, features, bias=False)
        self.up = nn.Linear(features, 4 * features, bias=False)
        self.down = nn.Linear(4 * features, features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(self.norm_mixer(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm_mlp(x)), approximate="tanh"))


class Transformer(nn.Module):
    """A causal Transformer with learned positions and tied weights, from tokens to logits."""

    def __init__(self, vocabulary: int, time: int, features: int, heads: int, depth: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, features)
        self.table = nn.Parameter(torch.zeros(time, features))
        self.blocks = nn.ModuleList(_Block(features, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(features, eps=1e-6)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The logits [batch, time, vocabulary]."""
        x = self.embedding(tokens) + self.table
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.embedding.weight)


class _LanguageModel(_Eager):
    def __init__(self, problem: Problem):
        device = device_of(problem)
        self._forward = problem.mode == "forward"
        self._x, self._y = (torch.from_numpy(problem.batch[name]).long().to(device) for name in "xy")
        names = "vocabulary", "time", "features", "heads", "depth"
        self._network = Transformer(*(problem.parameters[name] for name in names)).to(device)
        self._weights = {
            name: torch.from_numpy(value).to(device).requires_grad_() for name, value in problem.weights.items()
        }
        self._converted = converted_transformer(self._weights, problem.parameters["depth"])
        with torch.no_grad():
            for name, parameter in self._network.named_parameters():
                parameter.copy_(self._converted[name])
        self._logits = compiled(problem, self._network)
        self.compile_seconds = first_seconds(problem, self._step)

    def results(self) -> Arrays:
        if self._forward:
            return {"y": self._step().cpu().numpy()}
        loss, gradients = self._step()
        # The conversion is linear: its transpose brings gradients back.
        converted = [self._converted[name] for name, _ in self._network.named_parameters()]
        back = torch.autograd.grad(converted, tuple(self._weights.values()), gradients, retain_graph=True)
        found = {"loss": loss.detach(), **dict(zip(self._weights, back, strict=True))}
        return {name: value.cpu().numpy() for name, value in found.items()}

    def _step(self) -> Any:
        if self._forward:
            with torch.no_grad():
                return self._logits(self._x)
        loss = functional.cross_entropy(self._logits(self._x).flatten(0, 1), self._y.flatten())
        return loss, torch.autograd.grad(loss, list(self._network.parameters()))


def converted_transformer(weights: Mapping[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """Kernels the other way round, and one for queries, keys and values."""
    found = {
        "embedding.weight": weights["embedding/embedding"],
        "table": weights["layer/layers_0/table"],
        "norm.weight": weights["norm/scale"],
        "norm.bias": weights["norm/bias"],
    }
    stacked = {path.removeprefix("layer/layers_1/layer/"): value for path, value in weights.items()}
    for i in range(depth):
        kernels = {path.split("/")[-2]: value[i].T for path, value in stacked.items() if path.endswith("kernel")}
        qkv = torch.cat([kernels[name] for name in ("query", "key", "value")])
        found |= {f"blocks.{i}.{name}.weight": kernels[name] for name in ("out", "up", "down")}
        found |= {f"blocks.{i}.qkv.weight": qkv}
        for norm in ("norm_mixer", "norm_mlp"):
            found[f"blocks.{i}.{norm}.weight"] = stacked[f"{norm}/scale"][i]
            found[f"blocks.{i}.{norm}.bias"] = stacked[f"{norm}/bias"][i]
    return found

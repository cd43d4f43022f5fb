"""PyTorch, eager or compiled, on every core; the faster memory layout and optimizer are found by trying."""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.case import Arrays, Contender, Problem
from benchmarks.peers.drawn import Drawn
from benchmarks.peers.eager import compiled, device_of, first_seconds, trial
from benchmarks.peers.started import Started
from benchmarks.peers.torch_attention import attention, decode, prefill, transformer
from benchmarks.peers.torch_generation import generation
from benchmarks.peers.torch_pooling import pooling

__all__ = [
    "attention",
    "cnn",
    "convolution",
    "decode",
    "generation",
    "loading",
    "pooling",
    "prefill",
    "recurrent",
    "resnet",
    "startup",
    "transformer",
]


def cnn(problem: Problem) -> Contender:
    """The small network with Adam."""
    side = problem.parameters["size"]
    for pool in (2, 2, 1):
        side = (side - 2) // pool

    def network() -> nn.Module:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (before, features) in enumerate(((problem.parameters["channels"], 32), (32, 64), (64, 64)), start=1):
            layers |= {f"conv_{i}": nn.Conv2d(before, features, 3), f"relu_{i}": nn.ReLU()}
            if i < 3:
                layers[f"pool_{i}"] = nn.MaxPool2d(2)
        layers |= {"flat": nn.Flatten(), "dense": nn.Linear(side * side * 64, 64), "relu": nn.ReLU()}
        layers["head"] = nn.Linear(64, 10)
        return nn.Sequential(layers)

    # A map is flattened channels first here, channels last in ours.
    kernel = problem.weights["dense/kernel"].reshape(side, side, 64, -1)
    weights = problem.weights | {"dense/kernel": np.moveaxis(kernel, 2, 0).reshape(side * side * 64, -1)}
    return _EagerStep(problem, network, weights, torch.optim.Adam, lr=1e-3)


def resnet(problem: Problem) -> Contender:
    """ResNet-18 with momentum."""
    sizes = problem.parameters["channels"], problem.parameters["blocks"], problem.parameters["width"]
    return _EagerStep(problem, lambda: _ResNet(*sizes), problem.weights, torch.optim.SGD, lr=0.01, momentum=0.9)


def convolution(problem: Problem) -> Contender:
    """The layer, in either memory layout."""
    return _EagerConvolution(problem)


def recurrent(problem: Problem) -> Contender:
    """The layer, batch first or time first, whichever is faster."""
    return _EagerRecurrence(problem)


def loading(problem: Problem) -> Drawn:
    """`DataLoader` over tensors in memory, which it takes row by row, in this process."""
    tensors = TensorDataset(*(torch.from_numpy(problem.batch[name]) for name in "xy"))
    loader = DataLoader(tensors, problem.parameters["batch"], shuffle=True, drop_last=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    return Drawn(problem, lambda: dict(zip("xy", next(batches), strict=True)), "no workers")


def startup(problem: Problem) -> Started:
    """What a program of PyTorch imports at least."""
    return Started("import torch")


class _Block(nn.Module):
    def __init__(self, before: int, features: int, strides: int):
        super().__init__()
        self.conv_1, self.norm_1 = _conv(before, features, 3, strides), nn.BatchNorm2d(features)
        self.conv_2, self.norm_2 = _conv(features, features, 3, 1), nn.BatchNorm2d(features)
        self.projects = strides > 1 or before != features
        if self.projects:
            self.shortcut, self.shortcut_norm = _conv(before, features, 1, strides), nn.BatchNorm2d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.norm_1(self.conv_1(x)), inplace=True)
        y = self.norm_2(self.conv_2(y))
        if self.projects:
            x = self.shortcut_norm(self.shortcut(x))
        return functional.relu(x + y, inplace=True)


class _ResNet(nn.Module):
    def __init__(self, channels: int, blocks: int, width: int):
        super().__init__()
        self.stem, self.stem_norm = _conv(channels, width, 3, 1), nn.BatchNorm2d(width)
        before, self._blocks = width, []
        for stage, i in itertools.product(range(4), range(blocks)):
            features = width * 2**stage
            block = _Block(before, features, 2 if stage > 0 and i == 0 else 1)
            self.add_module(f"stage{stage + 1}_block{i + 1}", block)
            self._blocks.append(block)
            before = features
        self.head = nn.Linear(before, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem_norm(self.stem(x)), inplace=True)
        for block in self._blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


class _EagerStep:
    program_bytes = None

    def __init__(
        self, problem: Problem, network: Callable[[], nn.Module], weights: Arrays, optimizer: Any, **settings: float
    ):
        device = device_of(problem)
        x = torch.from_numpy(problem.batch["x"]).permute(0, 3, 1, 2)
        self._y = torch.from_numpy(problem.batch["y"]).long().to(device)

        def build(layout: str, fused: bool) -> None:
            form = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
            self._x = x.to(device).contiguous(memory_format=form)
            self._network = _loaded(network(), weights).to(device).to(memory_format=form).train()  # type: ignore[call-overload]
            self._optimizer = optimizer(self._network.parameters(), fused=fused, **settings)

        seconds = {}
        for choice in itertools.product(("contiguous", "channels_last"), (False, True)):
            build(*choice)
            seconds[choice] = trial(self.run)
        layout, fused = min(seconds, key=seconds.__getitem__)
        build(layout, fused)
        self.variant = f"{layout}, {'fused' if fused else 'plain'} optimizer"
        self._network = compiled(problem, self._network)
        self.compile_seconds = first_seconds(problem, self._loss)

    def results(self) -> Arrays:
        with torch.no_grad():
            logits = self._network(self._x).cpu().numpy()
        return {"logits": logits, "losses": np.array([self._step().item() for _ in range(3)])}

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._step()
        if self._y.is_cuda:
            torch.cuda.synchronize()

    def _step(self) -> torch.Tensor:
        loss = self._loss()
        self._optimizer.step()
        return loss

    def _loss(self) -> torch.Tensor:
        self._optimizer.zero_grad()
        loss = functional.cross_entropy(self._network(self._x), self._y)
        loss.backward()
        return loss


class _EagerConvolution:
    program_bytes = None

    def __init__(self, problem: Problem):
        device, parameters = device_of(problem), problem.parameters
        x = torch.from_numpy(problem.batch["x"]).permute(0, 3, 1, 2).to(device)
        self._forward = problem.mode == "forward"

        def build(layout: str) -> None:
            form = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
            conv = nn.Conv2d(parameters["channels"], parameters["features"], 3, padding=1)
            self._layer = _loaded(nn.Sequential(OrderedDict(conv=conv)), _placed(problem.weights, "conv"))
            self._layer = self._layer.to(device).to(memory_format=form)  # type: ignore[call-overload]
            self._x = x.contiguous(memory_format=form).detach().requires_grad_(not self._forward)

        seconds = {}
        for layout in ("contiguous", "channels_last"):
            build(layout)
            seconds[layout] = trial(self.run)
        self.variant = min(seconds, key=seconds.__getitem__)
        build(self.variant)
        self._layer = compiled(problem, self._layer)
        self.compile_seconds = first_seconds(problem, self._step)

    def results(self) -> Arrays:
        if self._forward:
            return {"y": self._step().permute(0, 2, 3, 1).cpu().numpy()}
        loss, (x, kernel, bias) = self._step()
        found = {"loss": loss.detach(), "x": x.permute(0, 2, 3, 1), "kernel": kernel.permute(2, 3, 1, 0), "bias": bias}
        return {name: value.cpu().numpy() for name, value in found.items()}

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._step()
            if self._x.is_cuda:
                torch.cuda.synchronize()

    def _step(self) -> Any:
        if self._forward:
            with torch.no_grad():
                return self._layer(self._x)
        loss = self._layer(self._x).square().sum() / 2
        return loss, torch.autograd.grad(loss, [self._x, *self._layer.parameters()])


class _EagerRecurrence:
    program_bytes = None

    def __init__(self, problem: Problem):
        device, parameters = device_of(problem), problem.parameters
        make = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[problem.case]
        x = torch.from_numpy(problem.batch["x"]).to(device)
        self._forward = problem.mode == "forward"
        self._weights = {
            name: torch.from_numpy(value).to(device).requires_grad_() for name, value in problem.weights.items()
        }
        self._converted = _recurrent_weights(self._weights)

        def build(layout: str) -> None:
            self._batch_first = layout == "batch first"
            layer = make(parameters["input"], parameters["hidden"], batch_first=self._batch_first).to(device)
            with torch.no_grad():
                # They come in this order: weights and biases, each of the input first.
                for parameter, value in zip(layer.parameters(), self._converted, strict=True):
                    parameter.copy_(value)
            self._layer: nn.Module = layer
            self._x = self._swapped(x).contiguous().requires_grad_(not self._forward)

        seconds = {}
        for layout in ("batch first", "time first"):
            build(layout)
            seconds[layout] = trial(self.run)
        self.variant = min(seconds, key=seconds.__getitem__)
        build(self.variant)
        self._layer = compiled(problem, self._layer)
        self.compile_seconds = first_seconds(problem, self._step)

    def results(self) -> Arrays:
        found: dict[str, torch.Tensor]
        if self._forward:
            y, states = self._step()
            # An LSTM has two; of each the first axis is that of layers.
            states = (h[0] for h in (states if isinstance(states, tuple) else (states,)))
            found = {"y": self._swapped(y), **dict(zip("hc", states, strict=False))}
        else:
            loss, (x, *gradients) = self._step()
            # The conversion is linear: its transpose brings gradients back.
            back = torch.autograd.grad(self._converted, tuple(self._weights.values()), gradients, retain_graph=True)
            found = {"loss": loss.detach(), "x": self._swapped(x), **dict(zip(self._weights, back, strict=True))}
        return {name: value.cpu().numpy() for name, value in found.items()}

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._step()
            if self._x.is_cuda:
                # As the others wait for each.
                torch.cuda.synchronize()

    def _step(self) -> Any:
        if self._forward:
            with torch.no_grad():
                return self._layer(self._x)
        y, _ = self._layer(self._x)
        loss = y.square().sum() / 2
        return loss, torch.autograd.grad(loss, [self._x, *self._layer.parameters()])

    def _swapped(self, array: torch.Tensor) -> torch.Tensor:
        return array if self._batch_first else array.transpose(0, 1)


def _recurrent_weights(weights: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Kernels the other way round, and a second bias, which is ours for n in a GRU."""
    bias = weights["bias"]
    recurrent_bias = 0 * bias
    if "recurrent_bias" in weights:
        recurrent_bias = functional.pad(weights["recurrent_bias"], (2 * len(weights["recurrent_bias"]), 0))
    return weights["kernel"].T, weights["recurrent_kernel"].T, bias, recurrent_bias


def _placed(weights: Arrays, place: str) -> Arrays:
    return {f"{place}/{name}": value for name, value in weights.items()}


def _loaded(network: nn.Module, weights: Arrays) -> nn.Module:
    """The network with our weights: kernels [*window, in, out] become [out, in, *window]."""
    with torch.no_grad():
        for path, value in weights.items():
            *place, name = path.split("/")
            layer = network.get_submodule(".".join(place))
            if name == "kernel":
                value = np.moveaxis(value, (-1, -2), (0, 1))
            target = layer.bias if name == "bias" else layer.weight
            target.copy_(torch.from_numpy(np.ascontiguousarray(value)))  # type: ignore[operator]
    return network


def _conv(before: int, features: int, window: int, strides: int) -> nn.Conv2d:
    return nn.Conv2d(before, features, window, strides, padding=window // 2, bias=False)

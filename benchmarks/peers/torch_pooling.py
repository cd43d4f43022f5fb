"""PyTorch's max pooling, in either memory layout."""

from typing import Any

import torch
from torch.nn import functional

from benchmarks.case import Arrays, Contender, Problem
from benchmarks.peers.eager import compiled, device_of, first_seconds, trial


def pooling(problem: Problem) -> Contender:
    """`max_pool2d`, in either memory layout."""
    return _Pooling(problem)


class _Pooling:
    program_bytes = None

    def __init__(self, problem: Problem):
        x = torch.from_numpy(problem.batch["x"]).permute(0, 3, 1, 2).to(device_of(problem))
        self._forward = problem.mode == "forward"
        self._pool: Any = functional.max_pool2d
        seconds = {}
        forms = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
        for name, form in forms.items():
            self._x = x.contiguous(memory_format=form).detach().requires_grad_(not self._forward)
            seconds[name] = trial(self.run)
        self.variant = min(seconds, key=seconds.__getitem__)
        self._x = x.contiguous(memory_format=forms[self.variant]).detach().requires_grad_(not self._forward)
        self._pool = compiled(problem, self._pool)
        self.compile_seconds = first_seconds(problem, self._step)

    def results(self) -> Arrays:
        if self._forward:
            return {"y": self._step().permute(0, 2, 3, 1).cpu().numpy()}
        loss, gradient = self._step()
        return {"loss": loss.detach().cpu().numpy(), "x": gradient.permute(0, 2, 3, 1).cpu().numpy()}

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._step()
            if self._x.is_cuda:
                torch.cuda.synchronize()

    def _step(self) -> Any:
        if self._forward:
            with torch.no_grad():
                return self._pool(self._x, 2)
        loss = self._pool(self._x, 2).square().sum() / 2
        return loss, *torch.autograd.grad(loss, [self._x])

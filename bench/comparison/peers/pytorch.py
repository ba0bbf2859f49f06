"""PyTorch: operation by operation, compiled by torch.compile, and on CUDA as a captured graph.

Data are tensors that lie on the device, and a minibatch is an index_select of them: a DataLoader would take longer. The
number of threads is OMP_NUM_THREADS, which PyTorch reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from comparison.peers.task import Missing, Parameters, Peer, Task


class TorchEager(Peer):
    """Operation by operation. Adam is the fused one, which the documentation names the fastest; fused SGD is slower
    than the ordinary one where networks are small, and as fast where they are large."""

    capturable = False

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.version, device = f"PyTorch {torch.__version__}", torch.device(task.device)
        if task.device == "cuda" and not torch.cuda.is_available():
            raise Missing(f"{self.version} finds no CUDA device")
        torch.set_float32_matmul_precision("high" if task.precision == "tf32" else "highest")
        layers: list[Any] = []
        for w, _ in task.parameters:
            layers += [torch.nn.Linear(*w.shape, device=device), torch.nn.ReLU()]
            if task.activation == "tanh":
                layers[-1] = torch.nn.Tanh()
        self.model = torch.nn.Sequential(*layers[:-1])
        self.x, self.target = torch.from_numpy(task.x).to(device), torch.from_numpy(task.target).to(device)
        if task.adam:
            rate, beta1, beta2, epsilon = task.settings
            self.optimizer: Any = torch.optim.Adam(
                self.model.parameters(), rate, (beta1, beta2), epsilon, fused=True, capturable=self.capturable
            )
        else:
            self.optimizer = torch.optim.SGD(self.model.parameters(), task.settings[0])
        self.total = torch.zeros((), device=device)
        self.reset()
        self.prepare()

    def prepare(self) -> None:
        """What is done once."""

    def reset(self) -> None:
        with torch.no_grad():  # in the same memory, which a captured graph knows
            for layer, (w, b) in zip(self.model[::2], self.task.parameters, strict=True):
                layer.weight.copy_(torch.from_numpy(w.T.copy()))
                layer.bias.copy_(torch.from_numpy(b))
            for state in self.optimizer.state.values():
                for kept in state.values():
                    if kept is not None:
                        kept.zero_()

    def loss(self, x: Any, target: Any) -> Any:
        half = self.task.precision == "bfloat16"
        with torch.autocast(
            self.task.device, torch.bfloat16, enabled=half, cache_enabled=False
        ):  # no cache: for graphs
            y = self.model(x)
            if self.task.labelled:
                return functional.cross_entropy(y, target)
            return 0.5 * y.shape[1] * functional.mse_loss(y, target)

    def step(self, x: Any, target: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x, target)
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach()

    def step_on(self, rows: Any) -> None:
        self.step(self.x.index_select(0, rows), self.target.index_select(0, rows))

    def epoch(self, shuffle: bool) -> float:
        order = (torch.randperm if shuffle else torch.arange)(self.task.rows, device=self.x.device)
        self.total.zero_()
        for rows in order.split(self.task.batch):
            self.step_on(rows)
        return float(self.total) / self.task.steps

    def steps(self, times: int) -> int:
        x, target = self.x[: self.task.batch], self.target[: self.task.batch]
        for _ in range(times):
            self.step(x, target)
        float(self.total)
        return times

    def parameters(self) -> Parameters:
        layers = self.model[::2]
        return [(layer.weight.detach().cpu().numpy().T, layer.bias.detach().cpu().numpy()) for layer in layers]


class TorchCompiled(TorchEager):
    """Model and loss by torch.compile; on CUDA in the mode for small batches, which replays CUDA graphs. The optimizer
    stays the fused one: compiled as well it is no faster, and neither are cpp_wrapper and max-autotune."""

    def prepare(self) -> None:
        torch.compiler.reset()  # else the eighth task of this process would not be compiled any more
        self.on_cuda = self.task.device == "cuda"
        compiled = torch.compile(super().loss, mode="reduce-overhead" if self.on_cuda else None)
        self.loss = compiled  # type: ignore[method-assign]

    def step_on(self, rows: Any) -> None:
        if self.on_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        super().step_on(rows)


class TorchGraph(TorchEager):
    """The whole step as one CUDA graph, as in "Whole-network capture" of PyTorch's notes on CUDA semantics."""

    capturable = True

    def prepare(self) -> None:
        batch = self.task.batch
        if self.task.device != "cuda":
            raise Missing("CUDA graphs need a CUDA device")
        self.static_x, self.static_target = self.x[:batch].clone(), self.target[:batch].clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.step(self.static_x, self.static_target)
        torch.cuda.current_stream().wait_stream(aside)
        self.optimizer.zero_grad(set_to_none=True)  # so that the captured backward makes gradients and adds to none
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            loss = self.loss(self.static_x, self.static_target)
            loss.backward()
            self.optimizer.step()
            self.total += loss.detach()
        self.reset()

    def step_on(self, rows: Any) -> None:
        torch.index_select(self.x, 0, rows, out=self.static_x)
        torch.index_select(self.target, 0, rows, out=self.static_target)
        self.graph.replay()

    def steps(self, times: int) -> int:
        for _ in range(times):
            self.graph.replay()
        float(self.total)
        return times

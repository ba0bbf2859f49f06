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
        torch.manual_seed(task.seed)
        self.dtype = torch.float64 if task.precision == "float64" else torch.float32
        after = [
            torch.nn.Tanh() if task.activation == "tanh" else torch.nn.ReLU(),
            *([torch.nn.Dropout(task.dropout)] if task.dropout else []),
        ]
        self.linear = [torch.nn.Linear(*w.shape, device=device, dtype=self.dtype) for w, _ in task.parameters]
        layers = [module for linear in self.linear for module in (linear, *after)]
        self.model = torch.nn.Sequential(*layers[: -len(after)])
        self.data = tuple(map(self.place, task.data))
        self.minibatch = tuple(a[: task.batch] for a in self.data)
        self.validation = [self.place(a) for a in task.validation or ()]
        if task.adam:
            rate, beta1, beta2, epsilon = task.settings
            self.optimizer: Any = torch.optim.Adam(
                self.model.parameters(), rate, (beta1, beta2), epsilon, fused=True, capturable=self.capturable
            )
        else:
            self.optimizer = torch.optim.SGD(self.model.parameters(), task.settings[0])
        self.total = torch.zeros((), device=device, dtype=self.dtype)
        self.reset()
        self.prepare()

    def prepare(self) -> None:
        """What is done once."""

    def place(self, array: Any) -> Any:
        return torch.from_numpy(array).to(self.task.device)

    def reset(self) -> None:
        with torch.no_grad():  # in the same memory, which a captured graph knows
            for layer, (w, b) in zip(self.linear, self.task.parameters, strict=True):
                layer.weight.copy_(torch.from_numpy(w.T.copy()))
                layer.bias.copy_(torch.from_numpy(b))
            for state in self.optimizer.state.values():
                for kept in state.values():
                    if kept is not None:
                        kept.zero_()

    def loss(self, x: Any, target: Any, weights: Any = None) -> Any:
        half = self.task.precision == "bfloat16"
        with torch.autocast(
            self.task.device, torch.bfloat16, enabled=half, cache_enabled=False
        ):  # no cache: for graphs
            y, reduction = self.model(x), "mean" if weights is None else "none"
            if self.task.labelled:
                loss = functional.cross_entropy(y, target, reduction=reduction)
            elif weights is None:
                loss = 0.5 * y.shape[1] * functional.mse_loss(y, target)
            else:
                loss = 0.5 * functional.mse_loss(y, target, reduction=reduction).sum(dim=1)
            return loss if weights is None else (weights * loss).sum() / weights.sum()

    def step(self, *minibatch: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(*minibatch)
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach()

    def step_on(self, rows: Any) -> None:
        self.step(*(a.index_select(0, rows) for a in self.data))

    def epoch(self, shuffle: bool) -> float:
        order = (torch.randperm if shuffle else torch.arange)(self.task.rows, device=self.task.device)
        self.total.zero_()
        for rows in order.split(self.task.batch):
            self.step_on(rows)
        return float(self.total) / self.task.steps

    def steps(self, times: int) -> int:
        for _ in range(times):
            self.step(*self.minibatch)
        float(self.total)
        return times

    def steps_by_hand(self, times: int) -> int:
        minibatch = self.task.minibatch
        for _ in range(times):
            self.step(*map(self.place, minibatch))
        float(self.total)
        return times

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        x, target = self.validation
        self.model.eval()
        y = self.model(x)
        self.model.train()
        loss, right = functional.cross_entropy(y, target), (y.argmax(dim=1) == target).sum()
        return float(loss), float(right) / len(target)

    @torch.inference_mode()
    def infer(self, x: Any) -> Any:
        return torch.softmax(self.model(self.place(x)), dim=1).cpu().numpy()

    def parameters(self) -> Parameters:
        return [(layer.weight.detach().cpu().numpy().T, layer.bias.detach().cpu().numpy()) for layer in self.linear]


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
        if self.task.device != "cuda":
            raise Missing("CUDA graphs need a CUDA device")
        self.static = [a.clone() for a in self.minibatch]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.step(*self.static)
        torch.cuda.current_stream().wait_stream(aside)
        self.optimizer.zero_grad(set_to_none=True)  # so that the captured backward makes gradients and adds to none
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            loss = self.loss(*self.static)
            loss.backward()
            self.optimizer.step()
            self.total += loss.detach()
        self.reset()

    def step_on(self, rows: Any) -> None:
        for a, static in zip(self.data, self.static, strict=True):
            torch.index_select(a, 0, rows, out=static)
        self.graph.replay()

    def steps(self, times: int) -> int:
        for _ in range(times):
            self.graph.replay()
        float(self.total)
        return times

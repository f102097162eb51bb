"""Where one iteration spends its time, and how far that is from what the device can do.

    python benchmarks/hotspots.py [--method cgs] [--size 256] [--batch 12] [--threads 1] [--device cpu]
                                  [--set KEY=VALUE ...]

Operators are grouped; the share is of their own time in one profiled iteration. Work is counted, not estimated:
floating-point operations of convolutions and matrix products, forward and backward, and the bytes that every other
operator reads and writes, as if none of them were fused with another and no cache held anything. The floor is the
time of both at the rates that the same process reaches on a matrix product and on a copy, each larger than any cache.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from iteration import Iteration
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cgs.config import TrainingConfig
from cgs.engine.device import describe, prepare_torch

GROUPS = {
    "convolution, backward": ("convolution_backward", "dgrad", "wgrad"),
    "convolution": ("conv", "nhwc", "gemm", "fprop"),
    "batch norm, backward": ("batch_norm_backward", "bn_bw"),
    "batch norm": ("batch_norm", "bn_fw"),
    "activation, backward": ("leaky_relu_backward",),
    "activation": ("leaky_relu",),
    "matrix products (up-sampling)": ("mm",),
    "optimiser and average": ("fused_sgd", "foreach"),
    "softmax": ("softmax",),
}
"""Words in the names of operators and kernels; the first group that matches takes it."""


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators other than convolutions and matrix products read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        counted = not (func.is_view or "conv" in func.__name__ or "mm" in func.__name__)
        if counted:
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def group(name: str) -> str:
    """The group of an operator."""
    return next((g for g, words in GROUPS.items() if any(w in name for w in words)), "rest")


def spent(iteration: Iteration) -> Counter[str]:
    """Microseconds of each group in one iteration."""
    cuda = iteration.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        iteration.seconds()
    times: Counter[str] = Counter()
    for event in found.key_averages():
        times[group(event.key)] += event.self_device_time_total if cuda else event.self_cpu_time_total
    return times


def rate(work: Callable[[], object], amount: float, device: torch.device) -> float:
    """Amount a second, the best of five."""
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return amount / best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--method", default="cgs")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", nargs="*", default=[], help="options of the method, as merged_passes=true")
    options = parser.parse_args()
    device = torch.device(options.device)
    training = TrainingConfig(threads=options.threads)
    prepare_torch(training)
    chosen = {k: {"true": True, "false": False}.get(v, v) for k, v in (s.split("=") for s in options.set)}
    iteration = Iteration(
        options.method, options.size, options.batch, device, targets=3, training=training, **chosen
    )
    iteration(), iteration()
    seconds = statistics.median(iteration.seconds() for _ in range(3))
    times = spent(iteration)
    with FlopCounterMode(display=False) as counter, Traffic() as traffic:
        iteration()
    square = torch.rand(4096, 4096, device=device)
    long = torch.rand(2**27, device=device)
    target = torch.empty_like(long)
    flops = counter.get_total_flops()
    product = rate(lambda: square @ square, 2 * 4096**3, device)
    copy = rate(lambda: target.copy_(long), 2 * 4 * 2**27, device)
    floor = flops / product + traffic.bytes / copy
    what = f"{options.method} {' '.join(options.set)}, {options.size} x {options.size}, batch {options.batch}"
    print(f"{what}, {options.threads} thread(s), {describe(device)}, torch {torch.__version__}")
    print(f"{seconds:.2f} s; {flops / 1e9:.0f} GFLOP and {traffic.bytes / 1e9:.1f} GB beside them")
    print(
        f"floor {floor:.2f} s at {product / 1e9:.0f} GFLOP/s and {copy / 1e9:.1f} GB/s: {seconds / floor:.1f} times"
    )
    print("| operators | share |\n|---|---:|")
    for name, value in times.most_common():
        print(f"| {name} | {100 * value / times.total():.0f} % |")


if __name__ == "__main__":
    main()

"""Teachers: exponential moving averages of trained networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Average:
    """Keeps `teacher` as a moving average of `student`: parameters, and buffers where asked.

    teacher <- a teacher + (1 - a) student after each optimiser step; all tensors in one fused call.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, buffers: bool) -> None:
        self.teacher: list[Tensor] = list(teacher.parameters())
        self.student: list[Tensor] = list(student.parameters())
        if buffers:
            # Only floating statistics are averaged; the integer count of batches is not used.
            self.teacher += [b for b in teacher.buffers() if b.is_floating_point()]
            self.student += [b for b in student.buffers() if b.is_floating_point()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """One step of the average with a = `decay` in [0, 1]."""
        torch._foreach_lerp_(self.teacher, self.student, 1.0 - decay)

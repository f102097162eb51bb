"""Mean Teacher: the student agrees with the average of its past selves.

Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017; the 2D variant of SSL4MIS.

    L = 0.5 (CE + Dice)(x_l, y) + lambda(t) mean (p_student(x_u) - p_teacher(x_u + n))^2,
    n = clip(0.1 N(0, 1), -0.2, 0.2)

The student sees the batch without noise. The consistency is 0 during the first `delay` of the training
(1,000 of 30,000 iterations as released; kept as a share, so that short budgets keep its proportion). The
teacher stays in train mode with its own batch statistics, as released. `specialists` attaches CGS to it.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from cgs.engine.losses import supervised
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch, noisy
from cgs.plugin import PlugInOptions, generalist, part, run, specialist_terms, unet


class MeanTeacher(Method):
    """Consistency with an averaged teacher under input noise."""

    title = "Mean Teacher"
    reference = "Tarvainen and Valpola, NeurIPS 2017"
    teachers = {"teacher": "student"}

    class Options(PlugInOptions):
        lambda_max: float = Field(0.1, ge=0, description="Weight of the consistency after its ramp-up.")
        delay: float = Field(
            1000 / 30000, ge=0, le=1, description="Share of the training before the consistency starts."
        )

    options: Options

    def networks(self, task: Task) -> dict[str, nn.Module]:
        return {"student": unet(task, self.options)}

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        count = len(batch.labels)
        outputs = run(self.nets["student"], torch.cat([batch.labelled.weak, batch.unlabelled.weak]))
        labelled, student = part(outputs, slice(count)), part(outputs, slice(count, None))
        with torch.no_grad():
            teacher = run(self.nets["teacher"], noisy(batch.unlabelled.weak, batch.noise))
        return {
            "supervised": supervised(labelled[0], batch.labels),
            "consistency": self.consistency(student[0], teacher[0], progress),
        } | specialist_terms(self.options, progress, labelled, batch.labels, student, teacher)

    def consistency(self, student: Tensor, teacher: Tensor, progress: Progress) -> Tensor:
        """lambda(t) times the mean squared difference of the softmax maps; 0 during the delay."""
        distance = (student.float().softmax(1) - teacher.float().softmax(1)).square().mean()
        started = progress.iteration >= progress.share(self.options.delay)
        return distance * (progress.ramp(self.options.lambda_max) if started else 0.0)

    def taught_labels(self, images: Tensor) -> dict[str, Tensor]:
        return {"teacher": run(self.nets["teacher"], images)[0].argmax(1)}

    def inference(self) -> dict[str, nn.Module]:
        return {"student": generalist(self.nets["student"])}

"""The skeleton of a new baseline: a small method that works, to be replaced piece by piece."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from cgs.dataset_config import NAME
from cgs.discovery import ROOT, available_methods
from cgs.errors import SuiteError
from cgs.files import write_text
from cgs.presets import VARIANTS

TEMPLATE = '''"""{title}: one sentence about the idea.

Author et al., "Title", venue and year.

    L = 0.5 (CE + Dice)(x_l, y) + lambda(t) mean (p(x_u) - p(x_u + n))^2

The placeholder's formula: a noisy view agrees with the clean one. Write yours, and what differs from its release.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from cgs.engine.losses import supervised
from cgs.engine.method import Method, Progress
from cgs.engine.views import Batch, noisy


class {name}(Method):
    """What it does, in a few words."""

    title = "{title}"
    reference = "Author et al., venue and year"

    class Options(Method.Options):
        lambda_max: float = Field(0.1, ge=0, description="Weight of the consistency after its ramp-up.")

    options: Options

    def loss(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        count, unlabelled = len(batch.labels), batch.unlabelled.weak
        logits = self.nets["student"](torch.cat([batch.labelled.weak, unlabelled]))
        perturbed = self.nets["student"](noisy(unlabelled, batch.noise)).float().softmax(1)
        target = logits[count:].detach().float().softmax(1)
        consistency = (perturbed - target).square().mean()
        return {{
            "supervised": supervised(logits[:count], batch.labels),
            "consistency": progress.ramp(self.options.lambda_max) * consistency,
        }}
'''


def new_baseline(name: str, root: Path = ROOT) -> Path:
    """Write `baselines/<name>.py` for a method called `name` (small letters, digits, hyphens); returns its path.

    Raises SuiteError where the name does not fit or is taken.
    """
    if not re.fullmatch(NAME, name) or not name[0].isalpha():
        raise SuiteError(
            f"{name!r} does not fit; a method's name starts with a small letter, then small letters, digits and "
            "hyphens: my-method."
        )
    if name in available_methods() or name in VARIANTS:
        raise SuiteError(f"the method {name!r} exists; choose another name.")
    words = name.split("-")
    class_name = "".join(word.capitalize() for word in words)
    if keyword.iskeyword(class_name):
        raise SuiteError(f"{class_name} means something in Python; choose another name than {name!r}.")
    path = root / "baselines" / f"{'_'.join(words)}.py"
    text = TEMPLATE.format(title=" ".join(words).capitalize(), name=class_name)
    write_text(path, text)
    return path

"""Weak and strong views, drawn on the device for a whole batch at once.

The parameters of a view (angles, flips, jitter strengths, CutMix boxes) come from explicit generators
on the CPU, one per axis and iteration: the same seed gives the same views on every device, and a
resumed run needs no generator state. Only the pixels are computed on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cgs.data.store import SCALE
from cgs.engine.seeds import generator

CutMix = Literal["none", "box", "released"]


@dataclass(frozen=True)
class ViewSpec:
    """Which views a method needs.

    unlabelled    whether batches hold unlabelled slices at all
    strong        number of strong views of unlabelled slices
    blur          probability of a Gaussian blur in a strong view, after the colour jitter
    quantised     unlabelled slices are truncated to 8 bits before their strong views are made
    cutmix        boxes for the strong unlabelled views, and a second, independent batch to fill them
    cutmix_share  probability of a box
    accompanied   labelled slices have strong views too, and the second batch a labelled half: they enter no
                  loss, but share the batch statistics of the passes that need the unlabelled ones
    """

    unlabelled: bool = True
    strong: int = 0
    blur: float = 0.0
    quantised: bool = False
    cutmix: CutMix = "none"
    cutmix_share: float = 1.0
    accompanied: bool = False


def weak_matrices(count: int, draw: torch.Generator) -> Tensor:
    """(count, 2, 2) maps from output to input coordinates about the image centre.

    With p 0.5 a rotation by k x 90 degrees followed by a flip along a random axis; else with p 0.5 a
    rotation by an integer in [-20, 20) degrees; else the identity.
    """
    branch = torch.rand(count, generator=draw)
    quarter = torch.randint(0, 4, (count,), generator=draw) * 90.0
    axis = torch.randint(0, 2, (count,), generator=draw)
    angle = torch.randint(-20, 20, (count,), generator=draw).float()
    turned = branch < 0.5
    degrees = torch.where(turned, quarter, torch.where(branch < 0.75, angle, torch.zeros(count)))
    radians = degrees.double() * math.pi / 180
    cos, sin = radians.cos().float(), radians.sin().float()
    # cos(90 deg) is 6e-17 in floating point; a quarter turn must move pixels exactly.
    cos, sin = (torch.where(turned, v.round(), v) for v in (cos, sin))
    matrix = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
    flip = torch.ones(count, 2)
    flip[torch.arange(count), axis] = -1
    flip = torch.where(turned[:, None], flip, torch.ones(count, 2))
    return matrix * flip[:, None, :]


def sampling_index(matrices: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Nearest-neighbour source index (B, size * size) into a flat image, and whether it lies inside.

    Rounding and the treatment of the border are those of scipy.ndimage.rotate(order=0, reshape=False).
    """
    centre = (size - 1) / 2
    axis = torch.arange(size, device=matrices.device, dtype=torch.float32) - centre
    rows, columns = axis.view(1, size, 1), axis.view(1, 1, size)
    m = matrices[:, :, :, None, None]
    y = m[:, 0, 0] * rows + m[:, 0, 1] * columns + centre
    x = m[:, 1, 0] * rows + m[:, 1, 1] * columns + centre
    inside = (y >= 0) & (y <= size - 1) & (x >= 0) & (x <= size - 1)
    index = (y + 0.5).floor() * size + (x + 0.5).floor()
    index = torch.where(inside, index, torch.zeros_like(index)).long()
    return index.flatten(1), inside.flatten(1)


def jitter_factors(count: int, draw: torch.Generator) -> Tensor:
    """(count, 3): brightness, contrast, and 1 where brightness comes first; (1, 1, .) where none is applied.

    Brightness and contrast ~ U(0.5, 1.5) with p 0.8. Saturation and hue do nothing to one channel.
    """
    applied = torch.rand(count, generator=draw) < 0.8
    factors = torch.rand(count, 2, generator=draw) + 0.5
    first = (torch.rand(count, 1, generator=draw) < 0.5).float()
    return torch.cat([torch.where(applied[:, None], factors, torch.ones(count, 2)), first], 1)


def colour_jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness clamp(b x) and contrast clamp(c x + (1 - c) mean(x)), in the order that `factors` gives.

    images (B, 1, H, W) in [0, 1]; factors (B, 3) from `jitter_factors`.
    """
    brightness, contrast, first = (f.view(-1, 1, 1, 1) for f in factors.to(images.device).unbind(1))

    def brighten(x: Tensor) -> Tensor:
        return (brightness * x).clamp(0, 1)

    def stretch(x: Tensor) -> Tensor:
        return (contrast * x + (1 - contrast) * x.mean((1, 2, 3), keepdim=True)).clamp(0, 1)

    once = torch.where(first > 0, brighten(images), stretch(images))
    return torch.where(first > 0, stretch(once), brighten(once))


def blur_sigmas(count: int, probability: float, draw: torch.Generator) -> Tensor:
    """(count,): standard deviation of a blur in pixels, U(0.1, 2) with `probability`, else 0."""
    applied = torch.rand(count, generator=draw) < probability
    return torch.where(applied, 0.1 + 1.9 * torch.rand(count, generator=draw), torch.zeros(count))


def gaussian_blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blur every image (B, 1, H, W) with its own sigma (B,) of 0 (unchanged) to 2 pixels; edges are repeated."""
    offset = torch.arange(-6, 7, device=images.device)  # Three standard deviations of the widest.
    weights = torch.exp(-0.5 * (offset / sigmas.to(images.device).clamp(min=1e-3).unsqueeze(1)).square())
    weights = weights / weights.sum(1, keepdim=True)
    padded = F.pad(images.transpose(0, 1), (6, 6, 6, 6), mode="replicate")
    once = F.conv2d(padded, weights.view(-1, 1, 13, 1), groups=len(images))
    return F.conv2d(once, weights.view(-1, 1, 1, 13), groups=len(images)).transpose(0, 1)


def cutmix_boxes(count: int, size: int, draw: torch.Generator, share: float = 1.0) -> Tensor:
    """(count, 4) integers: top, left, height, width of one box per image; empty but for a `share` of them.

    Area fraction a ~ U(0.02, 0.4) once; aspect r ~ U(0.3, 1/0.3) and an integer corner drawn together
    until the box fits; height floor(sqrt(a HW r)), width floor(sqrt(a HW / r)).
    """
    area = (0.02 + 0.38 * torch.rand(count, generator=draw)) * size * size
    boxes = torch.zeros(count, 4, dtype=torch.long)
    missing = torch.arange(count)
    while len(missing):
        ratio = 0.3 + (1 / 0.3 - 0.3) * torch.rand(len(missing), generator=draw)
        corner = torch.randint(0, size, (len(missing), 2), generator=draw)
        height = (area[missing] * ratio).sqrt().long()
        width = (area[missing] / ratio).sqrt().long()
        fits = (corner[:, 0] + height <= size) & (corner[:, 1] + width <= size)
        boxes[missing[fits]] = torch.stack([corner[:, 0], corner[:, 1], height, width], 1)[fits]
        missing = missing[~fits]
    if share < 1:
        boxes[torch.rand(count, generator=draw) >= share] = 0
    return boxes


def keep_masks(boxes: Tensor, size: int, cutmix: CutMix, offset: int = 0) -> Tensor:
    """(B, size, size) bool: True keeps the image's own pixel, False takes the partner's.

    "box" is the intended CutMix. "released" repeats the indexing slip of the released CGS code: image i of
    the batch (`offset` labelled ones before it) loses the full-width rows left..left+width if top > i.
    """
    top, left, height, width = (boxes[:, i, None, None] for i in range(4))
    line = torch.arange(size, device=boxes.device)
    rows, columns = line.view(1, size, 1), line.view(1, 1, size)
    if cutmix == "released":
        position = torch.arange(len(boxes), device=boxes.device).view(-1, 1, 1) + offset
        band = (rows >= left) & (rows < left + width) & (top > position)
        return ~band.expand(-1, size, size)
    return ~((rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width))


def mix(own: Tensor, partner: Tensor, keep: Tensor | None) -> Tensor:
    """CutMix: the pixels of `own` where `keep` (B, H, W) is True, else those of `partner`.

    The tensors are (B, ..., H, W).
    """
    if keep is None:
        return own
    shape = (keep.shape[0], *[1] * (own.dim() - 3), *keep.shape[1:])
    return torch.where(keep.view(shape), own, partner)


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    """images + clip(0.1 N(0, 1), -0.2, 0.2)."""
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return images + (0.1 * noise).clamp(-0.2, 0.2)


@dataclass
class Images:
    """Views of some slices: `weak` (B, 1, H, W) in [0, 1] and `strong`, a tuple of such tensors."""

    weak: Tensor
    strong: tuple[Tensor, ...] = ()


@dataclass
class Batch:
    """What a method sees in one iteration. Labels of unlabelled slices are not in it.

    labelled, unlabelled        views of the labelled and unlabelled slices
    labels                      (B_l, H, W) int64, turned like the weak labelled views
    partner_labelled, partner   a second, independent batch, only where it is asked for
    keep                        per strong view: CutMix mask (B_u, H, W), True keeps, False takes the partner
    noise                       generator on the device for whatever else a method draws
    """

    labelled: Images
    labels: Tensor
    unlabelled: Images
    noise: torch.Generator
    partner_labelled: Images | None = None
    partner: Images | None = None
    keep: tuple[Tensor, ...] = ()


class Order:
    """Which slices iteration t sees, as a pure function of the seed: a resumed run needs no state.

    An epoch is one pass over the shuffled labelled slices; incomplete batches are dropped. The unlabelled
    stream is shuffled anew at each epoch's start and whenever it is exhausted. Sets smaller than a batch
    are repeated.
    """

    def __init__(self, labelled: Tensor, unlabelled: Tensor, sizes: tuple[int, int], seed: int, name: str):
        self.labelled, self.unlabelled, self.sizes = labelled, unlabelled, sizes
        self.seed, self.name = seed, name
        self.per_epoch = max(len(labelled) // sizes[0], 1)
        self.per_pass = max(len(unlabelled) // sizes[1], 1)
        self._cache: dict[str, tuple[int, Tensor]] = {}

    def _shuffled(self, pool: str, slices: Tensor, number: int, least: int) -> Tensor:
        if self._cache.get(pool, (-1,))[0] != number:
            draw = generator(self.seed, "order", self.name, pool, number)
            parts = [torch.randperm(len(slices), generator=draw) for _ in range(-(-least // len(slices)))]
            self._cache[pool] = (number, slices[torch.cat(parts)])
        return self._cache[pool][1]

    def __call__(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Indices of the labelled and the unlabelled slices of an iteration."""
        epoch, place = divmod(iteration, self.per_epoch)
        size = self.sizes[0]
        labelled = self._shuffled("labelled", self.labelled, epoch, size)[place * size :][:size]
        if not len(self.unlabelled):
            return labelled, self.unlabelled
        again, place = divmod(place, self.per_pass)
        number = epoch * (self.per_epoch // self.per_pass + 1) + again
        size = self.sizes[1]
        return labelled, self._shuffled("unlabelled", self.unlabelled, number, size)[place * size :][:size]


def intensities(stored: Tensor) -> Tensor:
    """Float32 in [0, 1] of intensities as the store keeps them: the 16 bits of an unsigned integer, in an int16.

    torch computes little with unsigned 16-bit integers. Floating intensities are returned as they are.
    """
    return stored if stored.is_floating_point() else (stored.int() & 0xFFFF).float() / SCALE


class BatchMaker:
    """Draws the batch of iteration t from slices that lie on the device.

    images (N, S, S), float32 in [0, 1] or as stored (see `intensities`), and labels (N, S, S) uint8 on the device;
    `labelled` and `unlabelled` are disjoint index tensors; `sizes` the slices of each kind in a batch.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        labelled: Tensor,
        unlabelled: Tensor,
        spec: ViewSpec,
        sizes: tuple[int, int],
        seed: int,
        noise: torch.Generator,
    ) -> None:
        self.images, self.labels, self.spec, self.sizes = images, labels, spec, sizes
        self.seed, self.noise, self.device = seed, noise, images.device
        if not spec.unlabelled:
            unlabelled = unlabelled[:0]
        self.order = Order(labelled, unlabelled, sizes, seed, "main")
        self.partner_order = Order(labelled, unlabelled, sizes, seed, "partner")

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":  # Pinned, so that the copy does not wait for the device.
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def _views(
        self, slices: Tensor, axis: tuple[object, ...], *, want_labels: bool = False, labelled: bool = False
    ) -> tuple[Images, Tensor]:
        """Views of slices, `labelled` or not, and their labels where wanted."""
        size, count = self.images.shape[-1], len(slices)
        matrices = weak_matrices(count, generator(self.seed, "weak", *axis))
        index, inside = sampling_index(self._to_device(matrices), size)
        flat = self._to_device(slices).unsqueeze(1) * (size * size) + index
        shape = (count, 1, size, size)
        weak = (intensities(self.images.view(-1)[flat]) * inside).view(shape)
        if self.spec.quantised and not labelled:
            weak = (weak * 255).floor() / 255
        views = 0 if labelled and not self.spec.accompanied else self.spec.strong
        strong = tuple(self._strong(weak, (view, *axis)) for view in range(views))
        labels = self.labels.view(-1)[flat] * inside if want_labels else self.labels[:0]
        return Images(weak, strong), labels.long().view(-1, size, size)

    def _strong(self, weak: Tensor, axis: tuple[object, ...]) -> Tensor:
        """A strong view of weak ones: colour jitter, then a blur where the method wants it."""
        factors = jitter_factors(len(weak), generator(self.seed, "strong", *axis))
        strong = colour_jitter(weak, self._to_device(factors))
        if not self.spec.blur or not len(weak):
            return strong
        sigmas = blur_sigmas(len(weak), self.spec.blur, generator(self.seed, "blur", *axis))
        return gaussian_blur(strong, self._to_device(sigmas))

    def __call__(self, iteration: int) -> Batch:
        """The batch of an iteration (0-based)."""
        labelled, unlabelled = self.order(iteration)
        first, labels = self._views(labelled, ("labelled", iteration), want_labels=True, labelled=True)
        second, _ = self._views(unlabelled, ("unlabelled", iteration))
        batch = Batch(first, labels, second, self.noise)
        if self.spec.cutmix != "none" and len(unlabelled):
            labelled, unlabelled = self.partner_order(iteration)
            if self.spec.accompanied:
                batch.partner_labelled, _ = self._views(
                    labelled, ("partner labelled", iteration), labelled=True
                )
            batch.partner, _ = self._views(unlabelled, ("partner", iteration))
            batch.keep = tuple(self._keep(view, iteration) for view in range(self.spec.strong))
        return batch

    def _keep(self, view: int, iteration: int) -> Tensor:
        size = self.images.shape[-1]
        draw = generator(self.seed, "cutmix", view, iteration)
        boxes = cutmix_boxes(self.sizes[1], size, draw, self.spec.cutmix_share)
        return keep_masks(self._to_device(boxes), size, self.spec.cutmix, offset=self.sizes[0])

"""Views and batches: geometry against scipy, proportions against their definition, order without gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from cgs.engine.seeds import derive, generator
from cgs.engine.views import (
    BatchMaker,
    Order,
    ViewSpec,
    blur_sigmas,
    colour_jitter,
    cutmix_boxes,
    gaussian_blur,
    jitter_factors,
    keep_masks,
    sampling_index,
    weak_matrices,
)


def rotation(degrees: float, flip: tuple[int, int] = (1, 1)) -> torch.Tensor:
    """The map that `weak_matrices` makes for an angle and a flip."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    if degrees % 90 == 0:
        cos, sin = round(cos), round(sin)
    return torch.tensor([[[cos, sin], [-sin, cos]]], dtype=torch.float32) * torch.tensor(flip)[None, None, :]


def turned(image: np.ndarray, matrix: torch.Tensor) -> np.ndarray:
    index, inside = sampling_index(matrix, image.shape[0])
    flat = torch.from_numpy(image).flatten()[index[0]] * inside[0]
    return flat.view(image.shape).numpy()


@pytest.mark.parametrize("angle", [-20, -7, 0, 3, 13, 19])
def test_rotation_equals_scipy(angle: int) -> None:
    image = np.random.RandomState(0).rand(64, 64).astype(np.float32)
    expected = ndimage.rotate(image, angle, order=0, reshape=False)
    # A coordinate that falls on a rounding or border tie may go either way in float32.
    assert np.mean(turned(image, rotation(angle)) != expected) < 2e-3


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("axis", [0, 1])
def test_quarter_turn_and_flip_are_exact(quarter: int, axis: int) -> None:
    image = np.random.RandomState(1).rand(32, 32).astype(np.float32)
    expected = np.flip(np.rot90(image, quarter), axis)
    flip = (-1, 1) if axis == 0 else (1, -1)
    assert np.array_equal(turned(image, rotation(90.0 * quarter, flip)), expected)


def test_weak_views_come_in_their_proportions() -> None:
    matrices = weak_matrices(40000, generator(0, "test"))
    exact = ((matrices == 0) | (matrices.abs() == 1)).all(-1).all(-1)
    identity = (matrices == torch.eye(2)).all(-1).all(-1)
    # Half are turned by quarters and flipped, a quarter is left alone; one small angle in 40 is 0 as well.
    assert exact.float().mean() == pytest.approx(0.5 + 0.25 + 0.25 / 40, abs=0.01)
    assert identity.float().mean() == pytest.approx(0.25 + 0.25 / 40, abs=0.01)
    small = matrices[~exact]
    degrees = torch.rad2deg(torch.atan2(small[:, 0, 1], small[:, 0, 0]))
    assert degrees.min() == pytest.approx(-20, abs=1e-3) and degrees.max() == pytest.approx(19, abs=1e-3)
    turned_ones = matrices[exact & ~identity]
    assert torch.linalg.det(turned_ones).unique().tolist() == [-1.0]  # A turn and one flip.


def test_jitter_leaves_a_fifth_alone() -> None:
    factors = jitter_factors(20000, generator(0, "test"))
    alone = (factors[:, :2] == 1).all(1)
    assert alone.float().mean() == pytest.approx(0.2, abs=0.01)
    applied = factors[~alone, :2]
    assert applied.min() >= 0.5 and applied.max() <= 1.5
    images = torch.rand(8, 1, 5, 5)
    unchanged = torch.tensor([[1.0, 1.0, 0.0]]).expand(8, 3)
    assert torch.equal(colour_jitter(images, unchanged), images)


def test_cutmix_boxes_fit_and_cover_two_to_forty_percent() -> None:
    size = 64
    boxes = cutmix_boxes(5000, size, generator(0, "test"))
    top, left, height, width = boxes.unbind(1)
    assert (top + height <= size).all() and (left + width <= size).all() and (boxes >= 0).all()
    area = (height * width).float() / size**2
    assert area.max() <= 0.4 and area.min() > 0.01 and area.mean() == pytest.approx(0.2, abs=0.02)


def test_keep_masks() -> None:
    boxes = torch.tensor([[3, 5, 4, 6], [20, 2, 4, 3]])
    keep = keep_masks(boxes, 32, "box")
    assert (~keep[0]).sum() == 24 and not keep[0, 3:7, 5:11].any()
    # The released slip: a band of rows left..left+width, only where top exceeds the place in the batch.
    released = keep_masks(boxes, 32, "released", offset=12)
    assert released[0].all() and not released[1, 2:5].any() and (~released[1]).sum() == 3 * 32


def test_order_passes_over_all_labelled_slices_and_reshuffles() -> None:
    order = Order(torch.arange(10), torch.arange(10, 60), (3, 4), 0, "main")
    epoch = torch.cat([order(t)[0] for t in range(3)])
    assert len(epoch.unique()) == 9  # Three batches of three, the incomplete one is dropped.
    assert not torch.equal(epoch, torch.cat([order(t)[0] for t in range(3, 6)]))
    assert torch.equal(order(1)[1], Order(torch.arange(10), torch.arange(10, 60), (3, 4), 0, "main")(1)[1])
    # A small unlabelled pool is passed over again within an epoch, without repeats inside a pass.
    order = Order(torch.arange(40), torch.arange(40, 49), (4, 4), 0, "main")
    passes = [torch.cat([order(t)[1], order(t + 1)[1]]) for t in (0, 2, 4)]
    assert all(len(p.unique()) == 8 for p in passes) and not torch.equal(passes[0], passes[1])


def test_order_repeats_sets_that_are_smaller_than_a_batch() -> None:
    labelled, unlabelled = Order(torch.arange(3), torch.arange(3, 5), (8, 8), 0, "main")(5)
    assert len(labelled) == len(unlabelled) == 8
    assert labelled.bincount().tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_blur_equals_scipy() -> None:
    images = torch.rand(4, 1, 24, 24)
    sigmas = torch.tensor([0.0, 0.1, 0.9, 2.0])
    blurred = gaussian_blur(images, sigmas)
    assert torch.equal(blurred[0], images[0])
    for image, out, sigma in zip(images, blurred, sigmas.tolist(), strict=True):
        expected = ndimage.gaussian_filter(image[0].numpy(), sigma, mode="nearest", radius=6)
        np.testing.assert_allclose(out[0].numpy(), expected, atol=1e-5)


def test_blurs_and_boxes_come_in_their_share() -> None:
    sigmas = blur_sigmas(20000, 0.5, generator(0, "test"))
    drawn = sigmas[sigmas > 0]
    assert abs(len(drawn) / 20000 - 0.5) < 0.02
    assert drawn.min() >= 0.1 and drawn.max() <= 2 and abs(drawn.mean() - 1.05) < 0.02
    boxes = cutmix_boxes(20000, 32, generator(0, "test"), share=0.5)
    empty = (boxes == 0).all(1)
    assert abs(empty.float().mean() - 0.5) < 0.02
    assert keep_masks(boxes[empty], 32, "box").all()
    always = cutmix_boxes(20000, 32, generator(0, "test"))
    assert torch.equal(boxes[~empty], always[~empty])


def test_quantised_views_are_truncated_to_bytes() -> None:
    images = torch.rand(20, 16, 16)
    labels = torch.zeros(20, 16, 16, dtype=torch.uint8)
    parts = (torch.arange(8), torch.arange(8, 20))
    spec = ViewSpec(strong=1, quantised=True, cutmix="box")
    batch = BatchMaker(images, labels, *parts, spec, (4, 4), 3, generator(0, "noise"))(7)
    plain = BatchMaker(images, labels, *parts, ViewSpec(), (4, 4), 3, generator(0, "noise"))(7)
    assert torch.equal(batch.unlabelled.weak, (plain.unlabelled.weak * 255).floor() / 255)
    assert batch.partner is not None and batch.partner_labelled is None
    assert torch.equal(batch.partner.weak, (batch.partner.weak * 255).round() / 255)
    assert torch.equal(batch.labelled.weak, plain.labelled.weak) and batch.labelled.strong == ()


def test_axes_are_independent() -> None:
    """A method that asks for more views sees the same slices and the same weak views."""
    images = torch.rand(20, 16, 16)
    labels = (images > 0.5).to(torch.uint8)

    def batch(spec: ViewSpec):
        parts = (torch.arange(8), torch.arange(8, 20))
        return BatchMaker(images, labels, *parts, spec, (4, 4), 3, generator(0, "noise"))(7)

    plain, rich = batch(ViewSpec()), batch(ViewSpec(strong=2, cutmix="box"))
    assert torch.equal(plain.labelled.weak, rich.labelled.weak)
    assert torch.equal(plain.unlabelled.weak, rich.unlabelled.weak)
    assert not torch.equal(rich.unlabelled.strong[0], rich.unlabelled.strong[1])
    assert not torch.equal(rich.partner.weak, rich.unlabelled.weak)
    assert rich.keep[0].shape == (4, 16, 16)
    only = batch(ViewSpec(unlabelled=False))
    assert torch.equal(only.labelled.weak, plain.labelled.weak) and len(only.unlabelled.weak) == 0


def test_labels_turn_with_their_images() -> None:
    images = torch.rand(12, 24, 24)
    labels = (images > 0.5).to(torch.uint8)
    parts = (torch.arange(12), torch.arange(0))
    maker = BatchMaker(images, labels, *parts, ViewSpec(unlabelled=False), (12, 2), 0, generator(0, "noise"))
    batch = maker(0)
    assert torch.equal((batch.labelled.weak[:, 0] > 0.5).long(), batch.labels)


def test_derived_seeds_differ_by_name_and_seed() -> None:
    seeds = {derive(s, *names) for s in (0, 1) for names in (("a",), ("b",), ("a", 0), ("a", 1))}
    assert len(seeds) == 8 and all(0 <= s < 2**63 for s in seeds)

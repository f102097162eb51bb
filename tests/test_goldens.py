"""Losses, schedules and networks against values of the released implementations (tests/goldens.json)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.cps import CrossPseudoSupervision
from baselines.mean_teacher import MeanTeacher
from baselines.ua_mt import masked_distance, threshold, uncertainty
from cgs.engine import losses
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch, Images, colour_jitter, mix
from cgs.method import CGS
from cgs.networks.specialists import CollaborativeNet
from cgs.networks.unet import DoubleBilinear, UNet, _double_matrix
from cgs.specialists import PseudoLabels, pseudo_labels, supervised_loss, unsupervised_losses

GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text())


def golden(key: str):
    return GOLDENS[key]["value"]


def near(value, expected):
    value = value.detach().double().numpy() if isinstance(value, Tensor) else value
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randn(*shape).astype(np.float32))


def integers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 4, shape))


LOGITS, LABELS = normal(0, 4, 4, 32, 32), integers(1, 4, 32, 32)
PROBABILITIES = LOGITS.softmax(1)
MASK = torch.from_numpy(np.random.RandomState(3).rand(4, 32, 32).astype(np.float32) < 0.6)


def test_parameter_counts():
    def count(net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    assert [count(UNet(c)) for c in (4, 5, 9)] == golden("params_unet_C4_C5_C9")
    assert [count(CollaborativeNet(c, 16)) for c in (4, 5, 9)] == golden("params_cgs_C4_C5_C9")


def fill(net: UNet, more: list[Tensor] = ()) -> None:
    """The weights that the goldens state: tensor i from RandomState(1000 + i), in data-flow order."""

    def block(b: nn.Sequential) -> list[Tensor]:
        return [t for m in (b[0], b[1], b[4], b[5]) for t in (m.weight, m.bias)]

    tensors = [t for b in net.encoder for t in block(b)]
    for up in net.decoder:
        tensors += [up.reduce.weight, up.reduce.bias, *block(up.conv)]
    tensors += [net.out.weight, net.out.bias]
    assert len(tensors) == 82
    norms = {id(m.weight) for m in net.modules() if isinstance(m, nn.BatchNorm2d)}
    with torch.no_grad():
        for i, t in enumerate(tensors):
            r = normal(1000 + i, *t.shape)
            t.copy_(r / t[0].numel() ** 0.5 if t.dim() > 1 else 0.1 * r + (id(t) in norms))


def test_unet_output():
    net = UNet(4)
    fill(net)
    with torch.no_grad():
        out = net.eval()(normal(7, 2, 1, 64, 64))
    expected = golden("unet_eval_output")
    near(out.mean(), expected["mean"])
    near(out.std(), expected["std_unbiased"])
    near(out.abs().sum(), expected["abs_sum"])
    near(out[0, :, 10, 20], expected["out[0,:,10,20]"])
    near(out[1, :, 63, 0], expected["out[1,:,63,0]"])


def test_specialist_heads_output():
    """The grouped heads equal K separate ones: head k's tensors are slices of the grouped tensors."""
    net = CollaborativeNet(4, 16)
    fill(net.generalist)
    conv, norm, _, last = net.specialists.layers
    number = 1082
    with torch.no_grad():
        for k in range(3):
            rows, outs = slice(16 * k, 16 * k + 16), slice(3 * k, 3 * k + 3)
            parts = (conv.weight[rows], conv.bias[rows], norm.weight[rows], norm.bias[rows])
            for i, t in enumerate((*parts, last.weight[outs], last.bias[outs])):
                r = normal(number, *t.shape)
                t.copy_(r / t[0].numel() ** 0.5 if t.dim() > 1 else 0.1 * r + (i == 2))
                number += 1
        general, special = net.eval()(normal(7, 2, 1, 64, 64))
    expected = golden("cgs_eval_output")
    near(general.mean(), expected["generalist_mean"])
    near(special.mean((0, 2, 3, 4)), expected["specialist_means"])
    near(special[1, 2, :, 5, 6], expected["specialist3[1,:,5,6]"])


def test_matrix_upsampling_equals_bilinear():
    x = normal(5, 2, 3, 7, 7).double()
    m = _double_matrix(7, x.device, x.dtype)
    torch.testing.assert_close(m @ x @ m.T, DoubleBilinear()(x), rtol=1e-12, atol=1e-12)


def test_cross_entropy_and_dice():
    near(losses.cross_entropy(LOGITS, LABELS), golden("ce_plain"))
    near(losses.cross_entropy(LOGITS, LABELS, MASK), golden("ce_masked_cgs"))
    near(losses.dice(PROBABILITIES, LABELS, smooth=1e-5), golden("dice_ssl4mis_eps1e-5"))
    near(losses.dice(PROBABILITIES, LABELS), golden("dice_cgs_eps1e-10"))
    near(losses.dice(PROBABILITIES, LABELS, MASK), golden("dice_masked_intended_eps1e-10"))
    near(losses.supervised(LOGITS, LABELS), golden("sup_loss_ssl4mis"))
    second = normal(2, 4, 4, 32, 32).softmax(1)
    near(losses.dice(PROBABILITIES, second), golden("soft_dice_two_probability_maps_eps1e-10"))
    empty = torch.zeros_like(LABELS)
    near(losses.dice(PROBABILITIES, empty, smooth=1e-5), golden("dice_eps1e-5_label_all_background"))
    both = losses.cross_entropy_and_dice(LOGITS, LABELS, MASK, dice_mask=False)
    near(both, golden("ce_masked_cgs") + golden("dice_masked_cgs_as_released"))


@pytest.mark.parametrize("maximum", [0.1, 2.0])
def test_ramp(maximum):
    for t, value in golden(f"lambda_max{maximum}").items():
        near(losses.ramp(maximum, int(t), 30000), value)


def test_teacher_decay():
    for t, value in golden("ema_alpha").items():
        assert losses.ema_decay(int(t)) == pytest.approx(value, rel=1e-12)


def test_learning_rates():
    plain, early = Method(Task(4, 32)), CrossPseudoSupervision(Task(4, 32))
    for t, value in golden("lr_used_at_step_unincremented").items():
        near(plain.learning_rate(Progress(int(t), 30000), 0.01, 0.9), value)
    for t, value in golden("lr_used_at_step_incremented").items():
        near(early.learning_rate(Progress(int(t), 30000), 0.01, 0.9), value)


def test_colour_jitter():
    x = torch.from_numpy(np.random.RandomState(0).rand(1, 1, 16, 16))
    for name, first in (("brightness1.3_then_contrast0.6", 1.0), ("contrast0.6_then_brightness1.3", 0.0)):
        out = colour_jitter(x, torch.tensor([[1.3, 0.6, first]], dtype=torch.float64))
        near(out.sum(), golden("jitter_one_channel")[name])


# --- CGS -------------------------------------------------------------------------------------------------


def half(seed: int, channels: int, part: slice) -> Tensor:
    return normal(seed, 8, channels, 32, 32)[part]


def heads(first: int, part: slice, scale: float = 1.0) -> Tensor:
    return scale * torch.stack([half(first + k, 3, part) for k in range(3)], dim=1)


OWN, REST = slice(0, 4), slice(4, 8)


def keep_mask() -> Tensor:
    keep = torch.ones(8, 32, 32, dtype=torch.bool)
    for i in range(8):
        keep[i, 2 + i : 18 + i, 5 + 2 * i : 15 + 2 * i] = False
    return keep[REST]


def cgs_labels(tau: float) -> PseudoLabels:
    own = (3 * half(20, 4, REST), heads(30, REST, 3.0))
    partner = (3 * half(40, 4, REST), heads(50, REST, 3.0))
    return pseudo_labels(*own, tau, partner=partner, keep=keep_mask())


@pytest.mark.parametrize("tau, mask", [(0.95, "on"), (0.95, "off"), (0.9, "on")])
def test_cgs_unsupervised_losses(tau, mask):
    expected = golden(f"cgs_unsup_tau{tau}_dice_mask_{mask}")
    labels = cgs_labels(tau)
    fractions = expected["fractions"]
    near(labels.confident.float().mean(), fractions["mg"])
    near(labels.error_free.float().mean(), fractions["ms"])
    near(labels.agreement.float().mean(), fractions["mc"])
    assert labels.generalist.flatten().bincount().tolist() == fractions["counts_yg"]
    assert labels.fused.flatten().bincount().tolist() == fractions["counts_ys"]
    terms = unsupervised_losses(half(1, 4, REST), heads(15, REST), labels, mask == "on")
    general = [terms[n][0] for n in ("self", "bidirectional", "consensus")]
    near(torch.stack(general), expected["generalist_terms_self_bidirectional_consensus"])
    # The goldens list a specialist's terms as [from the generalist, self, consensus].
    special = torch.stack([terms[n][1] for n in ("bidirectional", "self", "consensus")], dim=1)
    near(special, expected["specialist_terms"])
    near(sum(g + s.mean() for g, s in terms.values()), expected["L_u"])


def test_cgs_supervised_loss():
    labels = integers(1, 8, 32, 32)[OWN]
    near(supervised_loss(half(0, 4, OWN), heads(10, OWN), labels), golden("cgs_supervised"))


class Replay(nn.Module):
    """A network that returns stated outputs, one after the other; the inputs are kept."""

    def __init__(self, *outputs) -> None:
        super().__init__()
        self.outputs, self.inputs = list(outputs), []

    def forward(self, x: Tensor):
        self.inputs.append(x)
        return self.outputs.pop(0)


def join(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def batch_of_eight() -> Batch:
    images = [normal(300 + i, 4, 1, 32, 32) for i in range(8)]
    return Batch(
        Images(images[0], (images[1],)),
        integers(1, 8, 32, 32)[OWN],
        Images(images[2], (images[3],)),
        torch.Generator(),
        Images(images[4], (images[5],)),
        Images(images[6], (images[7],)),
        (keep_mask(),),
    )


@pytest.mark.parametrize("mask", ["on", "off"])
def test_cgs_method_wires_the_losses(mask):
    """The whole method on stub networks: which pass feeds which loss, and the weight lambda(t)."""
    method = CGS(Task(4, 32), CGS.Options(tau=0.95, dice_mask=mask == "on", lambda_max=0.1))
    junk = normal(999, 4, 4, 32, 32), torch.randn(4, 3, 3, 32, 32)
    weak = (half(0, 4, OWN), heads(10, OWN))
    strong = (half(1, 4, REST), heads(15, REST))
    taught = (3 * half(20, 4, REST), heads(30, REST, 3.0))
    partner = (3 * half(40, 4, REST), heads(50, REST, 3.0))
    student = Replay(tuple(map(join, weak, junk)), tuple(map(join, junk, strong)))
    teacher = Replay(tuple(map(join, junk, partner)), tuple(map(join, junk, taught)))
    method.nets = {"student": student, "teacher": teacher}
    batch = batch_of_eight()
    terms = method.loss(batch, Progress(15000, 30000))
    near(terms.pop("supervised"), golden("cgs_supervised"))
    near(
        sum(terms.values()),
        golden("lambda_max0.1")["15000"] * golden(f"cgs_unsup_tau0.95_dice_mask_{mask}")["L_u"],
    )
    assert batch.partner is not None and batch.partner_labelled is not None
    assert torch.equal(teacher.inputs[0], join(batch.partner_labelled.weak, batch.partner.weak))
    assert torch.equal(teacher.inputs[1], join(batch.labelled.weak, batch.unlabelled.weak))
    mixed = mix(batch.unlabelled.strong[0], batch.partner.strong[0], batch.keep[0])
    assert torch.equal(student.inputs[0], join(batch.labelled.weak, batch.unlabelled.weak))
    assert torch.equal(student.inputs[1], join(batch.labelled.strong[0], mixed))


# --- Baselines -------------------------------------------------------------------------------------------


def plain_batch() -> Batch:
    images = [torch.zeros(4, 1, 32, 32), torch.zeros(4, 1, 32, 32)]
    labels = integers(1, 8, 32, 32)[OWN]
    return Batch(Images(images[0], (images[0],)), labels, Images(images[1], (images[1],)), torch.Generator())


@pytest.mark.parametrize("t", [999, 1000])
def test_mean_teacher(t):
    method = MeanTeacher(Task(4, 32))
    method.nets = {"student": Replay(normal(0, 8, 4, 32, 32)), "teacher": Replay(half(2, 4, REST))}
    terms = method.loss(plain_batch(), Progress(t, 30000))
    expected = golden(f"mean_teacher_t{t}")
    near(terms["supervised"], expected["L_sup"])
    near(sum(terms.values()), expected["loss"])
    weight = losses.ramp(0.1, t, 30000)
    near(terms["consistency"], weight * expected["consistency"])


def test_ua_mt():
    expected = golden("uamt_t0")
    near(threshold(Progress(0, 30000)), expected["threshold"])
    base = 6 * half(70, 4, REST)
    passes = torch.stack([base + half(60 + i, 4, REST) for i in range(8)])
    entropy = uncertainty(passes)
    near(entropy.mean(), expected["mean_uncertainty"])
    mask = entropy < expected["threshold"]
    near(mask.float().mean(), expected["mask_fraction"])
    distance = masked_distance(2 * half(0, 4, REST), base + half(2, 4, REST), mask)
    near(distance, expected["consistency"])


def test_ua_mt_method():
    from baselines.ua_mt import UncertaintyAwareMeanTeacher

    method = UncertaintyAwareMeanTeacher(Task(4, 32))
    base = 6 * half(70, 4, REST)
    pairs = [join(base + half(60 + i, 4, REST), base + half(61 + i, 4, REST)) for i in range(0, 8, 2)]
    method.nets = {
        "student": Replay(2 * normal(0, 8, 4, 32, 32)),
        "teacher": Replay(base + half(2, 4, REST), *pairs),
    }
    terms = method.loss(plain_batch(), Progress(0, 30000))
    near(sum(terms.values()), golden("uamt_t0")["loss"])


def test_cps():
    method = CrossPseudoSupervision(Task(4, 32))
    method.nets = {"first": Replay(normal(0, 8, 4, 32, 32)), "second": Replay(normal(2, 8, 4, 32, 32))}
    terms = method.loss(plain_batch(), Progress(15000, 30000))
    expected = golden("cps_t15000")
    near(sum(terms.values()), expected["loss"])
    weight = losses.ramp(0.1, 15000, 30000)
    near(terms["crossed"], weight * (expected["pseudo_1"] + expected["pseudo_2"]))

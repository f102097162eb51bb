"""Losses of the baselines against values of their released implementations (tests/goldens.json)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_goldens import (
    LABELS,
    LOGITS,
    MASK,
    OWN,
    PROBABILITIES,
    REST,
    Replay,
    golden,
    half,
    integers,
    join,
    near,
    normal,
    plain_batch,
)
from torch import Tensor, nn

from baselines import bcp, caussl, ctct, dhc, magicnet, mc_net, ss_net, unimatch, urpc
from cgs.engine.losses import cross_entropy, dice, one_hot, ramp, supervised
from cgs.engine.method import Method, Progress, Task
from cgs.engine.views import Batch, Images

TASK, MIDDLE = Task(4, 32), Progress(15000, 30000)
WEIGHT = ramp(0.1, 15000, 30000)


def wired(method: Method, **nets: nn.Module) -> Method:
    method.nets = dict(nets)
    return method


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts() -> None:
    # The released URPC has a head more, on the bottleneck, which nothing uses: 9,220 parameters.
    assert count(urpc.PyramidNet(4, 16)) == golden("params_urpc_C4") - 9220
    assert [count(mc_net.MutualNet(4, 16, m)) for m in (2, 3)] == golden("params_mcnet_v1_v2_C4")
    assert count(ss_net.SeparatingNet(4, 16)) == golden("params_ssnet_C4")
    assert count(ctct.CrossTeaching(Task(4, 224)).networks(Task(4, 224))["transformer"]) == golden(
        "params_swin_unet_C4"
    )


def test_urpc() -> None:
    outputs = tuple(normal(s, 8, 4, 32, 32) for s in (0, 2, 3, 4))
    expected = golden("urpc_t15000")
    per_scale = urpc.pyramid_consistency(tuple(o[REST] for o in outputs))
    near(per_scale, expected["per_scale"])
    method = wired(urpc.UncertaintyRectifiedPyramidConsistency(TASK), student=Replay(outputs))
    terms = method.loss(plain_batch(), MIDDLE)
    near(terms["supervised"], expected["L_sup"])
    near(terms["consistency"], WEIGHT * expected["consistency"])
    near(sum(terms.values()), expected["loss"])


def test_ctct() -> None:
    nets = {"unet": Replay(normal(0, 8, 4, 32, 32)), "transformer": Replay(normal(2, 8, 4, 32, 32))}
    terms = wired(ctct.CrossTeaching(TASK), **nets).loss(plain_batch(), MIDDLE)
    expected = golden("ctct_t15000")
    near(terms["crossed"], WEIGHT * (expected["pseudo_1"] + expected["pseudo_2"]))
    near(sum(terms.values()), expected["loss"])
    near(ctct.CrossTeaching.taught(half(0, 4, REST), half(2, 4, REST)), expected["pseudo_1"])


def test_mc_net() -> None:
    near(mc_net.half_dice(PROBABILITIES, LABELS), golden("dice_mcnet_no_factor_2"))
    for p, value in golden("sharpening").items():
        near(mc_net.sharpen(torch.tensor(float(p), dtype=torch.float64)), value)
    outputs = (normal(0, 8, 4, 32, 32), normal(2, 8, 4, 32, 32))
    terms = wired(mc_net.MutualConsistency(TASK), student=Replay(outputs)).loss(plain_batch(), MIDDLE)
    expected = golden("mcnet_2_decoders_t15000")
    near(terms["supervised"], expected["dice_sum"])
    near(terms["consistency"], ramp(0.1, 15001, 30000) * expected["consistency_sum"])
    near(sum(terms.values()), expected["loss"])


# --- SS-Net ----------------------------------------------------------------------------------------------


def filled_ss_net() -> ss_net.SeparatingNet:
    """The MLPs with the weights that the goldens state."""
    net = ss_net.SeparatingNet(4, 16)

    def fill(mlp: nn.Sequential, base: int) -> None:
        tensors = [t for i in (0, 1, 3) for t in (mlp[i].weight, mlp[i].bias)]
        with torch.no_grad():
            for i, t in enumerate(tensors):
                r = normal(base + i, *t.shape)
                t.copy_(r / t.shape[1] ** 0.5 if t.dim() > 1 else 0.1 * r + (i == 2))

    fill(net.projection, 2000)
    fill(net.prediction, 2010)
    for c in range(4):
        fill(net.pixel_selectors[c], 2100 + 10 * c)
        fill(net.memory_selectors[c], 2200 + 10 * c)
    return net


def test_ss_net_memory_and_separation() -> None:
    net, features = filled_ss_net(), normal(5, 200, 16)
    labels = torch.from_numpy(np.random.RandomState(6).randint(0, 4, 200))
    memory = ss_net.remember(net, features, labels, torch.ones_like(labels, dtype=torch.bool))
    expected = golden("ssnet_memory")
    assert [len(memory.get(c, ())) for c in range(4)] == expected["sizes"]
    near(torch.stack([memory[c].sum() for c in (1, 2, 3)]), expected["sums"])
    near(ss_net.separation(net, features, labels, memory), golden("ssnet_contrast_loss"))


def test_ss_net_adversarial() -> None:
    net = nn.Conv2d(1, 4, 3, padding=1)
    with torch.no_grad():
        net.weight.copy_(normal(8, 4, 1, 3, 3))
        net.bias.copy_(normal(9, 4))  # type: ignore[union-attr]
    images, start = (
        torch.from_numpy(np.random.RandomState(s).rand(3, 1, 16, 16).astype(np.float32)) for s in (10, 11)
    )
    target = net(images).softmax(1).detach()
    push = 6 * ss_net.adversarial_direction(net, images, target, start - 0.5)
    expected = golden("ssnet_vat")
    near(push.flatten(1).norm(dim=1), expected["r_adv_norm_per_image"])
    near(dice(net(images + push).softmax(1), target), expected["L_vat"])


# --- UniMatch and BCP ------------------------------------------------------------------------------------


def small(seed: int) -> Tensor:
    return normal(seed, 4, 4, 32, 32)


def test_unimatch(monkeypatch: pytest.MonkeyPatch) -> None:
    removed = np.random.RandomState(3).rand(4, 32, 32).astype(np.float32) < 0.4
    kept = torch.from_numpy(~removed)
    near(dice(PROBABILITIES, LABELS, kept, smooth=1e-5), golden("unimatch_masked_dice_eps1e-5"))
    keep = [torch.ones(4, 32, 32, dtype=torch.bool) for _ in range(2)]
    for i in range(4):
        keep[0][i, 2 + i : 14 + i, 4 + 2 * i : 20 + 2 * i] = False
        if i:
            keep[1][i, 3 + i : 15 + i, 4 + 2 * i : 20 + 2 * i] = False
    weak = join(small(0), 2 * small(20))
    monkeypatch.setattr(
        unimatch, "with_perturbed_features", lambda net, x: ((weak, None), join(small(0), small(3)))
    )
    method = unimatch.UniMatch(TASK, unimatch.UniMatch.Options(tau=0.6))
    student = Replay(2 * small(21), join(small(4), small(5)))
    images = [normal(400 + i, 4, 1, 32, 32) for i in range(8)]
    batch = Batch(
        Images(images[0]),
        integers(1, 4, 32, 32),
        Images(images[1], (images[2], images[3])),
        torch.Generator(),
        partner=Images(images[4], (images[5], images[6])),
        keep=(keep[0], keep[1]),
    )
    terms = wired(method, student=student).loss(batch, MIDDLE)
    expected = golden("unimatch_total")
    near(terms["supervised"], expected["L_x"] / 2)
    near(terms["strong"], 0.125 * (expected["L_s1"] + expected["L_s2"]))
    near(terms["perturbed"], 0.25 * expected["L_fp"])
    near(sum(terms.values()), expected["loss"])
    assert torch.equal(student.inputs[0], images[4])
    mixed = torch.where(keep[1].unsqueeze(1), images[3], images[6])
    assert torch.equal(student.inputs[1][4:], mixed)


def test_unimatch_learning_rate() -> None:
    expected = golden("lr_unimatch_step")
    progress = Progress(1000, expected["total_iters_ACDC3"])
    near(unimatch.UniMatch(TASK).learning_rate(progress, 0.01, 0.9), expected["step1000"])


@pytest.mark.parametrize("key, inner", [("true_outside", 0.5), ("pretrain", 1.0)])
def test_bcp_loss(key: str, inner: float) -> None:
    mask = torch.ones(32, 32, dtype=torch.bool)
    mask[3:24, 7:28] = False
    logits, outer, pasted = normal(0, 6, 4, 32, 32), integers(1, 6, 32, 32), integers(2, 6, 32, 32)
    loss = bcp.region_loss(logits, outer, mask) + inner * bcp.region_loss(logits, pasted, ~mask)
    near(loss, golden(f"bcp_mixloss_{key}")["loss"])


def test_bcp_background_mask() -> None:
    fixed = bcp.region_loss(LOGITS, LABELS, MASK) - 0.5 * golden("dice_masked_intended_eps1e-10")
    released = bcp.region_loss(LOGITS, LABELS, MASK, mask_background=False)
    near(released - fixed, 0.5 * golden("dice_masked_bcp_prefix_bug"))


def test_bcp_components() -> None:
    values = np.random.RandomState(4).rand(3, 24, 24)
    labels = (values > 0.55).astype(np.int64) + (values > 0.75)
    labels[2][labels[2] == 2] = 1
    kept = bcp.largest_components(torch.from_numpy(labels), 4)
    expected = golden("bcp_largest_component")["pixels_per_class_and_image"]
    assert [[int((image == c).sum()) for c in (1, 2, 3)] for image in kept] == expected


# --- CauSSL, DHC, MagicNet -------------------------------------------------------------------------------


def test_caussl() -> None:
    shapes = ((4, 2, 3, 3), (3, 4, 1, 1))
    own = [normal(80 + i, *s).flatten(1) for i, s in enumerate(shapes)]
    other = [normal(90 + i, *s).flatten(1) for i, s in enumerate(shapes)]
    mixing = [0.1 * normal(100, 4, 4), 0.1 * normal(101, 3, 3)]
    near(caussl.dependence(own, other, mixing), golden("caussl_dependence"))
    for t, value in golden("caussl_ramp").items():
        near(Progress(int(t), 30000).ramp(0.1, steps=40), value)


def test_dhc_difficulty() -> None:
    weights = dhc.DifficultyWeights(4)
    for it, (a, expected) in enumerate(zip((0, -1.0, 1.0), golden("dhc_diffdw_3_updates"), strict=True)):
        label = torch.from_numpy(np.random.RandomState(20 + it).randint(0, 4, (2, 1, 16, 16)))[:, 0]
        if it < 2:
            label[label == 3] = 0
        logits = normal(10 + it, 2, 4, 16, 16) + a * one_hot(label, 4)
        hard = dhc.hard_dice(logits.argmax(1), label, 4)
        near(hard, expected["hard_dice"])
        near(weights.update(hard), expected["weights"])


def test_dhc_distribution() -> None:
    maps = [
        torch.from_numpy(np.random.RandomState(s).choice(4, size=(16, 16), p=[0.7, 0.15, 0.1, 0.05]))
        for s in (30, 31)
    ]
    expected = golden("dhc_distdw_init_and_3_updates")
    weights = dhc.distribution_weights(dhc.class_counts(torch.stack(maps), 4))
    near(weights, expected[0])
    for it, b in enumerate((-0.5, -0.5, -50)):
        logits = normal(40 + it, 2, 4, 16, 16) + torch.tensor([1.5, 0.5, 0, b]).view(1, 4, 1, 1)
        weights = 0.99 * weights + 0.01 * dhc.distribution_weights(dhc.class_counts(logits.argmax(1), 4))
        near(weights, expected[1 + it])


def test_dhc_losses() -> None:
    weights, expected = torch.tensor([0, 1, 2.5, 4]), golden("dhc_supervised_weighted")
    near(dhc.weighted_cross_entropy(LOGITS, LABELS, weights), expected["ce"])
    near(dhc.weighted_dice(LOGITS, LABELS, weights), expected["dice"])
    for epoch, value in golden("dhc_mu").items():  # The value at e is in force one unit later.
        near(dhc.DualDebiasedCoTraining(TASK).mu(Progress(int(epoch) + 1, 300)), value)


def test_magicnet() -> None:
    near(dice(PROBABILITIES, LABELS), golden("dice_magicnet_eps1e-10"))
    recent = torch.from_numpy(np.random.RandomState(1).randint(0, 4, 500))
    counts, expected = dhc.class_counts(recent, 4), golden("magicnet_blend")
    near(counts / counts.max(), expected["class_weight"])
    blended = magicnet.blend(normal(0, 2, 4, 8, 8), normal(2, 2, 4, 8, 8), counts)
    near(blended.sum(), expected["blended_sum"])
    assert blended.argmax(1).flatten().bincount(minlength=4).tolist() == expected["label_counts"]
    for t, value in golden("magicnet_ramp_350").items():
        near(Progress(int(t), 70000).ramp(0.1), value)


# --- Whole methods, assembled from the parts above, on stub networks ---------------------------------------


def images_of(*seeds: int) -> list[Tensor]:
    return [normal(seed, 4, 1, 32, 32) for seed in seeds]


def test_bcp_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which label belongs to which region, and what it weighs."""
    mask = torch.ones(32, 32, dtype=torch.bool)
    mask[3:24, 7:28] = False
    monkeypatch.setattr(bcp, "rectangle_mask", lambda *_: mask)
    labels, (labelled, unlabelled) = integers(1, 4, 32, 32), images_of(1, 2)
    taught = [normal(s, 2, 4, 32, 32) for s in (3, 4)]
    out = [normal(s, 2, 4, 32, 32) for s in (5, 6)]
    student, teacher = Replay(*out), Replay(*taught)
    method = wired(bcp.BidirectionalCopyPaste(TASK), student=student, teacher=teacher)
    terms = method.loss(Batch(Images(labelled), labels, Images(unlabelled), torch.Generator()), MIDDLE)
    pseudo = [bcp.largest_components(t.argmax(1), 4) for t in taught]
    true = bcp.region_loss(out[0], labels[:2], ~mask) + bcp.region_loss(out[1], labels[2:], mask)
    guessed = bcp.region_loss(out[0], pseudo[0], mask) + bcp.region_loss(out[1], pseudo[1], ~mask)
    near(terms["supervised"], true)
    near(terms["pseudo"], 0.5 * guessed)
    assert torch.equal(teacher.inputs[0], unlabelled[:2]) and torch.equal(teacher.inputs[1], unlabelled[2:])
    assert torch.equal(student.inputs[0], torch.where(mask, unlabelled[:2], labelled[:2]))
    assert torch.equal(student.inputs[1], torch.where(mask, labelled[2:], unlabelled[2:]))


def test_dhc_method() -> None:
    """The first network weighs by difficulty, the second by distribution; each learns from the other."""
    first, second = normal(0, 8, 4, 32, 32), normal(2, 8, 4, 32, 32)
    method = wired(dhc.DualDebiasedCoTraining(TASK), first=Replay(first), second=Replay(second))
    batch = plain_batch()
    method.begin(torch.tensor([0, 0, 0, 0, 1, 1, 2, 3]))
    start = dhc.distribution_weights(torch.tensor([4.0, 2, 1, 1]))
    terms = method.loss(batch, MIDDLE)
    hard = dhc.DifficultyWeights(4).update(dhc.hard_dice(first[OWN].argmax(1), batch.labels, 4))
    new = dhc.distribution_weights(dhc.class_counts(second[REST].argmax(1), 4))
    rare = 0.99 * start + 0.01 * new
    own = [
        dhc.weighted_cross_entropy(f[OWN], batch.labels, w) + dhc.weighted_dice(f[OWN], batch.labels, w)
        for f, w in ((first, hard), (second, rare))
    ]
    near(terms["supervised"], own[0] + own[1])
    crossed = dhc.weighted_cross_entropy(first, second.argmax(1), hard) + dhc.weighted_cross_entropy(
        second, first.argmax(1), rare
    )
    near(terms["crossed"], 0.1 * np.exp(-5 * (1 - 14999 / 30000) ** 2) * float(crossed))


def test_caussl_method(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = normal(0, 8, 4, 32, 32), normal(2, 8, 4, 32, 32)
    method = wired(caussl.CausalityInspired(TASK), first=Replay(first), second=Replay(second))
    values = {("first", "second"): torch.tensor(0.2), ("second", "first"): torch.tensor(0.3)}
    monkeypatch.setattr(method, "dependence_of", lambda own, other: values[own, other])
    terms = method.loss(plain_batch(), Progress(15001, 30000))
    labels = plain_batch().labels
    near(terms["supervised"], supervised(first[OWN], labels) + supervised(second[OWN], labels))
    crossed = cross_entropy(first[REST], second[REST].argmax(1)) + cross_entropy(
        second[REST], first[REST].argmax(1)
    )
    near(terms["crossed"], 0.3 * 0.1 * float(crossed))  # The ramp has ended after a fifth of the training.
    near(terms["dependence"], 3 * 0.5)


def test_ss_net_method(monkeypatch: pytest.MonkeyPatch) -> None:
    method = ss_net.SmoothnessAndSeparation(TASK)
    net = filled_ss_net()
    features = normal(7, 8, 16, 32, 32)
    monkeypatch.setattr(net.unet, "features", lambda images: features)
    monkeypatch.setattr(method, "smoothness", lambda *_: torch.tensor(0.5))
    wired(method, student=net).begin(integers(1, 4, 32, 32))
    seen = []

    def separation(net: nn.Module, vectors: Tensor, labels: Tensor, memory: dict, weighted: bool) -> Tensor:
        seen.append((vectors, labels, sorted(memory)))
        return torch.tensor(float(len(seen)))

    monkeypatch.setattr(ss_net, "separation", separation)
    batch = plain_batch()
    terms = method.loss(batch, MIDDLE)
    logits = net.unet.out(features).detach()
    near(terms["supervised"], dice(logits[OWN].softmax(1), batch.labels))
    near(terms["smoothness"], WEIGHT * 0.5)
    near(terms["separation"], WEIGHT * 0.1 * 3)
    (known, true, memory), (unknown, guess, _) = seen
    assert torch.equal(true, batch.labels.flatten()) and torch.equal(guess, logits[REST].argmax(1).flatten())
    assert torch.equal(known, ss_net.pixels(features[OWN])) and torch.equal(
        unknown, ss_net.pixels(features[REST])
    )
    assert memory == [1, 2, 3], "the memory is refreshed before the losses of the same iteration"


def test_magicnet_method(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cross, within = (normal(s, 8, 4, 32, 32) for s in (0, 2, 3))

    class Stub(magicnet.UNet):
        def forward(self, x: Tensor) -> Tensor:
            return whole

        def features(self, x: Tensor) -> Tensor:
            return x

        def out(self, features: Tensor) -> Tensor:
            return within if features is marker else cross

    marker = torch.zeros(1)
    net = Stub.__new__(Stub)
    nn.Module.__init__(net)
    monkeypatch.setattr(magicnet, "alone", lambda net, images: (marker, marker))
    monkeypatch.setattr(magicnet, "location_loss", lambda locator, deepest: torch.tensor(2.0))
    teacher = normal(4, 4, 4, 32, 32)
    method = wired(magicnet.MagicNet(TASK), student=net, teacher=Replay(teacher), locator=nn.Identity())
    batch = plain_batch()
    method.begin(batch.labels)
    method.load_state({"counts": torch.tensor([4.0, 1, 2, 3]), "gathered": torch.zeros(4)})
    terms = method.loss(batch, MIDDLE)
    overlaps = [dice(z[OWN].softmax(1), batch.labels) for z in (whole, cross, within)]
    near(terms["supervised"], (cross_entropy(whole[OWN], batch.labels) + sum(overlaps)) / 4)
    near(terms["location"], 0.2)
    label = magicnet.blend(teacher, within[REST], torch.tensor([4.0, 1, 2, 3])).argmax(1)
    near(terms["consistency"], WEIGHT * dice(cross[REST].softmax(1), label))

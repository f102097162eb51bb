"""What is peculiar to each baseline, on cases made by hand: masks, stopped gradients, memories, tiles, schedules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_conformance import batches, made
from test_goldens import Replay, normal, plain_batch
from torch import Tensor, nn

from baselines import bcp, caussl, dhc, fixmatch, magicnet, mc_net, ss_net, unimatch, urpc
from cgs import plugin
from cgs.engine.losses import dice
from cgs.engine.method import Progress, Task, build, load_method
from cgs.engine.seeds import generator
from cgs.method import CGS
from cgs.networks.specialists import CollaborativeNet
from cgs.networks.unet import Dropout, UNet, enlarge
from cgs.presets import ABLATIONS
from cgs.specialists import pseudo_labels, redefine_labels, specialist_losses, unsupervised_losses

CONSTANT, ADVANCED, PLAIN = 0.01, 0.01 * 0.5**0.9, 0.01 * (1 - 14999 / 30000) ** 0.9


@pytest.mark.parametrize(
    "name, rate",
    [
        *((name, CONSTANT) for name in ("bcp", "mc-net", "ss-net")),
        *((name, ADVANCED) for name in ("cps", "ctct", "magicnet")),
        *(
            (name, PLAIN)
            for name in ("caussl", "dhc", "unimatch", "urpc", "mean-teacher", "ua-mt", "fixmatch")
        ),
    ],
)
def test_learning_rate_in_the_middle(name: str, rate: float) -> None:
    method = load_method(name)(Task(4, 32))
    assert method.learning_rate(Progress(15000, 30000), 0.01, 0.9) == pytest.approx(rate, rel=1e-9)


def random(*shape: int, grad: bool = False) -> Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=draw).requires_grad_(grad)


# --- URPC ------------------------------------------------------------------------------------------------


def test_urpc_drops_the_most_active_positions() -> None:
    features = torch.ones(1, 2, 4, 4)
    features[0, :, 0, 0] = 10.0  # r times its maximum lies in 7 to 9: only this position is above.
    kept = urpc.drop_active(features)
    assert (kept[0, :, 0, 0] == 0).all() and kept.sum() == 30


def test_urpc_noise_is_one_for_the_batch_and_bounded() -> None:
    noise = urpc.multiply_noise(torch.ones(3, 2, 8, 8)) - 1
    assert torch.equal(noise[0], noise[1]) and noise.abs().max() <= 0.3 and noise.std() > 0.1


def test_urpc_perturbs_only_auxiliary_heads_and_only_in_training() -> None:
    net = urpc.PyramidNet(3, 4)
    for module in net.modules():
        if isinstance(module, Dropout):
            module.probability = 0.0
    images = random(2, 1, 32, 32)
    with torch.no_grad():
        first, *others = [net(images) for _ in range(8)]  # Two thresholds may drop the same positions.
        assert all(torch.equal(first[0], other[0]) for other in others)
        for scale in (1, 2, 3):
            assert any(not torch.equal(first[scale], other[scale]) for other in others)
        net.eval()
        assert all(torch.equal(a, b) for a, b in zip(net(images), net(images), strict=True))
        assert torch.equal(net(images)[0], net.unet(images))


def test_urpc_mean_is_not_detached() -> None:
    """The term of scale 1 alone pulls on scale 2 too, through the mean."""
    outputs = tuple(random(1, 3, 4, 4 + i, grad=True)[..., :4] for i in range(2))
    gradient = torch.autograd.grad(urpc.pyramid_consistency(outputs)[0], outputs[1])[0]
    assert gradient.abs().sum() > 0


def test_urpc_is_finite_where_a_probability_underflows() -> None:
    outputs = tuple(torch.tensor([0.0, 500.0]).view(1, 2, 1, 1).requires_grad_() for _ in range(4))
    loss = urpc.pyramid_consistency(outputs).mean()
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, outputs))


def test_enlarge_is_nearest() -> None:
    x = random(2, 3, 4, 5)
    assert torch.equal(enlarge(x, 4), nn.functional.interpolate(x, scale_factor=4, mode="nearest"))


# --- CTCT and MC-Net -------------------------------------------------------------------------------------


def test_mc_net_gradient_reaches_the_sharpened_side() -> None:
    """Each ordered pair pulls on both of its sides: more than the gradient of the plain sides alone."""
    outputs = tuple(normal(seed, 8, 4, 32, 32).requires_grad_() for seed in (0, 2))
    method = mc_net.MutualConsistency(Task(4, 32), mc_net.MutualConsistency.Options(lambda_max=1.0))
    method.nets = {"student": Replay(outputs)}
    whole = torch.autograd.grad(
        method.loss(plain_batch(), Progress(29999, 30000))["consistency"], outputs[1]
    )[0]
    p, q = (o.softmax(1) for o in outputs)
    plain = (q - mc_net.sharpen(p.detach())).square().mean() + (
        p - mc_net.sharpen(q.detach())
    ).square().mean()
    sharpened = (p.detach() - mc_net.sharpen(q)).square().mean()
    parts = [torch.autograd.grad(loss, outputs[1], retain_graph=True)[0] for loss in (plain, sharpened)]
    torch.testing.assert_close(whole, parts[0] + parts[1])
    assert parts[1].abs().sum() > 0.01 * parts[0].abs().sum()


def test_mc_net_decoders_differ_only_in_up_sampling() -> None:
    net = mc_net.MutualNet(3, 4, 3)
    transposed, nearest = (branch.decoder for branch in net.branches)
    assert all(isinstance(block.reduce, nn.ConvTranspose2d) for block in transposed)
    bilinear = {k: v.shape for k, v in net.unet.decoder.state_dict().items()}
    assert bilinear == {k: v.shape for k, v in nearest.state_dict().items()}
    assert len(net(random(2, 1, 32, 32))) == 3


# --- SS-Net ----------------------------------------------------------------------------------------------


def test_ss_net_memory_holds_right_foreground_pixels_with_the_lowest_scores() -> None:
    net = ss_net.SeparatingNet(3, 4)
    features, labels = random(300, 4), torch.arange(300) % 3
    right = torch.ones(300, dtype=torch.bool)
    right[labels == 2] = torch.arange(100) < 5
    memory = ss_net.remember(net, features, labels, right)
    assert set(memory) == {1, 2} and len(memory[1]) == 32 and len(memory[2]) == 5
    with torch.no_grad():
        net.projection.eval()
        candidates = net.projection(features[labels == 1])
        score = ss_net.scores(net.pixel_selectors[1], candidates)
    assert torch.equal(memory[1], candidates[score.argsort()[:32]]) and memory[1].isfinite().all()
    assert ss_net.remember(net, features, labels, ~right).keys() == {2}, (
        "a class without pixels keeps its old one"
    )
    assert net.projection.training


@pytest.mark.parametrize("weighted", [False, True])
def test_ss_net_separation_is_the_double_sum(weighted: bool) -> None:
    net = ss_net.SeparatingNet(3, 4)
    features, labels = random(40, 4), torch.arange(40) % 3
    memory = {1: random(6, 8), 2: random(1, 8)}  # A memory of one vector does not count.
    expected = 0.0
    with torch.no_grad():
        mine = net.prediction(net.projection(features))[labels == 1]
        w, v = ss_net.scores(net.pixel_selectors[1], mine), torch.ones(6)
        if weighted:
            v = ss_net.scores(net.memory_selectors[1], nn.functional.normalize(memory[1], dim=1))
        for i in range(len(mine)):
            for j in range(6):
                cosine = nn.functional.cosine_similarity(mine[i], memory[1][j], dim=0)
                expected += float(len(w) * w[i] / w.sum() * 6 * v[j] / v.sum() * (1 - cosine))
        got = ss_net.separation(net, features, labels, memory, weighted)
    assert float(got) == pytest.approx(expected / (len(mine) * 6) / 3, rel=1e-4)


def tracked(net: nn.Module) -> int:
    """How many passes the batch norms of a U-Net have tracked."""
    counts = {int(m.num_batches_tracked) for m in net.modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(counts) == 1
    return counts.pop()


def test_statistics_of_adversarial_passes_and_of_tiles_are_not_tracked(phantom: Path) -> None:
    """SS-Net: the main pass and that of the target count, two adversarial ones do not. MagicNet: whole images do."""
    for name, passes in (("ss-net", 2), ("magicnet", 1)):
        method = made(name)
        method.loss(batches(method, phantom)(0), Progress(500, 1000))
        assert tracked(method.nets["student"]) == passes


def test_ss_net_memory_survives_a_checkpoint(phantom: Path) -> None:
    method, other = made("ss-net"), made("ss-net")
    maker = batches(method, phantom)
    batches(other, phantom)
    method.memory = {1: random(32, 8), 3: random(2, 8)}  # type: ignore[attr-defined]
    other.load_state({k: v.clone() for k, v in method.state().items()})
    assert other.memory.keys() == {1, 3}  # type: ignore[attr-defined]
    losses = []
    for m in (method, other):
        torch.manual_seed(0)
        losses.append(float(m.loss(maker(0), Progress(500, 1000))["separation"].detach()))
    assert losses[0] == losses[1]


def test_ss_net_push_is_worse_than_a_random_one() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(1, 3, 3, padding=1)
    images, start = torch.rand(4, 1, 16, 16), torch.rand(4, 1, 16, 16) - 0.5
    target = net(images).softmax(1).detach()

    def harm(direction: Tensor) -> float:
        return float(dice(net(images + 6 * direction).softmax(1), target).detach())

    assert harm(ss_net.adversarial_direction(net, images, target, start)) > 1.3 * harm(ss_net.unit(start))


# --- UniMatch --------------------------------------------------------------------------------------------


def test_unimatch_counts_pixels_from_the_threshold_on() -> None:
    logits, labels = random(1, 2, 2, 2), torch.tensor([[[0, 1], [1, 0]]])
    confidence = torch.tensor([[[0.5, 0.95], [0.94, 1.0]]])
    expected = dice(logits.softmax(1), labels, torch.tensor([[[False, True], [False, True]]]), smooth=1e-5)
    assert unimatch.label_loss(logits, labels, confidence, 0.95) == expected


def test_unimatch_perturbs_whole_channels_of_a_second_copy() -> None:
    net, images = UNet(3, 4).eval(), random(2, 1, 32, 32)
    seen: list[Tensor] = []
    net.decoder.register_forward_pre_hook(lambda _, given: seen.extend(given[0]))
    with torch.no_grad():
        (plain, special), perturbed = unimatch.with_perturbed_features(net, images)
        assert special is None and torch.allclose(plain, net(images), atol=1e-6)
    assert not torch.allclose(perturbed, plain)
    for level in seen[:5]:
        own, copy = level.chunk(2)
        dropped = (copy == 0).flatten(2).all(2)
        assert 0 < dropped.float().mean() < 1
        assert torch.allclose(copy[~dropped], 2 * own[~dropped])


def test_unimatch_labels_partners_in_eval_mode_without_gradient(phantom: Path) -> None:
    method = made("unimatch")
    batch = batches(method, phantom)(0)
    before = {k: v.clone() for k, v in method.nets["student"].state_dict().items()}
    assert batch.partner is not None
    outputs, _ = method.label_partner(batch.partner.weak)  # type: ignore[attr-defined]
    assert not outputs.requires_grad and method.nets["student"].training
    assert all(torch.equal(v, before[k]) for k, v in method.nets["student"].state_dict().items())


# --- BCP -------------------------------------------------------------------------------------------------


def test_bcp_rectangle() -> None:
    draw = generator(0, "test")
    corners = set()
    for _ in range(300):
        mask = bcp.rectangle_mask(32, draw, torch.device("cpu"))
        rows, columns = (~mask).any(1).nonzero(), (~mask).any(0).nonzero()
        assert (~mask).sum() == 21 * 21 and len(rows) == len(columns) == 21
        corners |= {int(rows[0]), int(columns[0])}
    assert corners == set(range(11))


def test_bcp_keeps_the_largest_component_of_every_target() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, 0, 0] = labels[0, 1, 1] = labels[0, 2, 2] = 1  # Joined over corners: three pixels.
    labels[0, 5, 0:2] = 1
    labels[0, 7, 0:2] = labels[0, 7, 4:6] = 5  # A tie: the first one stays.
    kept = bcp.largest_components(labels, 6)
    expected = labels.clone()
    expected[0, 5, 0:2] = expected[0, 7, 4:6] = 0
    assert torch.equal(kept, expected)


def test_bcp_pastes_both_ways(phantom: Path) -> None:
    method = made("bcp")
    batch = batches(method, phantom)(0)
    seen: list[Tensor] = []
    method.nets["student"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method.loss(batch, Progress(10, 100))
    first, second = seen
    labelled, unlabelled = batch.labelled.weak, batch.unlabelled.weak
    # Every pixel is that of one of the two images, in opposite places; the border shows which one lies outside.
    from_unlabelled = first == unlabelled[:2]
    assert ((first == labelled[:2]) | from_unlabelled).all()
    outside = (second == labelled[2:]) & ~(second == unlabelled[2:])
    assert outside.any() and not (outside.any(0) & (first != unlabelled[:2]).any(0)).any()


def test_bcp_pretraining_sees_no_unlabelled_image(phantom: Path) -> None:
    values = []
    for scale in (1.0, 0.0):
        method = made("bcp")
        batch = batches(method, phantom)(0)
        batch.unlabelled.weak.mul_(scale)
        torch.manual_seed(0)
        values.append(method.loss(batch, Progress(10, 100, "pretrain")))
    assert values[0].keys() == {"supervised"} and values[0] == values[1]


def test_bcp_teacher() -> None:
    method = load_method("bcp")(Task(4, 32))
    assert method.average_buffers and {method.teacher_decay(Progress(t, 100)) for t in (0, 50)} == {0.99}
    assert [(s.name, s.from_best) for s in method.stages] == [("pretrain", False), ("train", True)]


# --- CauSSL ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "iteration, terms, maximised",
    [
        (400, {"supervised"}, False),
        (401, {"supervised", "crossed"}, False),
        (501, {"supervised", "crossed"}, False),
        (540, {"supervised", "crossed", "dependence"}, True),
        (541, {"supervised", "crossed", "dependence"}, False),
        (600, {"supervised", "crossed", "dependence"}, True),
    ],
)
def test_caussl_schedule(iteration: int, terms: set[str], maximised: bool, phantom: Path) -> None:
    method = made("caussl")
    before = {n: [p.clone() for p in method.nets[n].parameters()] for n in method.self_stepped}
    assert method.loss(batches(method, phantom)(0), Progress(iteration, 30000)).keys() == terms
    for name in method.self_stepped:
        moved = [
            not torch.equal(a, b) for a, b in zip(before[name], method.nets[name].parameters(), strict=True)
        ]
        assert all(moved) if maximised else not any(moved)


def test_caussl_max_step_raises_the_dependence_and_min_step_pulls_one_network() -> None:
    method = made("caussl")
    assert isinstance(method, caussl.CausalityInspired)
    before = float(method.dependence_of("first", "second").detach())
    method.maximise()
    after = method.dependence_of("first", "second")
    assert float(after.detach()) > 1.5 * before
    for optimiser in method.own.values():
        optimiser.zero_grad()
    after.backward()
    assert all(w.grad is not None for w in convolutions(method.nets["first"]))
    assert all(w.grad is None for w in convolutions(method.nets["second"]))
    assert all(p.grad is None for n in method.self_stepped for p in method.nets[n].parameters())


def convolutions(net: nn.Module) -> list[nn.Parameter]:
    return [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]


def test_caussl_finds_every_convolution_of_the_unet() -> None:
    assert len(caussl.weight_rows(UNet(4, 4))) == 23


# --- DHC -------------------------------------------------------------------------------------------------


def test_dhc_weighs_rare_classes_more_and_the_commonest_not_at_all() -> None:
    weights = dhc.distribution_weights(torch.tensor([1000.0, 100, 10, 1]))
    assert weights[0] == 0 and (weights.diff() > 0).all() and weights[3] == 4
    assert torch.equal(dhc.distribution_weights(torch.full((3,), 7.0)), torch.zeros(3))


def test_dhc_batch_without_weight_has_no_loss() -> None:
    """Only the commonest class in the labels: the weighted mean would be 0 / 0."""
    background = torch.zeros(1, 3, 3, dtype=torch.long)
    assert dhc.weighted_cross_entropy(random(1, 2, 3, 3), background, torch.tensor([0.0, 1])) == 0


def test_dhc_weights_live_across_iterations_and_checkpoints(phantom: Path) -> None:
    method = made("dhc")
    maker = batches(method, phantom)
    for t in range(3):
        method.loss(maker(t), Progress(t, 100))
    other = made("dhc")
    batches(other, phantom)
    other.load_state({k: v.clone() for k, v in method.state().items()})
    assert other.state().keys() == {"rarity", "last", "learnt", "unlearnt", "badness"}
    for a, b in zip(method.state().values(), other.state().values(), strict=True):
        assert torch.equal(a, b)


def test_dhc_predicts_the_mean_of_both_logits() -> None:
    method, images = made("dhc"), random(2, 1, 32, 32)
    first, second = (net.eval()(images) for net in method.nets.values())
    assert torch.equal(method.predict(images), 0.5 * (first + second))


# --- MagicNet --------------------------------------------------------------------------------------------


def test_magicnet_tiles_lie_in_reading_order_and_come_back() -> None:
    images = torch.arange(2 * 8 * 8).view(2, 1, 8, 8).float()
    tiles = magicnet.to_tiles(images)
    assert tiles.shape == (16, 2, 1, 2, 2)
    assert torch.equal(tiles[0], images[:, :, :2, :2]) and torch.equal(tiles[1], images[:, :, :2, 2:4])
    assert torch.equal(tiles[4], images[:, :, 2:4, :2])
    assert torch.equal(magicnet.from_tiles(tiles), images)


def test_magicnet_shuffles_across_the_batch_at_each_position() -> None:
    images = torch.stack([torch.full((1, 8, 8), float(i)) for i in range(3)])
    order = torch.rand(16, 3, generator=torch.Generator().manual_seed(0)).argsort(1)
    mixed = magicnet.shuffle(images, order)
    for position in range(16):
        row, column = divmod(position, 4)
        values = mixed[:, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(values, order[position].float().view(3, 1, 1).expand(3, 2, 2))
    assert torch.equal(magicnet.shuffle(mixed, order.argsort(1)), images)


def test_magicnet_tiles_alone_see_nothing_else() -> None:
    net = UNet(3, 4).eval()
    images = random(1, 1, 64, 64, grad=True)
    features, deepest = magicnet.alone(net, images)
    assert features.shape == (1, 4, 64, 64) and deepest.shape == (1, 16, 64)
    gradient = torch.autograd.grad(features[0, :, 20, 40].sum(), images)[0][0, 0]
    tile = torch.zeros(64, 64, dtype=torch.bool)
    tile[16:32, 32:48] = True
    assert gradient[tile].abs().sum() > 0 and gradient[~tile].abs().sum() == 0


def test_magicnet_frequent_classes_take_the_tiles() -> None:
    teacher = torch.tensor([5.0, 0, 0]).view(1, 3, 1, 1)
    within = torch.tensor([0.0, 5, 0]).view(1, 3, 1, 1)
    assert torch.equal(magicnet.blend(teacher, within, torch.tensor([9.0, 1, 0])), within)
    assert torch.equal(magicnet.blend(teacher, within, torch.tensor([0.0, 1, 9])), teacher)


def test_magicnet_counts_the_labels_since_the_last_refresh(phantom: Path) -> None:
    method = made("magicnet")
    maker = batches(method, phantom)
    images = 4 * 32 * 32
    for t in range(22):
        method.loss(maker(t), Progress(t, 1000))
        state = method.state()
        assert state["counts"].sum() == (images if t < 20 else 20 * images)
        assert state["gathered"].sum() == (t % 20) * images


# --- CGS without specialists ---------------------------------------------------------------------------------


def test_cgs_without_specialists_is_its_generalist_taught_by_itself(phantom: Path) -> None:
    """Only the generalist's own terms reach its output convolution: there both methods have one gradient."""
    assert ABLATIONS["cgs-no-specialists"].items() >= {"tau": 0.9, "lambda_max": 2.0, "cutmix": "box"}.items()
    alone = fixmatch.FixMatch(Task(5, 32, 4), fixmatch.FixMatch.Options(tau=0.3, lambda_max=2, cutmix="box"))
    options = CGS.Options(tau=0.3, bidirectional=False, consensus=False)
    whole = CGS(Task(5, 32, 4), options)
    for method in (alone, whole):
        build(method, lambda axis: torch.manual_seed(len(axis)), torch.device("cpu"))
    found = []
    for method in (alone, whole):
        for name, net in method.nets.items():
            plugin.generalist(net).load_state_dict(alone.nets[name].state_dict())
        torch.manual_seed(0)  # Dropout is drawn in the same order.
        losses = method.loss(batches(method, phantom)(0), Progress(900, 1000))
        out = plugin.generalist(method.nets["student"]).out
        found.append([torch.autograd.grad(v, out.weight, retain_graph=True)[0] for v in losses.values()])
    assert len(found[0]) == len(found[1]) == 2
    for ours, theirs in zip(*found, strict=True):
        assert ours.abs().sum() > 0
        torch.testing.assert_close(ours, theirs)


# --- CGS as a plug-in ------------------------------------------------------------------------------------


def test_plugin_adds_what_cgs_adds() -> None:
    options = plugin.PlugInOptions(specialists=True, specialists_lambda=0.5, specialists_tau=0.4)
    labelled, student, teacher = (
        (random(2, 4, 8, 8 + i)[..., :8], random(2, 3, 3, 8, 8 + i)[..., :8]) for i in range(3)
    )
    labels = torch.arange(2 * 64).view(2, 8, 8) % 4
    progress = Progress(500, 1000)
    terms = plugin.specialist_terms(options, progress, labelled, labels, student, teacher)
    parts = unsupervised_losses(*student, pseudo_labels(*teacher, 0.4))
    # The generalist's self-training is the host's own loss; everything else of L_u is attached.
    expected = sum(g + s.mean() for g, s in parts.values()) - parts["self"][0]
    assert torch.allclose(terms["cross_consistency"], progress.ramp(0.5) * expected)
    assert torch.allclose(
        terms["specialists"], specialist_losses(labelled[1], redefine_labels(labels, 3)).mean()
    )


@pytest.mark.parametrize("host", ["mean-teacher", "cps", "unimatch"])
def test_plugin_keeps_the_host(host: str, phantom: Path) -> None:
    plain, attached = made(host, seed=0), made(f"{host}-specialists", seed=0)
    values = []
    for method in (plain, attached):
        for name, net in method.nets.items():  # The same generalists; the specialists differ.
            plugin.generalist(net).load_state_dict(plugin.generalist(plain.nets[name]).state_dict())
        batch = batches(method, phantom)(0)
        torch.manual_seed(0)
        values.append(method.loss(batch, Progress(500, 1000)))
    own, terms = values
    assert terms.keys() == own.keys() | {"specialists", "cross_consistency"}
    assert all(torch.equal(terms[name], value) for name, value in own.items()), "the host's loss is its own"
    nets = [net for name, net in attached.nets.items() if name not in attached.teachers]
    assert all(isinstance(net, CollaborativeNet) for net in nets)
    kept = [sum(p.numel() for n in m.inference().values() for p in n.parameters()) for m in (plain, attached)]
    assert kept[0] == kept[1], "inference costs nothing more"

"""TransUNet: shapes, size of the release, parts by hand, the checkpoint's arrays in their places, gradients."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_config
from scipy import ndimage
from torch import Tensor, nn

from cgs.engine.run import by_content
from cgs.errors import SuiteError
from cgs.evaluation.predict import trained_method
from cgs.networks.transunet import (
    Attention,
    Block,
    Projection,
    ResNet,
    StandardConv,
    TransUNet,
    Unit,
    load_checkpoint,
)
from cgs.plan import Cell
from cgs.workplan import work_plan

POSITION = "Transformer/posembed_input/pos_embedding"
ATTENTION = "Transformer/encoderblock_5/MultiHeadDotProductAttention_1"
SEED = 0
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def net() -> TransUNet:
    torch.manual_seed(SEED)
    return TransUNet(4, 64)


def unit_shapes(key: str, before: int, after: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a unit's arrays in the published file, the vectors of its norms four-dimensional."""
    inner = after // 4
    kernels = {"conv1": (1, 1, before, inner), "conv2": (3, 3, inner, inner), "conv3": (1, 1, inner, after)}
    norms = {"gn1": inner, "gn2": inner, "gn3": after}
    if before != after:
        kernels["conv_proj"], norms["gn_proj"] = (1, 1, before, after), after
    shapes: dict[str, tuple[int, ...]] = {f"{key}/{name}/kernel": shape for name, shape in kernels.items()}
    for name, channels in norms.items():
        shapes |= {f"{key}/{name}/{part}": (1, 1, 1, channels) for part in ("scale", "bias")}
    return shapes


def block_shapes(key: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a transformer block's arrays in the published file."""
    attention, mlp = f"{key}/MultiHeadDotProductAttention_1", f"{key}/MlpBlock_3"
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("query", "key", "value"):
        shapes |= {f"{attention}/{name}/kernel": (768, 12, 64), f"{attention}/{name}/bias": (12, 64)}
    shapes |= {f"{attention}/out/kernel": (12, 64, 768), f"{attention}/out/bias": (768,)}
    for norm in ("LayerNorm_0", "LayerNorm_2"):
        shapes |= {f"{key}/{norm}/scale": (768,), f"{key}/{norm}/bias": (768,)}
    shapes |= {f"{mlp}/Dense_0/kernel": (768, 3072), f"{mlp}/Dense_0/bias": (3072,)}
    return shapes | {f"{mlp}/Dense_1/kernel": (3072, 768), f"{mlp}/Dense_1/bias": (768,)}


def checkpoint_shapes() -> dict[str, tuple[int, ...]]:
    """Key and shape of every array of the published file that the network takes; its grid is 14 x 14."""
    shapes: dict[str, tuple[int, ...]] = {"conv_root/kernel": (7, 7, 3, 64)}
    shapes |= {"gn_root/scale": (1, 1, 1, 64), "gn_root/bias": (1, 1, 1, 64)}
    for stage, units in enumerate((3, 4, 9), 1):
        after = 128 * 2**stage
        for unit in range(1, units + 1):
            first = 64 if stage == 1 else after // 2
            shapes |= unit_shapes(f"block{stage}/unit{unit}", first if unit == 1 else after, after)
    shapes |= {"embedding/kernel": (1, 1, 1024, 768), "embedding/bias": (768,), POSITION: (1, 197, 768)}
    for i in range(12):
        shapes |= block_shapes(f"Transformer/encoderblock_{i}")
    return shapes | {f"Transformer/encoder_norm/{part}": (768,) for part in ("scale", "bias")}


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    draw = np.random.default_rng(0)
    return {key: draw.random(shape, np.float32) for key, shape in checkpoint_shapes().items()}


@pytest.fixture(scope="module")
def loaded(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> TransUNet:
    path = tmp_path_factory.mktemp("weights") / "R50+ViT-B_16.npz"
    np.savez(path, allow_pickle=False, **arrays)
    net = TransUNet(4, 64, weights=path)
    path.unlink()  # 400 MB.
    return net


@pytest.mark.parametrize("size, count", [(64, 105_138_116), (224, 105_276_356)])
def test_parameters_of_the_release(size: int, count: int) -> None:
    with torch.device("meta"):
        net = TransUNet(4, size)
    assert sum(p.numel() for p in net.parameters()) == count


def test_shapes(net: TransUNet) -> None:
    x = torch.rand(1, 1, 64, 64)
    features, logits = net.eval().features(x), net(x)
    assert features.shape == (1, 16, 64, 64) and logits.shape == (1, 4, 64, 64)
    assert torch.equal(logits, net.out(features))


@pytest.mark.parametrize("size", [32, 64, 80, 224])
def test_skips(size: int) -> None:
    with torch.device("meta"):
        last, skips = ResNet()(torch.rand(1, 3, size, size))
    assert last.shape == (1, 1024, size // 16, size // 16)
    assert [(s.shape[1], size // s.shape[2], size // s.shape[3]) for s in skips] == [
        (512, 8, 8),
        (256, 4, 4),
        (64, 2, 2),
    ]


def test_the_skip_at_a_quarter_ends_in_zeros(net: TransUNet) -> None:
    _, (_, quarter, _) = net.resnet(torch.rand(1, 3, 64, 64))
    assert not quarter[:, :, -1].any() and not quarter[..., -1].any()
    assert quarter[:, :, :-1, :-1].mean((0, 1)).all()


def test_wrong_sizes_are_refused(net: TransUNet) -> None:
    for size in (16, 72):
        with pytest.raises(ValueError, match="multiple of 16"):
            TransUNet(4, size)
    with pytest.raises(ValueError, match="three channels"):
        TransUNet(4, 64, 2)
    with pytest.raises(ValueError, match="1 x 64 x 64"):
        net(torch.rand(1, 1, 96, 96))


def test_one_channel_is_repeated(net: TransUNet) -> None:
    with torch.device("meta"):
        three = TransUNet(4, 64, 3)
    three.load_state_dict(net.state_dict(), assign=True)
    x = torch.rand(1, 1, 64, 64)
    assert torch.equal(net.eval()(x), three.eval()(x.repeat(1, 3, 1, 1)))


def test_kernels_are_standardised() -> None:
    part, x = StandardConv(3, 5, 3), torch.rand(2, 3, 8, 8)
    moved = StandardConv(3, 5, 3)
    moved.load_state_dict({"weight": 100 * part.weight + 7})
    kernel = (part.weight - part.weight.mean((1, 2, 3), keepdim=True)).detach()
    kernel = kernel / (kernel.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(part(x), nn.functional.conv2d(x, kernel, padding=1), atol=1e-5)
    assert torch.allclose(part(x), moved(x), atol=1e-2)


def test_projections_have_a_group_a_channel() -> None:
    unit, plain = Unit(64, 256), Unit(256, 256)
    assert isinstance(unit.project, Projection) and isinstance(plain.project, nn.Identity)
    assert (unit.project.gn.num_groups, unit.project.gn.eps) == (256, 1e-5)
    assert (unit.gn3.num_groups, unit.gn3.eps) == (32, 1e-6)


def test_attention_equals_loops() -> None:
    torch.manual_seed(0)
    part, x = Attention(), torch.randn(2, 5, 768)
    q, k, v = part.qkv(x).split(768, dim=-1)
    heads = []
    for own in (slice(64 * i, 64 * (i + 1)) for i in range(12)):
        weights = (q[..., own] @ k[..., own].transpose(1, 2) / 8).softmax(-1)
        heads.append(weights @ v[..., own])
    assert torch.allclose(part(x), part.project(torch.cat(heads, -1)), atol=1e-5)


def test_initialisation_of_the_release() -> None:
    block = Block()
    for layer in (block.mlp[0], block.mlp[3]):
        assert isinstance(layer, nn.Linear)
        bound = (6 / (768 + 3072)) ** 0.5
        assert layer.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
        assert 0 < layer.bias.abs().max() < 1e-5
    with torch.device("meta"):
        drops = [m.p for m in TransUNet(4, 64).modules() if isinstance(m, nn.Dropout)]
    assert drops == [0.1] * 25


def test_position_starts_at_zero(net: TransUNet) -> None:
    assert net.position.shape == (1, 16, 768) and not net.position.any()


def test_same_seed_same_output(net: TransUNet) -> None:
    torch.manual_seed(SEED)
    again, x = TransUNet(4, 64), torch.rand(2, 1, 64, 64)

    def output(net: TransUNet) -> Tensor:
        torch.manual_seed(1)
        return net.train()(x)  # Not in evaluation: the shared network has tracked other batches.

    assert torch.equal(output(net), output(again))


def test_gradients_reach_every_parameter_and_repeat(net: TransUNet) -> None:
    x = torch.rand(2, 1, 64, 64)

    def gradients() -> list[Tensor]:
        torch.manual_seed(1)
        net.zero_grad()
        net.train()(x).square().mean().backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    first, second = gradients(), gradients()
    assert len(first) == len(list(net.parameters()))
    assert all(g.isfinite().all() and g.any() for g in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    net.zero_grad()


def test_convolutions_of_a_checkpoint(loaded: TransUNet, arrays: Arrays) -> None:
    def same(parameter: Tensor, key: str, place: tuple[int, int, int, int]) -> bool:
        row, column, i, o = place
        return parameter[o, i, row, column].item() == arrays[key][place]

    assert same(loaded.resnet.conv.weight, "conv_root/kernel", (2, 5, 1, 40))
    assert same(loaded.embed.weight, "embedding/kernel", (0, 0, 900, 300))
    for stage, unit in [(1, 1), (2, 4), (3, 9)]:
        own: Any = loaded.get_submodule(f"resnet.stages.{stage - 1}.{unit - 1}")
        assert same(own.conv2.weight, f"block{stage}/unit{unit}/conv2/kernel", (2, 0, 3, 60))
    first: Any = loaded.get_submodule("resnet.stages.1.0.project")
    assert same(first.conv.weight, "block2/unit1/conv_proj/kernel", (0, 0, 200, 500))
    assert np.array_equal(first.gn.bias.detach().numpy(), arrays["block2/unit1/gn_proj/bias"].ravel())


def test_transformer_of_a_checkpoint(loaded: TransUNet, arrays: Arrays) -> None:
    """Every layer of a block gives what the stored arrays give, contracted as they are stored."""
    block: Any = loaded.blocks[5]
    x = np.random.default_rng(1).random((3, 768), np.float32)
    tokens = torch.from_numpy(x)
    qkv = block.attention.qkv(tokens).detach().unflatten(-1, (3, 12, 64)).numpy()
    for i, name in enumerate(("query", "key", "value")):
        by_hand = np.einsum("nd,dhc->nhc", x, arrays[f"{ATTENTION}/{name}/kernel"])
        assert np.allclose(qkv[:, i], by_hand + arrays[f"{ATTENTION}/{name}/bias"], rtol=1e-4)
    by_hand = np.einsum("nhc,hcd->nd", x.reshape(3, 12, 64), arrays[f"{ATTENTION}/out/kernel"])
    output = block.attention.project(tokens).detach().numpy()
    assert np.allclose(output, by_hand + arrays[f"{ATTENTION}/out/bias"], rtol=1e-4)
    dense = "Transformer/encoderblock_5/MlpBlock_3/Dense_0"
    output = block.mlp[0](tokens).detach().numpy()
    assert np.allclose(output, x @ arrays[f"{dense}/kernel"] + arrays[f"{dense}/bias"], rtol=1e-4)
    scale = arrays["Transformer/encoderblock_5/LayerNorm_2/scale"]
    assert np.array_equal(block.norm_mlp.weight.detach().numpy(), scale)


def test_every_array_is_used(loaded: TransUNet, arrays: Arrays) -> None:
    """The sum of what was loaded is the sum of the arrays, but for the position embedding."""
    parts = (loaded.resnet, loaded.embed, loaded.blocks, loaded.norm)
    total = sum(p.double().sum().item() for part in parts for p in part.parameters())
    stored = sum(float(a.sum(dtype=np.float64)) for key, a in arrays.items() if key != POSITION)
    assert total == pytest.approx(stored, rel=1e-12)


def test_position_of_another_grid(loaded: TransUNet, arrays: Arrays) -> None:
    grid = arrays[POSITION][0, 1:].reshape(14, 14, 768)
    zoomed = ndimage.zoom(grid, (4 / 14, 4 / 14, 1), order=1)
    position = loaded.position.detach().numpy().reshape(4, 4, 768)
    assert np.array_equal(position, zoomed)
    # Corners are aligned: what the file holds at (0, 0) and (13, 13) stays.
    assert np.allclose(position[[0, 3], [0, 3]], grid[[0, 13], [0, 13]], atol=1e-6)


def test_missing_file_in_one_sentence(net: TransUNet, tmp_path: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        load_checkpoint(net, tmp_path / "none.npz")
    assert str(caught.value) == (
        f"{tmp_path / 'none.npz'} does not exist; put R50+ViT-B_16.npz (ImageNet-21k) there or train without weights."
    )


def test_missing_key_in_one_sentence(net: TransUNet, tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, allow_pickle=False, **{"conv_root/kernel": np.zeros((7, 7, 3, 64), np.float32)})
    with pytest.raises(SuiteError) as caught:
        load_checkpoint(net, path)
    assert str(caught.value) == (
        f"{path} lacks the array gn_root/scale; give R50+ViT-B_16.npz as published for ImageNet-21k."
    )


def test_wrong_shape_in_one_sentence(net: TransUNet, tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, allow_pickle=False, **{"conv_root/kernel": np.zeros((64, 3, 7, 7), np.float32)})
    with pytest.raises(SuiteError) as caught:
        load_checkpoint(net, path)
    assert str(caught.value) == (
        f"The array conv_root/kernel of {path} has the shape (64, 3, 7, 7), not (7, 7, 3, 64); give "
        "R50+ViT-B_16.npz as published for ImageNet-21k."
    )


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_damaged_file_in_one_sentence(net: TransUNet, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(content)
    with pytest.raises(SuiteError, match=r"weights\.npz is no readable npz \(.*\); put .* there again\.$"):
        load_checkpoint(net, path)


def test_initial_weights_count_by_what_they_hold(tmp_path: Path) -> None:
    """Another file in the same place is another training; the same file in another place is not."""
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    network = {"kind": "transunet", "width": 16, "weights": None}
    a, b, c = (by_content({**network, "weights": str(tmp_path / name)}) for name in "abc")
    assert a == b != c and a["kind"] == "transunet"
    assert by_content(network) == network
    values = small_config(
        methods=["cgs", "t"],
        variants={"t": {"extends": "cgs", "network": {"kind": "transunet", "weights": str(tmp_path / "a")}}},
    )
    plans = []
    for content in (b"one", b"two"):
        (tmp_path / "a").write_bytes(content)
        plans.append({r["method"]: r["params"] for r in work_plan(values.model_dump(mode="json"))["runs"]})
    assert plans[0]["cgs"] == plans[1]["cgs"] and plans[0]["t"] != plans[1]["t"]


def test_a_trained_run_needs_no_initial_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = {"kind": "transunet", "weights": str(tmp_path / "gone.npz")}
    config = small_config(methods=["t"], variants={"t": {"extends": "labelled-only", "network": network}})
    asked = []
    monkeypatch.setattr("cgs.evaluation.predict.build", lambda method, *_: asked.append(method.task))
    slices = SimpleNamespace(classes=4, size=64)
    trained_method(config, Cell("phantom", "1", "t", 0), slices, torch.device("cpu"))  # type: ignore[arg-type]
    (task,) = asked
    assert task.network == "transunet" and task.weights is None

"""Swin-Unet: size, shapes, windows, attention by hand, drop-path, determinism."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from cgs.networks.swin_unet import DropPath, PatchExpand, PatchMerge, SwinUNet, WindowAttention, cut, paste


def test_parameters_of_the_release() -> None:
    assert sum(p.numel() for p in SwinUNet(4, 224).parameters()) == 27_168_420


@pytest.mark.parametrize("size", [16, 32, 48, 64, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size: int, channels: int) -> None:
    logits = SwinUNet(5, size, 6)(torch.rand(2, channels, size, size))
    assert logits.shape == (2, 5, size, size) and logits.isfinite().all()


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 3"):
        SwinUNet(4, 64, 16)
    with pytest.raises(ValueError, match="64 x 64"):
        SwinUNet(4, 64, 6)(torch.rand(1, 1, 96, 96))


def test_one_channel_is_repeated() -> None:
    net, x = SwinUNet(4, 32, 6).eval(), torch.rand(2, 1, 32, 32)
    assert torch.equal(net(x), net(x.repeat(1, 3, 1, 1)))


def test_windows_follow_the_size() -> None:
    for size, window in [(32, 1), (48, 2), (64, 2), (224, 7), (256, 8)]:
        parts = [m for m in SwinUNet(2, size, 3).modules() if isinstance(m, WindowAttention)]
        shift = window // 2
        assert [p.window for p in parts] == [window] * 14
        assert [p.shift for p in parts] == [0, shift] * 3 + [0, 0] + [0, shift] * 3
        assert [len(p.blocked) for p in parts] == [64, 64, 16, 16, 4, 4, 1, 1, 4, 4, 16, 16, 64, 64]


def test_padding_is_zeros_below_and_on_the_right() -> None:
    padded, whole, x = SwinUNet(4, 48, 6).eval(), SwinUNet(4, 64, 6).eval(), torch.rand(2, 1, 48, 48)
    whole.load_state_dict(padded.state_dict())
    canvas = torch.zeros(2, 1, 64, 64)
    canvas[:, :, :48, :48] = x
    assert torch.equal(padded(x), whole(canvas)[:, :, :48, :48])


def test_cut_and_paste() -> None:
    x = torch.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    squares = cut(x, 2)
    assert torch.equal(squares[1, 1, 2], x[1, 2:4, 4:6])
    assert torch.equal(paste(squares), x)


def test_merge_takes_four_neighbours_and_expand_gives_them() -> None:
    x = torch.rand(1, 4, 4, 3)
    merge, expand = PatchMerge(3), PatchExpand(6, 3, 2)
    four = torch.cat([x[:, 0, 2], x[:, 1, 2], x[:, 0, 3], x[:, 1, 3]], dim=-1)
    assert torch.allclose(merge(x)[:, 0, 1], merge.reduce(merge.norm(four)))
    y = torch.rand(1, 2, 2, 6)
    values = expand.expand(y[:, 0, 1]).reshape(1, 2, 2, 3)
    assert torch.allclose(expand(y)[:, 0:2, 2:4], expand.norm(values), atol=1e-6)


def group(shift: int) -> Tensor:
    """Group of each of eight rows where windows of four begin at -shift; wrapped rows stay apart."""
    return torch.tensor([0, 0, 0, 0, 1, 1, 1, 1] if shift == 0 else [0, 0, 1, 1, 1, 1, 2, 2])


@pytest.mark.parametrize("shift", [0, 2])
def test_tokens_see_exactly_their_window(shift: int) -> None:
    """Which output depends on which input token, by gradients, over an 8 x 8 map with windows of 4."""
    torch.manual_seed(0)
    part, x = WindowAttention(6, 3, 8, 4, shift).double(), torch.randn(1, 8, 8, 6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(part, x)
    influence = jacobian.abs().sum((0, 3, 4, 7))  # (output row, column, input row, column)
    same = group(shift)[:, None] == group(shift)[None, :]
    allowed = same[:, None, :, None] & same[None, :, None, :]
    assert torch.equal(influence > 0, allowed)


def naive_attention(part: WindowAttention, tokens: Tensor) -> Tensor:
    """Attention of one window (t, d), query by query and head by head."""
    count, width = tokens.shape
    size, window = width // part.heads, part.window
    queries, keys, values = part.qkv(tokens).split(width, dim=1)
    out = torch.zeros_like(tokens)
    for head in range(part.heads):
        own = slice(head * size, (head + 1) * size)
        for i in range(count):
            scores = []
            for j in range(count):
                down, right = i // window - j // window, i % window - j % window
                row = (down + window - 1) * (2 * window - 1) + right + window - 1
                scores.append(queries[i, own] @ keys[j, own] / size**0.5 + part.bias_table[row, head])
            weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
            out[i, own] = weights @ values[:, own]
    return part.project(out)


def test_attention_equals_loops() -> None:
    torch.manual_seed(0)
    part, x = WindowAttention(12, 3, 6, 3, 0).double(), torch.randn(2, 6, 6, 12, dtype=torch.float64)
    torch.nn.init.normal_(part.bias_table)
    out = part(x)
    for row, column in [(0, 0), (0, 3), (3, 0), (3, 3)]:
        place = (1, slice(row, row + 3), slice(column, column + 3))
        assert torch.allclose(out[place].reshape(9, 12), naive_attention(part, x[place].reshape(9, 12)))


def test_a_shifted_window_inside_the_map_equals_loops() -> None:
    """Windows of 3 shifted by 1: rows 1 to 3 and columns 1 to 3 are one whole window."""
    torch.manual_seed(0)
    part, x = WindowAttention(12, 3, 6, 3, 1).double(), torch.randn(2, 6, 6, 12, dtype=torch.float64)
    torch.nn.init.normal_(part.bias_table)
    place = (1, slice(1, 4), slice(1, 4))
    assert torch.allclose(part(x)[place].reshape(9, 12), naive_attention(part, x[place].reshape(9, 12)))


def test_drop_path_drops_whole_samples() -> None:
    torch.manual_seed(0)
    part, x = DropPath(0.25), torch.rand(4000, 2, 2, 3) + 1
    ratio = (part(x) / x).flatten(1)
    kept = ratio[:, 0] > 0
    assert torch.allclose(ratio, (kept / 0.75)[:, None].expand_as(ratio))
    assert ratio.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(part.eval()(x), x)


def test_drop_path_rates() -> None:
    rates = [m.rate for m in SwinUNet(2, 32, 3).modules() if isinstance(m, DropPath)]
    up = [0.2 * i / 7 for i in range(8)]
    assert rates == pytest.approx(up + up[4:6] + up[2:4] + up[0:2])


def test_evaluation_draws_nothing_and_training_does() -> None:
    torch.manual_seed(0)
    net, x = SwinUNet(4, 64, 6).eval(), torch.rand(8, 1, 64, 64)
    state = torch.get_rng_state()
    assert torch.equal(net(x), net(x)) and torch.equal(torch.get_rng_state(), state)
    first, second = net.train()(x), net(x)
    torch.set_rng_state(state)
    assert torch.equal(net(x), first) and not torch.equal(first, second)


@contextmanager
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_repeat(autocast: bool) -> None:
    """Every parameter gets a finite gradient, bit-equal the second time."""
    net, x = SwinUNet(4, 64, 6), torch.rand(4, 1, 64, 64)

    def gradients() -> list[Tensor]:
        torch.manual_seed(1)
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = net(x)
        logits.float().square().mean().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    with deterministic():
        first, second = gradients(), gradients()
    assert len(first) == len(list(net.parameters()))
    assert all(a.isfinite().all() and torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_only_weights_are_saved() -> None:
    net = SwinUNet(4, 32, 6)
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}
    assert not [b for b in net.buffers() if b.is_floating_point()]

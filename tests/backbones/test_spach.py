"""SPACH: what its blocks and layouts promise."""

import pytest
import shipped_configs
import torch
from reference_cases import arguments_from_reference
from sizes import MICRO
from torch import Tensor, nn

from mlp_backbones.backbones import SPACH
from mlp_backbones.backbones.spach import NormedMerge, SpachBlock, TokenAttention

# billions of multiply-adds at 224 of the fact sheet
GMACS = {
    "xxs_mlp": 1.631,
    "xxs_conv": 1.454,
    "xxs_attn": 0.904,
    "xs_mlp": 3.203,
    "xs_conv": 2.849,
    "xs_attn": 3.195,
    "s_mlp": 7.970,
    "s_conv": 7.498,
    "s_attn": 6.726,
    "ms_xxs_conv": 0.712,
    "ms_xxs_mlp": 0.931,
    "ms_xxs_attn": 0.530,
    "ms_xs_conv": 2.755,
    "ms_xs_mlp": 3.409,
    "ms_xs_attn": 3.082,
    "ms_s_conv": 7.141,
    "ms_s_mlp": 8.014,
    "ms_s_attn": 7.532,
    "ms_xs_hybrid": 4.444,
    "ms_s_hybrid": 11.051,
    "ms_s_hybrid_plus": 12.177,
}


def test_all_sizes_are_counted() -> None:
    assert GMACS.keys() == SPACH.arch_settings.keys()


@pytest.mark.parametrize("arch", GMACS)
def test_flops(arch: str) -> None:
    stated = shipped_configs.stated_multiply_adds()[f"spach_{arch}"]
    assert stated / 1e9 == pytest.approx(GMACS[arch], rel=0.02)


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))


def test_attention_by_its_formula() -> None:
    """q, k and v follow each other, then heads, then channels of a head."""
    torch.manual_seed(0)
    attention = TokenAttention(12, 3, window=None).eval()
    randomise(attention)
    x = torch.randn(2, 2, 3, 12)
    expected = torch.zeros(2, 6, 12)
    for sample in range(2):
        tokens = x[sample].reshape(6, 12)
        qkv = tokens @ attention.qkv.weight.T + attention.qkv.bias
        for head in range(3):
            query, key, value = (
                qkv[:, part * 12 + head * 4 : part * 12 + head * 4 + 4]
                for part in range(3)
            )
            weights = torch.softmax(query @ key.T * 4**-0.5, dim=1)
            expected[sample, :, head * 4 : head * 4 + 4] = weights @ value
    expected = expected @ attention.proj.weight.T + attention.proj.bias
    with torch.no_grad():
        torch.testing.assert_close(
            attention(x).reshape(2, 6, 12), expected, rtol=1e-4, atol=1e-5
        )


def test_windowed_attention_sees_real_tokens_of_its_window_only() -> None:
    torch.manual_seed(0)
    whole = TokenAttention(8, 2, window=None).eval()
    randomise(whole)
    windowed = TokenAttention(8, 2, window=4).eval()
    windowed.load_state_dict(whole.state_dict())
    x = torch.randn(2, 6, 7, 8)
    with torch.no_grad():
        out = windowed(x)
        for top in (0, 4):
            for left in (0, 4):
                tile = x[:, top : top + 4, left : left + 4]
                found = out[:, top : top + 4, left : left + 4]
                torch.testing.assert_close(found, whole(tile), rtol=1e-4, atol=1e-5)


def test_block_by_its_formula() -> None:
    """Mixer and convolution stand side by side; the latter reads the raw input."""
    torch.manual_seed(0)
    mixer = nn.Linear(6, 6)
    block = SpachBlock(
        6,
        mixer=mixer,
        hidden_dim=10,
        layer_scale=0.7,
        norm_eps=1e-6,
        drop_path_rate=0.0,
    )
    randomise(block)
    x = torch.randn(2, 4, 5, 6)
    kernel, bias = block.cpe.weight, block.cpe.bias
    convolved = torch.zeros_like(x)
    padded = torch.zeros(2, 6, 7, 6)
    padded[:, 1:-1, 1:-1] = x
    for row in range(4):
        for column in range(5):
            patch = padded[:, row : row + 3, column : column + 3]
            weights = kernel[:, 0].permute(1, 2, 0)
            convolved[:, row, column] = (patch * weights).sum((1, 2)) + bias
    y = x + block.layer_scale.gamma * mixer(block.norm1(x)) + convolved
    expected = y + block.mlp.fc2(
        torch.nn.functional.gelu(block.mlp.fc1(block.norm2(y)))
    )
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_stochastic_depth_spares_the_convolution() -> None:
    block = SpachBlock(
        6,
        mixer=nn.Linear(6, 6),
        hidden_dim=10,
        layer_scale=0.7,
        norm_eps=1e-6,
        drop_path_rate=0.5,
    ).train()
    x = torch.randn(64, 4, 5, 6)
    convolved = x + block.cpe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    mixed = (
        2 * block.layer_scale.gamma * block.mixer(block.norm1(x))
    )  # survivors count twice
    with torch.no_grad():
        out = block(x)
        seen = set()
        for mixer_kept in (0, 1):
            y = convolved + mixer_kept * mixed
            for mlp_kept in (0, 1):
                expected = y + mlp_kept * 2 * block.mlp(block.norm2(y))
                found = (out - expected).abs().amax((1, 2, 3)) < 1e-5
                seen |= {
                    (mixer_kept, mlp_kept, i) for i in found.nonzero()[:, 0].tolist()
                }
    assert {kept[2] for kept in seen} == set(range(64))
    assert {kept[:2] for kept in seen} == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("stem_type", ["conv1", "conv4"])
@pytest.mark.parametrize("size", [(64, 96), (33, 47), (75, 106)])
def test_one_stride_makes_a_pyramid(size: tuple[int, int], stem_type: str) -> None:
    arch = {
        **MICRO["spach"],
        "embed_dims": (16,) * 4,
        "net_arch": ((("mlp", 1),), (("attn", 1),), (("pass", 1),), (("mlp", 1),)),
        "patch_size": 16,
        "stem_type": stem_type,
        "multi_stage": False,
    }
    backbone = SPACH(arch, image_size=64)
    randomise(backbone)
    maps = backbone(torch.randn(2, 3, *size))
    for index, feature in enumerate(maps):
        channels, stride = backbone.out_channels[index], 4 * 2**index
        assert feature.shape == (2, channels, *(-(-side // stride) for side in size))
    sum(feature.square().mean() for feature in maps).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("count", "depths"), [(3, (0, 1, 1, 1)), (5, (1, 1, 1, 2)), (6, (1, 2, 1, 2))]
)
def test_single_stages_are_tapped_after_quarters(
    count: int, depths: tuple[int, ...]
) -> None:
    config = {
        "multi_stage": False,
        "embed_dims": [12],
        "num_heads": 2,
        "depths": [count],
        "net_arch": [["attn", count - 1], ["pass", 1]],
        "mlp_ratios": [2.0],
        "token_ratio": 0.5,
        "patch_size": 8,
        "stem_type": "conv1",
        "train_size": 48,
        "token_grid": [6],
    }
    arguments = arguments_from_reference(SPACH, config, (48, 48))
    backbone = SPACH(**arguments, pyramid=False)
    assert backbone.depths == depths
    maps = backbone(torch.randn(1, 3, 48, 40))
    assert [feature.shape for feature in maps] == [(1, 12, 6, 5)] * 4
    mixers = [block.mixer for stage in backbone.stages for block in stage.blocks]
    assert [mixer is None for mixer in mixers] == [False] * (count - 1) + [True]


def test_merge_norms_the_whole_map() -> None:
    merge = NormedMerge(4, 6, norm_eps=1e-5)
    x = 3 + torch.randn(2, 8, 6, 4)
    out: Tensor = merge(x)
    assert out.shape == (2, 4, 3, 6)
    for sample in out:
        assert sample.mean().abs() < 1e-5
        torch.testing.assert_close(
            sample.var(unbiased=False).item(), 1.0, rtol=1e-3, atol=1e-3
        )


def test_heads_stay_the_same_in_all_stages() -> None:
    backbone = SPACH(MICRO["spach"])
    heads = {m.num_heads for m in backbone.modules() if isinstance(m, TokenAttention)}
    assert heads == {2}


def test_blocks_without_a_mixer_have_nothing_of_it() -> None:
    block = SPACH(MICRO["spach"]).stages[0].blocks[0]
    assert {name.split(".")[0] for name, _ in block.named_parameters()} == {
        "cpe",
        "norm2",
        "mlp",
    }


def test_stochastic_depth_is_constant_in_one_stage_and_linear_in_four() -> None:
    def rates(arch: str) -> list[float]:
        with torch.device("meta"):
            backbone = SPACH(arch, drop_path_rate=0.3)
        return [
            getattr(block.drop_path, "drop_prob", 0.0)
            for stage in backbone.stages
            for block in stage.blocks
        ]

    assert rates("xxs_conv") == [0.3] * 12
    assert rates("ms_xxs_conv") == pytest.approx([0.3 * k / 11 for k in range(12)])


def test_stem_of_four_convolutions_keeps_its_statistics_if_told() -> None:
    arch = {**MICRO["spach"], "stem_type": "conv4"}
    for norm_eval in (False, True):
        backbone = SPACH(arch, norm_eval=norm_eval).train()
        before = backbone.stem.norms[0].running_mean.clone()
        maps = backbone(1 + torch.randn(2, 3, 64, 96))
        assert [list(feature.shape[2:]) for feature in maps] == [
            [16, 24],
            [8, 12],
            [4, 6],
            [2, 3],
        ]
        kept = torch.equal(backbone.stem.norms[0].running_mean, before)
        assert kept is norm_eval


@pytest.mark.parametrize("size", [(63, 63), (64, 100)])
def test_four_stages_drop_borders_as_the_official_code_does(
    size: tuple[int, int],
) -> None:
    backbone = SPACH("ms_xxs_conv").eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, *size))
    for index, feature in enumerate(maps):
        expected = [side // 4 // 2**index for side in size]
        assert list(feature.shape[2:]) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attention_window": 0}, "0"),
        ({"arch": "ms_xxs_mlp", "image_size": 32}, "0.5 of the 1 tokens of stage 3"),
        ({"arch": {**MICRO["spach"], "stem_type": "conv2"}}, "conv2"),
        ({"arch": {**MICRO["spach"], "net_arch": ((("mean", 1),),) * 4}}, "mean"),
        ({"arch": {**MICRO["spach"], "net_arch": ((("mlp", 0),),) * 4}}, "0"),
        ({"arch": {**MICRO["spach"], "num_heads": 5}}, "5 heads"),
        ({"arch": {**MICRO["spach"], "multi_stage": False}}, "embed_dims"),
        ({"arch": {**MICRO["spach"], "patch_size": 5}}, "5"),
    ],
)
def test_wrong_arguments_are_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SPACH(**{"arch": MICRO["spach"], **options})

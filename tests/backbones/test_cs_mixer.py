"""What is special to CS-Mixer."""

import pytest
import torch
from torch import Tensor, nn

from mlp_backbones.backbones import CSMixer
from mlp_backbones.backbones.cs_mixer import CrossScaleStem, GroupMixer

ARCH = {
    "embed_dims": (8, 16, 24, 32),
    "depths": (1, 2, 2, 2),
    "num_heads": (2, 1, 3, 2),
    "reduced_dims": (1, 2, 3, 2),
    "group_sizes": (4, 3, 2, 2),
    "mlp_ratio": 3,
}


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def mix_by_the_sheet(mixer: GroupMixer, x: Tensor, step: tuple[int, int]) -> Tensor:
    """Mix one map (H, W, C) in loops over groups, heads and indices."""
    side, heads = mixer.group_size, mixer.num_heads
    reduced = mixer.squeeze.out_features // heads
    height, width, dim = x.shape
    rows, columns = (
        -(-size // (side * one)) * side * one
        for size, one in zip((height, width), step, strict=True)
    )
    padded = x.new_zeros(rows, columns, dim)
    padded[:height, :width] = x
    u, v = mixer.value(padded), mixer.squeeze(padded)
    out = torch.zeros_like(padded)
    seen = torch.zeros(rows, columns)
    for top in range(0, rows, side * step[0]):
        for left in range(0, columns, side * step[1]):
            for a in range(step[0]):
                for b in range(step[1]):
                    places = [
                        (top + i * step[0] + a, left + j * step[1] + b)
                        for i in range(side)
                        for j in range(side)
                    ]
                    y = {place: torch.empty(heads * reduced) for place in places}
                    for h in range(heads):
                        z = torch.stack(
                            [
                                v[p][h * reduced + k]
                                for p in places
                                for k in range(reduced)
                            ]
                        )
                        for q in range(len(z)):
                            total = mixer.bias[h, q]
                            for r in range(len(z)):
                                total = total + z[r] * mixer.weight[h, r, q]
                            y[places[q // reduced]][h * reduced + q % reduced] = total
                    for p in places:
                        out[p] = mixer.proj(u[p] * mixer.expand(y[p]))
                        seen[p] += 1
    assert bool((seen == 1).all())
    return out[:height, :width]


@pytest.mark.parametrize(
    ("size", "interval", "step"),
    [
        ((6, 4), (1, 1), (1, 1)),  # adjacent tokens
        ((5, 7), (1, 1), (1, 1)),  # with tokens that fill up
        ((6, 4), None, (3, 2)),  # the whole map
        ((5, 7), None, (3, 4)),
        ((2, 7), None, (1, 1)),  # no larger than a group along one side
        ((1, 1), None, (1, 1)),
        ((7, 5), (2, 2), (2, 2)),  # a fixed distance
        ((3, 9), (4, 4), (2, 4)),  # never more than the map has
    ],
)
def test_mixer_is_the_sheets_formula(
    size: tuple[int, int],
    interval: tuple[int, int] | None,
    step: tuple[int, int],
) -> None:
    mixer = randomised(
        GroupMixer(6, num_heads=2, reduced_dim=3, group_size=2, interval=interval)
    )
    x = torch.randn(2, *size, 6)
    with torch.no_grad():
        expected = torch.stack([mix_by_the_sheet(mixer, one, step) for one in x])
        torch.testing.assert_close(mixer(x), expected, rtol=1e-4, atol=1e-4)


def test_channels_are_split_in_halves_and_the_last_part_repeats() -> None:
    stem = CrossScaleStem(3, 16, (4, 8, 16, 32))
    assert [proj.out_channels for proj in stem.projs] == [8, 4, 2, 2]
    backbone = CSMixer(ARCH, merge_sizes=((2,), (2, 4), (2, 4, 6)))
    parts = [
        [proj.out_channels for proj in stage.downsample.projs]
        for stage in backbone.stages[1:]
    ]
    assert parts == [[16], [12, 12], [16, 8, 8]]
    assert backbone(torch.zeros(1, 3, 64, 64))[-1].shape == (1, 32, 2, 2)


def test_patches_of_all_sizes_share_their_centres() -> None:
    stem = CrossScaleStem(1, 8, (4, 8, 16, 32))
    for proj, patch in zip(stem.projs, (4, 8, 16, 32), strict=True):
        image = torch.zeros(1, 1, 64, 64, requires_grad=True)
        proj(image)[0, 0, 8, 8].backward()  # the patch of pixels 32 ... 35
        touched = image.grad[0, 0, 34].nonzero().flatten()
        assert touched.min() == 34 - patch // 2
        assert touched.max() == 34 + patch // 2 - 1


def test_sides_are_rounded_down_by_the_stem_and_up_by_the_merging() -> None:
    backbone = CSMixer(ARCH).eval()
    for height, width in ((64, 67), (75, 106), (33, 63), (32, 95)):
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, height, width))
        expected = [(height // 4, width // 4)]
        for _ in range(3):
            expected.append(tuple(-(-side // 2) for side in expected[-1]))
        assert [tuple(feature.shape[2:]) for feature in maps] == expected


def test_pixels_behind_the_last_whole_patch_are_seen() -> None:
    backbone = CSMixer(ARCH).eval()
    image = torch.randn(1, 3, 64, 67, requires_grad=True)
    backbone(image)[0].square().sum().backward()
    assert image.grad[..., 66].any()


def test_groups_shrink_with_a_small_training_image() -> None:
    backbone = CSMixer("t", image_size=160)
    sides = [stage.blocks[0].mixer.group_size for stage in backbone.stages]
    assert sides == [7, 7, 7, 5]
    assert backbone.stages[3].blocks[1].mixer.weight.shape == (16, 50, 50)
    usual = CSMixer("t")
    assert [stage.blocks[0].mixer.group_size for stage in usual.stages] == [7] * 4


def test_every_second_block_of_a_stage_is_global() -> None:
    def intervals(**options: object) -> list[list]:
        backbone = CSMixer({**ARCH, "depths": (1, 2, 3, 2)}, **options)
        return [
            [block.mixer.interval for block in stage.blocks]
            for stage in backbone.stages
        ]

    near = (1, 1)
    assert intervals() == [[near], [near, None], [near, None, near], [near, None]]
    fixed = intervals(global_grouping="fixed", image_size=(96, 128))
    assert fixed == [[near], [near, (4, 6)], [near, (3, 4), near], [near, (2, 2)]]


def test_fixed_intervals_of_the_paper_sizes_are_those_of_crossformer() -> None:
    backbone = CSMixer("s", global_grouping="fixed")
    found = [stage.blocks[1].mixer.interval for stage in backbone.stages]
    assert found == [(8, 8), (4, 4), (2, 2), (1, 1)]


def test_both_groupings_agree_up_to_the_training_size_only() -> None:
    span = randomised(CSMixer(ARCH, image_size=96)).eval()
    fixed = CSMixer(ARCH, image_size=96, global_grouping="fixed").eval()
    fixed.load_state_dict(span.state_dict())
    with torch.no_grad():
        for size, equal in (((96, 96), True), ((64, 96), True), ((96, 192), False)):
            x = torch.randn(1, 3, *size)
            for one, other in zip(span(x)[1:], fixed(x)[1:], strict=True):
                assert torch.allclose(one, other) is equal


@pytest.mark.parametrize(("grouping", "reach"), [("span", 24), ("fixed", 12)])
def test_global_blocks_reach_as_far_as_the_option_says(
    grouping: str, reach: int
) -> None:
    backbone = randomised(CSMixer(ARCH, image_size=96, global_grouping=grouping))
    mixer = backbone.stages[1].blocks[1].mixer
    x = torch.zeros(1, 24, 24, 16, requires_grad=True)
    mixer(x)[0, 0, 0].sum().backward()
    rows = x.grad[0].abs().sum((1, 2)).nonzero().flatten()
    interval = reach // 3
    assert rows.tolist() == [0, interval, 2 * interval]


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.4])
def test_recomputation_changes_nothing(drop_path_rate: float) -> None:
    stored = CSMixer(ARCH, recompute=False, drop_path_rate=drop_path_rate).train()
    lean = CSMixer(ARCH, recompute=True, drop_path_rate=drop_path_rate).train()
    lean.load_state_dict(randomised(stored).state_dict())
    x = torch.randn(2, 3, 64, 96)
    gradients = []
    for backbone in (stored, lean):
        torch.manual_seed(5)
        image = x.clone().requires_grad_()
        sum(f.square().mean() for f in backbone(image)).backward()
        gradients.append([image.grad, *(p.grad for p in backbone.parameters())])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_initialisation_is_the_official_one() -> None:
    backbone = CSMixer("t")
    for stage in backbone.stages:
        for block in stage.blocks:
            mixer = block.mixer
            bound = 1e-3 / 49
            assert 0.95 * bound < mixer.expand.weight.abs().max() <= bound
            assert bool((mixer.expand.bias == 1).all())
            assert mixer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert not mixer.bias.any()
            for linear in (mixer.value, mixer.squeeze, mixer.proj, block.mlp.fc1):
                assert linear.weight.std().item() == pytest.approx(0.02, rel=0.15)
                assert not linear.bias.any()
    assert backbone.stem.projs[0].bias.any()
    x = torch.randn(1, 9, 9, 64)
    torch.testing.assert_close(
        mixer(x.repeat(1, 1, 1, 8)),
        mixer.proj(mixer.value(x.repeat(1, 1, 1, 8))),
        rtol=1e-3,
        atol=1e-5,
    )


def test_the_authors_switches_take_parts_away() -> None:
    full = randomised(CSMixer(ARCH)).eval()
    bare = CSMixer(ARCH, qkv_bias=False, patch_norm=False).eval()
    gone = full.state_dict().keys() - bare.state_dict().keys()
    biases = {key for key in full.state_dict() if key.endswith(".mixer.value.bias")}
    assert len(biases) == 7
    assert gone == biases | {"stem.norm.weight", "stem.norm.bias"}
    bare.load_state_dict({k: v for k, v in full.state_dict().items() if k not in gone})
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for key in biases:
            full.get_parameter(key).zero_()
        full.stem.norm = nn.Identity()
        torch.testing.assert_close(bare(x), full(x))


def test_parameters_of_a_block_are_the_sheets() -> None:
    block = CSMixer("s", out_indices=(0,)).stages[0].blocks[0]
    assert sum(p.numel() for p in block.parameters()) == 211_464


def test_all_norms_have_the_frameworks_epsilon() -> None:
    norms = [m for m in CSMixer(ARCH).modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5}
    assert len(norms) == 1 + 2 * 7 + 3 + 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"global_grouping": "all"}, "all"),
        ({"image_size": 16}, "16"),
        ({"image_size": (224, 224, 3)}, r"\(224, 224, 3\)"),
        ({"image_size": 224.0}, r"224\.0"),
        ({"patch_sizes": (8, 16)}, r"\(8, 16\)"),
        ({"patch_sizes": (4, 7)}, r"\(4, 7\)"),
        ({"patch_sizes": ()}, "patch_sizes"),
        ({"patch_norm": None}, "patch_norm.*None"),
        ({"qkv_bias": 1}, "qkv_bias.*1"),
        ({"recompute": "yes"}, "recompute.*'yes'"),
        ({"patch_sizes": 4}, "patch_sizes.*got 4"),
        ({"merge_sizes": 2}, "merge_sizes.*got 2"),
        ({"merge_sizes": (2, 4, 4)}, "merge_sizes.*got 2"),
        ({"merge_sizes": ((2, 4), (2, 4))}, "merge_sizes"),
        ({"merge_sizes": ((2, 4), (2, 4), (2, 3))}, r"\(2, 3\)"),
        ({"patch_sizes": (4, 8, 16, 32, 64)}, "16 for 5 patch_sizes, got 8"),
        ({"arch": {**ARCH, "group_sizes": (4, 4, 0, 4)}}, "group_sizes"),
        ({"arch": {**ARCH, "num_heads": (1, 2, 2.5, 1)}}, "num_heads"),
        ({"arch": {**ARCH, "mlp_ratio": "4"}}, "mlp_ratio"),
    ],
)
def test_wrong_values_are_named(options: dict, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        CSMixer(**{"arch": ARCH, **options})

"""What every backbone owes its users, as checks to run on any of them.

For this package's families and for backbones of other repositories. Each check takes
a function that builds the backbone, ``build(**options)``, where the options are
arguments of :class:`mlp_backbones.backbones.MLPBackbone` such as ``out_indices``. It
builds as many as it needs, on the CPU, and raises ``AssertionError`` with what is
wrong. Use a small size: all checks then take some seconds.

Example:
    >>> from functools import partial
    >>> from mlp_backbones.backbones import CycleMLP
    >>> check_backbone(partial(CycleMLP, "mini"))

With pytest, one test a check::

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(partial(MyMixer, "tiny"))
"""

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.utils import digit_version
from torch.nn.modules.batchnorm import _BatchNorm

from mlp_backbones.testing.modules import (
    check_calls,
    check_fusing,
    check_history,
    check_meta_device,
    check_precision,
    check_transforms,
)
from mlp_backbones.testing.probes import (
    Build,
    build_seeded,
    make_images,
    randomise,
    require,
    require_close,
    require_same,
    seeded,
    sum_squares,
)

__all__ = [
    "CHECKS",
    "SIZES",
    "check_autocast",
    "check_backbone",
    "check_batch_independence",
    "check_calls",
    "check_checkpointing",
    "check_copies",
    "check_frozen_stages",
    "check_fusing",
    "check_gradients",
    "check_history",
    "check_inputs",
    "check_layer_depths",
    "check_meta_device",
    "check_out_indices",
    "check_precision",
    "check_shapes",
    "check_stochastic_depth",
    "check_tracing",
    "check_transforms",
    "randomise",
]

_TORCH = digit_version(torch.__version__)
OLD_CPU = digit_version("2.4") > _TORCH  # casts to no float16
OLD_COMPILER = digit_version("2.5") > _TORCH  # traces no `zip(strict=True)`

SIZES = ((64, 64), (64, 96), (32, 32), (33, 47), (75, 106), (97, 40))
"""Image sizes (H, W): multiples of 32, the smallest, odd ones, wide and tall ones."""


def check_shapes(build: Build, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """Check that maps are as ``out_channels`` and ``out_strides`` say, at any size.

    A side that is a multiple of 32 is divided by the stride exactly; any other may
    differ from the next whole number by one. Maps are contiguous and finite; a batch of
    no image gives maps of none, and no gradient that is not finite.

    Args:
        build: Builds the backbone.
        sizes: Heights and widths of the images, in pixels.
    """
    backbone = build_seeded(build).eval()
    for height, width in sizes:
        x = make_images(height, width, channels=backbone.in_channels)
        with torch.no_grad():
            maps = backbone(x)
        where = f"of {height} x {width} pixels"
        require(
            len(maps) == len(backbone.out_channels) == len(backbone.out_strides),
            f"{len(maps)} maps, but out_channels {backbone.out_channels} and "
            f"out_strides {backbone.out_strides}",
        )
        for feature, channels, stride in zip(
            maps, backbone.out_channels, backbone.out_strides, strict=True
        ):
            shape = tuple(feature.shape)
            require(
                shape[:2] == (len(x), channels)
                and _fits(shape[2], height, stride)
                and _fits(shape[3], width, stride),
                f"the map of stride {stride} {where} has shape {shape}; "
                f"{len(x)} images and {channels} channels were declared",
            )
            require(feature.is_contiguous(), f"maps {where} are not contiguous")
            require(bool(torch.isfinite(feature).all()), f"maps {where} are not finite")
    maps = backbone(x[:0])
    shapes = [tuple(feature.shape[:2]) for feature in maps]
    require(
        shapes == [(0, channels) for channels in backbone.out_channels],
        f"no image gives maps of (images, channels) {shapes}",
    )
    torch.cat([feature.flatten() for feature in maps]).sum().backward()
    wrong = [
        name
        for name, parameter in backbone.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    ]
    require(not wrong, f"no image gives gradients to {wrong}")


def check_out_indices(
    build: Build,
    choices: Sequence[Sequence[int]] = (
        (0,), (3,), (1, 2, 3), (-1,), (-3, -1), [0, 2], (3, 0),
    ),
) -> None:  # fmt: skip
    """Check that chosen maps are those of the whole pyramid, in the order asked for.

    Args:
        build: Builds the backbone.
        choices: What is given as ``out_indices``; it must not be changed.
    """
    full = randomise(build_seeded(build)).eval()
    x = make_images(channels=full.in_channels)
    with torch.no_grad():
        all_maps = full(x)
    for choice in choices:
        given = copy.copy(choice)
        chosen = build_seeded(build, out_indices=choice).eval()
        require(given == choice, f"out_indices {given} became {choice}")
        missing = chosen.load_state_dict(full.state_dict(), strict=False).missing_keys
        require(
            not missing, f"out_indices {choice} has parameters of its own: {missing}"
        )
        with torch.no_grad():
            maps = chosen(x)
        require(
            len(maps) == len(choice), f"out_indices {choice} gives {len(maps)} maps"
        )
        for index, feature in zip(choice, maps, strict=True):
            require_same(
                feature, all_maps[index], f"map {index} of out_indices {choice}"
            )


def check_gradients(
    build: Build,
    choices: Sequence[Sequence[int] | None] = (None, (0,), (1, 2, 3), (3,)),
) -> None:
    """Check that every parameter that is built takes part.

    Args:
        build: Builds the backbone.
        choices: Values of ``out_indices``; None leaves them to their default.
    """
    for choice in choices:
        options: dict[str, Any] = {} if choice is None else {"out_indices": choice}
        backbone = randomise(build_seeded(build, **options)).train()
        sum_squares(backbone(make_images(channels=backbone.in_channels))).backward()
        without = [
            name
            for name, parameter in backbone.named_parameters()
            if parameter.grad is None or not parameter.grad.any()
        ]
        require(not without, f"with {options} no gradient reaches {without}")


def check_checkpointing(build: Build) -> None:
    """Check that ``with_cp=True`` changes neither outputs, gradients nor statistics."""
    plain = randomise(build_seeded(build, drop_path_rate=0.2)).train()
    thrifty = build_seeded(build, drop_path_rate=0.2, with_cp=True).train()
    thrifty.load_state_dict(plain.state_dict())
    x = make_images(channels=plain.in_channels)
    results = []
    for backbone in (plain, thrifty):
        image = x.clone().requires_grad_()
        with seeded(3):
            maps = backbone(image)
            sum_squares(maps).backward()
        gradients = {name: p.grad for name, p in backbone.named_parameters()}
        buffers = dict(backbone.named_buffers())
        results.append((maps, image.grad, gradients, buffers))
    kinds = ("outputs", "the gradient of the image", "gradients", "buffers")
    for kind, expected, found in zip(kinds, *results, strict=True):
        require_same(found, expected, f"with_cp=True: {kind}")


def check_frozen_stages(build: Build) -> None:
    """Check that ``frozen_stages`` freezes the stem and that many stages, no more.

    Frozen parts are in eval mode while the rest trains, and a step of an optimizer
    leaves their parameters as they are.
    """
    for frozen_stages in range(-1, build_seeded(build).num_built_stages + 1):
        backbone = build_seeded(build, frozen_stages=frozen_stages)
        what = f"with frozen_stages={frozen_stages}"
        require(backbone.train() is backbone, "train() must return the backbone")
        for name, parameter in backbone.named_parameters():
            part = name.split(".")
            frozen = (part[0] == "stem" and frozen_stages >= 0) or (
                part[0] == "stages" and int(part[1]) < frozen_stages
            )
            require(
                parameter.requires_grad is not frozen,
                f"{what} {name} is {'not ' if frozen else ''}frozen",
            )
        parts = [backbone.stem, *backbone.stages]
        for number, module in enumerate(parts):
            require(
                module.training is (number > frozen_stages),
                f"{what} part {number} has training={module.training}",
            )
        before = copy.deepcopy(dict(backbone.named_parameters()))
        trainable = [p for p in backbone.parameters() if p.requires_grad]
        sum_squares(backbone(make_images(channels=backbone.in_channels))).backward()
        torch.optim.SGD(trainable, lr=0.1).step()
        moved = [
            name
            for name, parameter in backbone.named_parameters()
            if not parameter.requires_grad and not torch.equal(parameter, before[name])
        ]
        require(not moved, f"{what} a step of the optimizer moved {moved}")


def check_stochastic_depth(build: Build) -> None:
    """Check that ``drop_path_rate`` makes training random, and training only."""
    backbone = randomise(build_seeded(build, drop_path_rate=0.5))
    rates = [
        module.drop_prob
        for name, module in backbone.named_modules()
        if name.endswith("drop_path") and getattr(module, "drop_prob", 0) > 0
    ]
    require(bool(rates), "with drop_path_rate=0.5 no block has a DropPath drop_path")
    require(
        rates == sorted(rates) and abs(rates[-1] - 0.5) < 1e-6,
        f"drop-path rates should grow to 0.5, they are {rates}",
    )
    x = make_images(channels=backbone.in_channels)
    with torch.no_grad(), seeded(0):
        backbone.eval()
        require_same(backbone(x), backbone(x), "two passes in eval mode")
        backbone.train()
        last = [backbone(x)[-1] for _ in range(4)]
    require(
        any(not torch.equal(last[0], other) for other in last[1:]),
        "with drop_path_rate=0.5 four passes in training mode are the same",
    )


def check_layer_depths(build: Build) -> None:
    """Check that ``get_layer_depth`` numbers stem, blocks and output norms in order."""
    backbone = build_seeded(build)
    num_blocks = sum(backbone.depths)
    depths = {}
    for name, _ in backbone.named_parameters():
        depths[name], num_layers = backbone.get_layer_depth(
            f"backbone.{name}", "backbone."
        )
        require(
            num_layers == num_blocks + 2,
            f"{num_layers} layers for {num_blocks} blocks; {num_blocks + 2} expected",
        )
    require(
        set(depths.values()) == set(range(num_blocks + 2)),
        f"layers should be 0 ... {num_blocks + 1}, got {sorted(set(depths.values()))}",
    )
    numbers = {
        tuple(int(part) for part in name.split(".")[1:4:2]): depth
        for name, depth in depths.items()
        if name.startswith("stages.") and ".blocks." in name
    }
    require(
        [numbers[place] for place in sorted(numbers)] == list(range(1, num_blocks + 1)),
        f"blocks (stage, block) should count from 1: {numbers}",
    )
    wrong = [
        name
        for name, depth in depths.items()
        if (name.startswith("stem.") and depth != 0)
        or (name.startswith("out_norms.") and depth != num_blocks + 1)
        or (
            name.startswith("stages.")
            and ".downsample." in name
            and depth != numbers[(int(name.split(".")[1]), 0)]
        )
    ]
    require(not wrong, f"wrong layers: { {name: depths[name] for name in wrong} }")


def check_batch_independence(build: Build) -> None:
    """Check that each image of a batch gets what it gets alone."""
    backbone = randomise(build_seeded(build)).eval()
    x = make_images(64, 72, batch=3, channels=backbone.in_channels)
    with torch.no_grad():
        maps = backbone(x)
        for index in range(len(x)):
            alone = backbone(x[index : index + 1])
            expected = tuple(feature[index : index + 1] for feature in maps)
            require_same(alone, expected, f"image {index} alone and in a batch")
        swapped = backbone(x.to(memory_format=torch.channels_last))
    require_same(swapped, maps, "an image in channels_last memory")


def check_copies(build: Build) -> None:
    """Check that the state dict holds all weights, that copies work, and pickling."""
    backbone = randomise(build_seeded(build)).eval()
    x = make_images(channels=backbone.in_channels)
    other = randomise(build_seeded(build, seed=1), seed=2).eval()
    other.load_state_dict(backbone.state_dict())
    # Unpickling does what a deep copy does, and no pickle is ever loaded here.
    torch.save(backbone, io.BytesIO())
    copies = {
        "another with the same state dict": other,
        "a deep copy": copy.deepcopy(backbone),
    }
    with torch.no_grad():
        maps = backbone(x)
        for name, copied in copies.items():
            require_same(copied(x), maps, name)


def check_inputs(build: Build) -> None:
    """Check that impossible images are refused by shape, and that none is changed."""
    backbone = build_seeded(build).eval()
    channels = backbone.in_channels
    for shape, words in (
        ((1, channels, 31, 64), "31 x 64"),
        ((1, channels + 1, 64, 64), f"(1, {channels + 1}, 64, 64)"),
        ((channels, 64, 64), f"({channels}, 64, 64)"),
    ):
        try:
            backbone(torch.zeros(shape))
        except ValueError as error:
            require(words in str(error), f"{words!r} is missing in: {error}")
        else:
            raise AssertionError(f"images of shape {shape} are not refused")
    other = build_seeded(build, in_channels=channels + 2)
    with torch.no_grad():
        other(make_images(channels=channels + 2))
    x = make_images(channels=channels)
    before = x.clone()
    with torch.no_grad():
        backbone(x)
    require_same(x, before, "the image after the pass")


def check_autocast(
    build: Build,
    dtypes: Sequence[torch.dtype] = (torch.bfloat16, torch.float16),
    device: str = "cpu",
) -> None:
    """Check that mixed precision trains: loss and all gradients are finite.

    Args:
        build: Builds the backbone.
        dtypes: The number formats to try; float16 on a CPU from torch 2.4 on.
        device: Where to train, such as ``"cuda"``.
    """
    for dtype in dtypes:
        if dtype == torch.float16 and device == "cpu" and OLD_CPU:
            continue
        backbone = randomise(build_seeded(build)).train().to(device)
        x = make_images(channels=backbone.in_channels).to(device)
        with torch.autocast(x.device.type, dtype=dtype):
            maps = backbone(x)
            loss = sum_squares([feature.float() for feature in maps])
        loss.backward()
        require(bool(torch.isfinite(loss)), f"in {dtype} the loss is {loss}")
        wrong = [
            name
            for name, parameter in backbone.named_parameters()
            if parameter.grad is None or not torch.isfinite(parameter.grad).all()
        ]
        require(not wrong, f"in {dtype} no finite gradient reaches {wrong}")


def check_tracing(build: Build, size: tuple[int, int] = (75, 106)) -> None:
    """Check that ``torch.compile`` takes the backbone in one piece.

    In evaluation, and where batch norms are recomputed in training too.

    Args:
        build: Builds the backbone.
        size: Height and width of the images, in pixels.
    """
    backbone = randomise(build_seeded(build, with_cp=True)).eval()
    x = make_images(*size, channels=backbone.in_channels)
    norms = any(isinstance(module, _BatchNorm) for module in backbone.modules())
    for training in (False, True)[: 1 + norms]:
        torch.compiler.reset()
        traced = copy.deepcopy(backbone.train(training))
        compiled = torch.compile(traced, fullgraph=True, backend="eager")
        with torch.set_grad_enabled(training):
            try:
                found = compiled(x)
            except Exception as error:
                reason = str(error).strip().splitlines()[0]
                raise AssertionError(f"it does not trace: {reason}") from error
            require_close(found, backbone(x), f"traced, training={training}")


CHECKS: tuple[Callable[[Build], None], ...] = (
    check_shapes,
    check_out_indices,
    check_gradients,
    check_checkpointing,
    check_frozen_stages,
    check_stochastic_depth,
    check_layer_depths,
    check_batch_independence,
    check_copies,
    check_inputs,
    check_autocast,
    check_history,
    check_meta_device,
    check_calls,
    check_fusing,
    check_precision,
    check_transforms,
    *([] if OLD_COMPILER else [check_tracing]),
)
"""All checks of this module that torch can pass, called with what builds."""


def check_backbone(build: Build) -> None:
    """Run all of :data:`CHECKS`.

    Args:
        build: Builds the backbone, ``build(**options)``.

    Raises:
        AssertionError: With the first thing that is wrong.
    """
    for check in CHECKS:
        check(build)


def _fits(side: int, full: int, stride: int) -> bool:
    if full % 32 == 0:
        return side == full // stride
    return abs(side - -(-full // stride)) <= 1

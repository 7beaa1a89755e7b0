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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from mmengine.utils import digit_version
from torch import Tensor, nn

from mlp_backbones.backbones import MLPBackbone

__all__ = [
    "CHECKS",
    "SIZES",
    "check_autocast",
    "check_backbone",
    "check_batch_independence",
    "check_checkpointing",
    "check_copies",
    "check_frozen_stages",
    "check_gradients",
    "check_inputs",
    "check_layer_depths",
    "check_out_indices",
    "check_shapes",
    "check_stochastic_depth",
    "check_tracing",
    "randomise",
]

Build = Callable[..., MLPBackbone]
ModuleT = TypeVar("ModuleT", bound=nn.Module)

_TORCH = digit_version(torch.__version__)
OLD_CPU = digit_version("2.4") > _TORCH  # casts to no float16
OLD_COMPILER = digit_version("2.5") > _TORCH  # traces no `zip(strict=True)`

SIZES = ((64, 64), (64, 96), (32, 32), (33, 47), (75, 106), (97, 40))
"""Image sizes (H, W): multiples of 32, the smallest, odd ones, wide and tall ones."""


def randomise(module: ModuleT, seed: int = 1) -> ModuleT:
    """Add noise to every parameter, so that nothing hides behind a zero.

    Args:
        module: What is changed, in place.
        seed: Of the noise.

    Returns:
        The module itself.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module


def check_shapes(build: Build, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """Check that maps are as ``out_channels`` and ``out_strides`` say, at any size.

    A side that is a multiple of 32 is divided by the stride exactly; any other may
    differ from the next whole number by one. Maps are contiguous and finite.

    Args:
        build: Builds the backbone.
        sizes: Heights and widths of the images, in pixels.
    """
    backbone = _build(build).eval()
    for height, width in sizes:
        x = _images(height, width, channels=backbone.in_channels)
        with torch.no_grad():
            maps = backbone(x)
        where = f"of {height} x {width} pixels"
        _require(
            len(maps) == len(backbone.out_channels) == len(backbone.out_strides),
            f"{len(maps)} maps, but out_channels {backbone.out_channels} and "
            f"out_strides {backbone.out_strides}",
        )
        for feature, channels, stride in zip(
            maps, backbone.out_channels, backbone.out_strides, strict=True
        ):
            shape = tuple(feature.shape)
            _require(
                shape[:2] == (len(x), channels)
                and _fits(shape[2], height, stride)
                and _fits(shape[3], width, stride),
                f"the map of stride {stride} {where} has shape {shape}; "
                f"{len(x)} images and {channels} channels were declared",
            )
            _require(feature.is_contiguous(), f"maps {where} are not contiguous")
            _require(
                bool(torch.isfinite(feature).all()), f"maps {where} are not finite"
            )


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
    full = randomise(_build(build)).eval()
    x = _images(channels=full.in_channels)
    with torch.no_grad():
        all_maps = full(x)
    for choice in choices:
        given = copy.copy(choice)
        chosen = _build(build, out_indices=choice).eval()
        _require(given == choice, f"out_indices {given} became {choice}")
        missing = chosen.load_state_dict(full.state_dict(), strict=False).missing_keys
        _require(
            not missing, f"out_indices {choice} has parameters of its own: {missing}"
        )
        with torch.no_grad():
            maps = chosen(x)
        _require(
            len(maps) == len(choice), f"out_indices {choice} gives {len(maps)} maps"
        )
        for index, feature in zip(choice, maps, strict=True):
            _same(feature, all_maps[index], f"map {index} of out_indices {choice}")


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
        backbone = randomise(_build(build, **options)).train()
        _loss(backbone(_images(channels=backbone.in_channels))).backward()
        without = [
            name
            for name, parameter in backbone.named_parameters()
            if parameter.grad is None or not parameter.grad.any()
        ]
        _require(not without, f"with {options} no gradient reaches {without}")


def check_checkpointing(build: Build) -> None:
    """Check that ``with_cp=True`` changes neither outputs, gradients nor statistics."""
    plain = randomise(_build(build, drop_path_rate=0.2)).train()
    thrifty = _build(build, drop_path_rate=0.2, with_cp=True).train()
    thrifty.load_state_dict(plain.state_dict())
    x = _images(channels=plain.in_channels)
    results = []
    for backbone in (plain, thrifty):
        image = x.clone().requires_grad_()
        with _seeded(3):
            maps = backbone(image)
            _loss(maps).backward()
        gradients = {name: p.grad for name, p in backbone.named_parameters()}
        buffers = dict(backbone.named_buffers())
        results.append((maps, image.grad, gradients, buffers))
    kinds = ("outputs", "the gradient of the image", "gradients", "buffers")
    for kind, expected, found in zip(kinds, *results, strict=True):
        _same(found, expected, f"with_cp=True: {kind}")


def check_frozen_stages(build: Build) -> None:
    """Check that ``frozen_stages`` freezes the stem and that many stages, no more.

    Frozen parts are in eval mode while the rest trains, and a step of an optimizer
    leaves their parameters as they are.
    """
    for frozen_stages in range(-1, _build(build).num_built_stages + 1):
        backbone = _build(build, frozen_stages=frozen_stages)
        what = f"with frozen_stages={frozen_stages}"
        _require(backbone.train() is backbone, "train() must return the backbone")
        for name, parameter in backbone.named_parameters():
            part = name.split(".")
            frozen = (part[0] == "stem" and frozen_stages >= 0) or (
                part[0] == "stages" and int(part[1]) < frozen_stages
            )
            _require(
                parameter.requires_grad is not frozen,
                f"{what} {name} is {'not ' if frozen else ''}frozen",
            )
        parts = [backbone.stem, *backbone.stages]
        for number, module in enumerate(parts):
            _require(
                module.training is (number > frozen_stages),
                f"{what} part {number} has training={module.training}",
            )
        before = copy.deepcopy(dict(backbone.named_parameters()))
        trainable = [p for p in backbone.parameters() if p.requires_grad]
        _loss(backbone(_images(channels=backbone.in_channels))).backward()
        torch.optim.SGD(trainable, lr=0.1).step()
        moved = [
            name
            for name, parameter in backbone.named_parameters()
            if not parameter.requires_grad and not torch.equal(parameter, before[name])
        ]
        _require(not moved, f"{what} a step of the optimizer moved {moved}")


def check_stochastic_depth(build: Build) -> None:
    """Check that ``drop_path_rate`` makes training random, and training only."""
    backbone = randomise(_build(build, drop_path_rate=0.5))
    rates = [
        module.drop_prob
        for name, module in backbone.named_modules()
        if name.endswith("drop_path") and getattr(module, "drop_prob", 0) > 0
    ]
    _require(bool(rates), "with drop_path_rate=0.5 no block has a DropPath drop_path")
    _require(
        rates == sorted(rates) and abs(rates[-1] - 0.5) < 1e-6,
        f"drop-path rates should grow to 0.5, they are {rates}",
    )
    x = _images(channels=backbone.in_channels)
    with torch.no_grad(), _seeded(0):
        backbone.eval()
        _same(backbone(x), backbone(x), "two passes in eval mode")
        backbone.train()
        last = [backbone(x)[-1] for _ in range(4)]
    _require(
        any(not torch.equal(last[0], other) for other in last[1:]),
        "with drop_path_rate=0.5 four passes in training mode are the same",
    )


def check_layer_depths(build: Build) -> None:
    """Check that ``get_layer_depth`` numbers stem, blocks and output norms in order."""
    backbone = _build(build)
    num_blocks = sum(backbone.depths)
    depths = {}
    for name, _ in backbone.named_parameters():
        depths[name], num_layers = backbone.get_layer_depth(
            f"backbone.{name}", "backbone."
        )
        _require(
            num_layers == num_blocks + 2,
            f"{num_layers} layers for {num_blocks} blocks; {num_blocks + 2} expected",
        )
    _require(
        set(depths.values()) == set(range(num_blocks + 2)),
        f"layers should be 0 ... {num_blocks + 1}, got {sorted(set(depths.values()))}",
    )
    numbers = {
        tuple(int(part) for part in name.split(".")[1:4:2]): depth
        for name, depth in depths.items()
        if name.startswith("stages.") and ".blocks." in name
    }
    _require(
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
    _require(not wrong, f"wrong layers: { {name: depths[name] for name in wrong} }")


def check_batch_independence(build: Build) -> None:
    """Check that each image of a batch gets what it gets alone."""
    backbone = randomise(_build(build)).eval()
    x = _images(64, 72, batch=3, channels=backbone.in_channels)
    with torch.no_grad():
        maps = backbone(x)
        for index in range(len(x)):
            alone = backbone(x[index : index + 1])
            expected = tuple(feature[index : index + 1] for feature in maps)
            _same(alone, expected, f"image {index} alone and in a batch")
        swapped = backbone(x.to(memory_format=torch.channels_last))
    _same(swapped, maps, "an image in channels_last memory")


def check_copies(build: Build) -> None:
    """Check that the state dict holds all weights, that copies work, and pickling."""
    backbone = randomise(_build(build)).eval()
    x = _images(channels=backbone.in_channels)
    other = randomise(_build(build, seed=1), seed=2).eval()
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
            _same(copied(x), maps, name)


def check_inputs(build: Build) -> None:
    """Check that impossible images are refused by shape, and that none is changed."""
    backbone = _build(build).eval()
    channels = backbone.in_channels
    for shape, words in (
        ((1, channels, 31, 64), "31 x 64"),
        ((1, channels + 1, 64, 64), f"(1, {channels + 1}, 64, 64)"),
        ((channels, 64, 64), f"({channels}, 64, 64)"),
    ):
        try:
            backbone(torch.zeros(shape))
        except ValueError as error:
            _require(words in str(error), f"{words!r} is missing in: {error}")
        else:
            raise AssertionError(f"images of shape {shape} are not refused")
    other = _build(build, in_channels=channels + 2)
    with torch.no_grad():
        other(_images(channels=channels + 2))
    x = _images(channels=channels)
    before = x.clone()
    with torch.no_grad():
        backbone(x)
    _same(x, before, "the image after the pass")


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
        backbone = randomise(_build(build)).train().to(device)
        x = _images(channels=backbone.in_channels).to(device)
        with torch.autocast(x.device.type, dtype=dtype):
            maps = backbone(x)
            loss = _loss([feature.float() for feature in maps])
        loss.backward()
        _require(bool(torch.isfinite(loss)), f"in {dtype} the loss is {loss}")
        wrong = [
            name
            for name, parameter in backbone.named_parameters()
            if parameter.grad is None or not torch.isfinite(parameter.grad).all()
        ]
        _require(not wrong, f"in {dtype} no finite gradient reaches {wrong}")


def check_tracing(
    build: Build, sizes: Sequence[tuple[int, int]] = ((64, 64), (75, 106))
) -> None:
    """Check that ``torch.compile`` takes the backbone in one piece.

    Args:
        build: Builds the backbone.
        sizes: Heights and widths of the images, in pixels.
    """
    backbone = randomise(_build(build)).eval()
    for height, width in sizes:
        torch.compiler.reset()  # or the second size becomes symbolic
        compiled = torch.compile(backbone, fullgraph=True, backend="eager")
        x = _images(height, width, channels=backbone.in_channels)
        with torch.no_grad():
            expected = backbone(x)
            try:
                found = compiled(x)
            except Exception as error:
                reason = str(error).strip().splitlines()[0]
                raise AssertionError(f"it does not trace: {reason}") from error
        _same(found, expected, f"traced, {height} x {width} pixels")


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


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Fix chance for a block, and leave it outside as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _build(build: Build, *, seed: int = 0, **options: Any) -> MLPBackbone:
    with _seeded(seed):
        return build(**options)


def _images(
    height: int = 64, width: int = 96, *, batch: int = 2, channels: int = 3
) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, height, width, generator=generator)


def _loss(maps: Sequence[Tensor]) -> Tensor:
    return torch.stack([feature.square().mean() for feature in maps]).sum()


def _fits(side: int, full: int, stride: int) -> bool:
    if full % 32 == 0:
        return side == full // stride
    return abs(side - -(-full // stride)) <= 1


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _same(found: Any, expected: Any, what: str) -> None:
    torch.testing.assert_close(
        found, expected, msg=lambda text: f"{what}: not the same\n{text}"
    )

"""Reference cases: inputs, weights and outputs recorded from official code.

They lie outside the repository, with the small real data sets. A case's ``family`` is
compared by its letters and digits alone: ``gfnet`` and ``gfnet`` are one family.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mlp_backbones.backbones import MLPBackbone
from mlp_backbones.checkpoints import load_pretrained
from mlp_backbones.factory import Classifier, families

_SHARED = Path(__file__).resolve().parents[2] / "shared"

Fields = dict[str, Any]


def find_data_dir() -> Path | None:
    """Return the folder of small real data sets, or None if there is none.

    It is the folder that the environment variable ``MLP_BACKBONES_DATA`` names, else
    ``shared/data`` beside the checkout.
    """
    return _existing(os.environ.get("MLP_BACKBONES_DATA"), _SHARED / "data")


def find_reference_dir() -> Path | None:
    """Return the folder of reference cases, or None if there is none.

    It is the folder that the environment variable ``MLP_BACKBONES_REFERENCE`` names,
    else ``shared/reference`` beside the checkout.
    """
    return _existing(os.environ.get("MLP_BACKBONES_REFERENCE"), _SHARED / "reference")


def find_reference_folder(family: str) -> Path:
    """Return the folder of a family's cases; one that does not exist if it has none."""
    root = find_reference_dir() or Path("no reference cases")
    if root.is_dir():
        for folder in root.iterdir():
            if _letters(folder.name) == _letters(family):
                return folder
    return root / family


def find_family(name: str) -> type[MLPBackbone]:
    """Return the class of a family, spelt with or without underscores.

    Raises:
        ValueError: If there is no such family.
    """
    for family, cls in families().items():
        if _letters(family) == _letters(name):
            return cls
    raise ValueError(f"unknown family {name!r}, there are {', '.join(families())}")


@dataclass(frozen=True)
class ReferenceCase:
    """One recorded case and the model it describes, with the official weights.

    Attributes:
        description: The content of the case's json file.
        model: Classifier in eval mode, (B, 3, H, W) to (B, classes).
        input: Images, (B, 3, H, W).
        expected: What the official code gave: ``out.logits``, ``out.stage{i}`` (NCHW)
            and ``grad.input``; further recorded tensors under their own names.
    """

    description: dict[str, Any]
    model: Classifier
    input: Tensor
    expected: dict[str, Tensor]

    @property
    def tolerance(self) -> float:
        """The largest absolute difference that float32 arithmetic explains."""
        return float(self.description["tolerance"])

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the raw stage maps as the case defines them, (B, C, H, W)."""
        maps = self.model.backbone.forward_stages(x)
        return [stage.permute(0, 3, 1, 2) for stage in maps]  # to (B, C, H, W)


def load_reference_case(path: str | Path, **options: Any) -> ReferenceCase:
    """Build what a case file describes and load its official weights.

    Args:
        path: The case's ``.json`` or ``.safetensors`` file; the other lies beside it.
        options: Further arguments of the backbone's class; they go before the case's.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If the family is unknown, or its class cannot be what the case
            describes.
    """
    path = Path(path)
    description_path, tensors_path = (
        path.with_suffix(suffix) for suffix in (".json", ".safetensors")
    )
    for file in (description_path, tensors_path):
        if not file.is_file():
            raise FileNotFoundError(f"reference case file {file} does not exist")
    description = json.loads(description_path.read_text())
    tensors = load_file(tensors_path)
    weights = {k[3:]: v for k, v in tensors.items() if k.startswith("sd.")}
    cls = find_family(description["family"])
    arguments = {
        **cls.classifier_arguments,
        **arguments_from_reference(
            cls, description["config"], tuple(description["input_size"])
        ),
        **options,
    }
    backbone = cls(**arguments, out_indices=(-1,))
    model = Classifier(backbone, description["num_classes"]).eval()
    with TemporaryDirectory() as folder:  # through the door that users' files take
        file = Path(folder) / tensors_path.name
        save_file({k: v.contiguous() for k, v in weights.items()}, file)
        load_pretrained(model, file)
    return ReferenceCase(
        description=description,
        model=model,
        input=tensors["input"],
        expected={
            k: v for k, v in tensors.items() if k != "input" and not k.startswith("sd.")
        },
    )


def arguments_from_reference(
    cls: type[MLPBackbone], config: Mapping[str, Any], input_size: tuple[int, int]
) -> Fields:
    """Turn the config of a reference case into arguments of a backbone's class.

    Args:
        cls: The class.
        config: The recorded fields: those of an arch, arguments of the class, and facts
            that the class does not vary.
        input_size: Height and width of the recorded image, in pixels.

    Raises:
        ValueError: If a fact is not the one that the class is built on.
    """
    reading = READINGS.get(_letters(cls.family), Reading())
    given = dict(config)
    if reading.adapt is not None:
        given = reading.adapt(cls, given)
    arch_type = type(next(iter(cls.arch_settings.values())))
    arch_fields = {one.name for one in dataclasses.fields(arch_type)} & given.keys()
    arguments: Fields = {"arch": {key: given[key] for key in arch_fields}}
    for key, value in given.items():
        if key in reading.constants:
            _require(cls, key, reading.constants[key], value)
        elif key not in arch_fields and key not in reading.repeated:
            arguments[reading.names.get(key, key)] = value
    if cls.grid_modes:
        size = arguments.pop("weights_input_size", input_size)
        arguments.setdefault("image_size", tuple(size))
    return arguments


@dataclass(frozen=True)
class Reading:
    """How the recorded config of one family is read.

    Attributes:
        constants: Facts that cases record and the family does not vary.
        names: Arguments that cases call by another name.
        repeated: Fields that follow from others.
        adapt: Turns the recorded fields into those of the class.
    """

    constants: Fields = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    repeated: tuple[str, ...] = ()
    adapt: Callable[[type[MLPBackbone], Fields], Fields] | None = None


def _read_isotropic(cls: type[MLPBackbone], fields: Fields) -> Fields:
    """Compare where stages end with each quarter of the depth."""
    ends = [fields["depth"] * k // 4 for k in range(1, 5)]
    _require(cls, "stage_ends", ends, fields.pop("stage_ends", ends))
    return fields


def _read_ccs_mlp(cls: type[MLPBackbone], fields: Fields) -> Fields:
    fields["host"] = find_family(fields["host"]).family
    if fields.get("norm_eps", 0) is None:  # in a host without layer norms
        del fields["norm_eps"]
    return _read_isotropic(cls, fields)


def _read_convmlp(cls: type[MLPBackbone], fields: Fields) -> Fields:
    dims, depths = list(fields["embed_dims"]), list(fields["depths"])
    for name, expected in (
        ("stem_channels", dims[0]),
        ("conv_hidden_dim", dims[1]),
        ("mlp_dims", dims[1:]),
        ("conv_depth", depths[0]),
        ("mlp_depths", depths[1:]),
    ):
        _require(cls, name, expected, fields.pop(name, expected))
    return fields


def _read_gmlp(cls: type[MLPBackbone], fields: Fields) -> Fields:
    hidden_dim = int(fields["embed_dim"] * fields["mlp_ratio"])
    _require(cls, "hidden_dim", hidden_dim, fields.pop("hidden_dim", hidden_dim))
    return _read_isotropic(cls, fields)


def _read_gfnet(cls: type[MLPBackbone], fields: Fields) -> Fields:
    """Read an isotropic or a hierarchical network; only this one has a layer scale."""
    hierarchical = fields["hierarchical"] = fields.pop("variant") == "pyramid"
    has_scale = fields.pop("layer_scale", hierarchical)
    if has_scale and not hierarchical:
        _require(cls, "layer_scale", False, has_scale)
    if not has_scale:
        fields["layer_scale"] = 0.0
    if "depth" in fields:
        depth = fields.pop("depth")
        quarters = [depth * part // 4 for part in range(1, 5)]
        ends = fields.pop("stage_ends", None) or quarters
        fields["depths"] = tuple(
            end - start for start, end in zip([0, *ends], ends, strict=False)
        )
        fields["embed_dims"] = (fields.pop("embed_dim"),) * 4
        fields["mlp_ratios"] = (fields.pop("mlp_ratio"),) * 4
    return fields


def _read_hire_mlp(cls: type[MLPBackbone], fields: Fields) -> Fields:
    """Compare by how many cells every block rolls its map."""
    rolls = [
        [block % cycle * dilation for block in range(depth)]
        for depth, cycle, dilation in zip(
            fields["depths"],
            fields["shift_cycle"],
            fields["shift_dilation"],
            strict=True,
        )
    ]
    _require(cls, "block_shift", rolls, fields.pop("block_shift", rolls))
    return fields


def _read_mlp_mixer(cls: type[MLPBackbone], fields: Fields) -> Fields:
    """Add what follows from the source that computes so: what remains of an image."""
    remainders = {
        (layout.arguments["gelu"], layout.arguments["norm_eps"]): layout.arguments[
            "remainder"
        ]
        for layout in cls.checkpoint_layouts
    }
    remainder = remainders.get((fields["gelu"], fields["norm_eps"]), "cut")
    return _read_isotropic(cls, {"gated": False, "remainder": remainder, **fields})


def _read_ms_mlp(cls: type[MLPBackbone], fields: Fields) -> Fields:
    num_groups = fields.pop("shift_size")
    _require(cls, "shift_size", len(fields["shift_dist"]), num_groups)
    split = []
    for dim in fields["embed_dims"]:
        size = -(-dim // num_groups)
        split.append([size] * (num_groups - 1) + [dim - size * (num_groups - 1)])
    _require(cls, "chunks", split, fields.pop("chunks", None) or split)
    return fields


def _read_resmlp(cls: type[MLPBackbone], fields: Fields) -> Fields:
    init_scale = cls.arch_settings["s12"].init_scale  # no case records it
    return _read_isotropic(cls, {"init_scale": init_scale, **fields})


def _read_spach(cls: type[MLPBackbone], fields: Fields) -> Fields:
    """Read one stage or four; one is split after each quarter of its depth."""
    ratios = fields.pop("mlp_ratios")
    _require(cls, "mlp_ratios", [ratios[0]] * len(ratios), ratios)
    fields["mlp_ratio"] = ratios[0]
    if not fields["multi_stage"]:
        fields["embed_dims"] = tuple(fields["embed_dims"]) * 4
        kinds = [kind for kind, count in fields["net_arch"] for _ in range(count)]
        ends = [len(kinds) * part // 4 for part in range(5)]
        fields["net_arch"] = tuple(
            tuple((kind, 1) for kind in kinds[start:end])
            for start, end in zip(ends, ends[1:], strict=False)
        )
    return fields


_STEM = {"stem_kernel": 7, "stem_stride": 4, "stem_padding": 2}
_DOWNSAMPLE = {
    "downsample_kernel": 3,
    "downsample_stride": 2,
    "downsample_padding": 1,
}

READINGS = {
    "asmlp": Reading(
        constants={"patch_size": 4},
        names={"as_bias": "mixer_bias"},
        repeated=("embed_dim",),
    ),
    "ccsmlp": Reading(
        constants={"channel_to_group": "channel % groups"}, adapt=_read_ccs_mlp
    ),
    "convmlp": Reading(
        constants={"bn_eps": 1e-5, "patch_size": 4},
        names={"ln_eps": "norm_eps"},
        adapt=_read_convmlp,
    ),
    "csmixer": Reading(names={"img_size": "image_size"}, repeated=("embed_dim",)),
    "cyclemlp": Reading(
        constants={**_STEM, **_DOWNSAMPLE}, names={"cycle_step": "cycle"}
    ),
    "dynamixer": Reading(constants={"overlap": False}),
    "gmlp": Reading(constants={"gelu": "erf"}, adapt=_read_gmlp),
    "gfnet": Reading(constants={"gelu": "erf"}, adapt=_read_gfnet),
    "hiremlp": Reading(
        constants={
            **_STEM,
            "cross_region_pad": "c",
            "inner_region_pad": "c",
            "norm": "batch_norm",
        },
        adapt=_read_hire_mlp,
    ),
    "mlpmixer": Reading(adapt=_read_mlp_mixer),
    "msmlp": Reading(constants={"patch_size": 4}, adapt=_read_ms_mlp),
    "resmlp": Reading(constants={"gelu": "erf"}, adapt=_read_resmlp),
    "s2mlp": Reading(names={"final_norm": "out_norm"}),
    "s2mlpv2": Reading(names={"final_norm": "out_norm"}),
    "smlpnet": Reading(
        constants={"patch_size": 4},
        names={
            "train_size": "image_size",
            "ln_eps": "norm_eps",
            "bn_eps": "batch_norm_eps",
        },
        repeated=("token_grid",),
    ),
    "spach": Reading(
        names={"train_size": "image_size"},
        repeated=("depths", "token_grid"),
        adapt=_read_spach,
    ),
    "wavemlp": Reading(constants=_STEM),
}
"""By family without underscores; what is not here is recorded as it is built."""


def _require(cls: type[MLPBackbone], name: str, expected: Any, found: Any) -> None:
    if found != expected:
        raise ValueError(
            f"{cls.__name__} is built with {name} {expected!r}, the case has {found!r}"
        )


def _letters(name: str) -> str:
    return name.replace("_", "")


def _existing(named: str | None, default: Path) -> Path | None:
    path = Path(named) if named else default
    return path if path.is_dir() else None

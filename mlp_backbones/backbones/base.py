"""What every backbone shares: the contract towards heads, and the stage-wise skeleton.

A family subclasses :class:`MLPBackbone` and brings its table of sizes, its stem, its
blocks and its downsampling. Everything else is here: checking arguments, taps and
output norms, the stochastic depth schedule, freezing, gradient checkpointing, layer
depths for layer-wise learning rates, and loading of weights.
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlp_backbones.arguments import positive, positive_int, rate, switch
from mlp_backbones.backbones.arch import Arch
from mlp_backbones.backbones.stage import Stage
from mlp_backbones.checkpoints import (
    CheckpointError,
    CheckpointLayout,
    load_pretrained,
)
from mlp_backbones.checkpoints.preprocessing import IMAGENET, Preprocessing
from mlp_backbones.layers import (
    ChannelMLP,
    ConvEmbed,
    LayerScale,
    MixerBlock,
    apply_norm,
)

MIN_INPUT_SIZE = 32

InitCfg = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class CommonArguments(TypedDict, total=False):
    """Arguments that every backbone takes; :class:`MLPBackbone` documents them."""

    in_channels: int
    out_indices: Sequence[int]
    out_norm: bool
    frozen_stages: int
    norm_eval: bool
    drop_path_rate: float
    with_cp: bool
    init_cfg: InitCfg


class MLPBackbone(BaseModule, metaclass=ABCMeta):
    """A stem and four stages that emit a feature pyramid for any image size.

    The parts carry the same names in all families: ``stem``,
    ``stages.{i}.downsample``, ``stages.{i}.blocks.{j}.{norm1,mixer,norm2,mlp}`` and
    ``out_norms.{i}``. Stages behind the last one of ``out_indices`` are not built, so
    every parameter of a backbone is in use.

    A family checks and sets its own attributes first and calls this constructor last,
    because it builds the parts from them.

    Args:
        arch: A name of ``arch_settings``, ``mini``, or a mapping with the same fields.
        in_channels: Channels of the image.
        out_indices: The stages whose maps are returned, in this order; negative
            numbers count from the last stage.
        out_norm: Whether each returned map passes a norm of its own.
        frozen_stages: -1 freezes nothing, 0 the stem, k > 0 the stem and the first k
            stages. Output norms stay trainable.
        norm_eval: Whether batch norms keep their running statistics in training.
        drop_path_rate: Stochastic depth rate of the last block.
        with_cp: Whether blocks are recomputed in the backward pass to save memory.
        init_cfg: MMEngine's initialisation config. ``Pretrained`` reads official
            checkpoints, this package's and OpenMMLab's alike.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has an impossible value.

    Attributes:
        out_channels: Channels of each returned map.
        out_strides: Stride of each returned map, in pixels of the image.
    """

    family: ClassVar[str]
    """The family's name in snake case; models are called ``{family}_{arch}``."""

    arch_settings: ClassVar[Mapping[str, Arch]]
    """The sizes of the paper by name, all of one class."""

    mini_arch: ClassVar[Arch | None] = None
    """A small size of our own, ``mini``, which the digit-scenes configs train."""

    mini_options: ClassVar[dict[str, Any]] = {}
    """Arguments that models called ``{family}_mini`` have by default."""

    official_names: ClassVar[Mapping[str, str]] = {}
    """What the authors call a size, where it is not ``{family}_{arch}``."""

    timm_names: ClassVar[Mapping[str, str]] = {}
    """What timm calls a size, where timm has it under another name."""

    default_preprocessing: ClassVar[Preprocessing] = IMAGENET
    """How the images were normalised that the family's weights were trained on."""

    arch_preprocessing: ClassVar[Mapping[str, Preprocessing]] = {}
    """The same for sizes whose weights were trained otherwise."""

    classifier_arguments: ClassVar[dict[str, Any]] = {}
    """Arguments that turn the pyramid into the trunk of the official classifier."""

    norm_after_pool: ClassVar[bool] = False
    """Whether the classifier averages the last map first and norms it then."""

    zero_head: ClassVar[bool] = False
    """Whether the official classifier starts with all weights at zero."""

    grid_modes: ClassVar[tuple[str, ...]] = ()
    """How mixing weights that belong to a token grid run on others; default first."""

    noted_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments that weights depend on; checkpoints of ``torch.save`` note them."""

    checkpoint_layouts: ClassVar[tuple[CheckpointLayout, ...]] = ()
    """How the weights others have published are named."""

    released_weights: ClassVar[Mapping[str, str]] = {}
    """Where the authors have put the weights of a size."""

    stage_strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)

    constant_drop_path: bool = False
    """Whether every block has the full stochastic depth rate, not only the last."""

    norm_eps: float = 1e-5
    """Epsilon of the blocks' and output layer norms."""

    branch_scale: float = 1.0
    """Constant factor on both branches of a block."""

    recompute: bool = False
    """Whether training computes maps again that cost no matrix product."""

    init_cfg: Any

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, arch in vars(cls).get("arch_settings", {}).items():
            if not isinstance(arch, Arch):
                raise TypeError(
                    f"arch_settings of {cls.__name__} must hold dataclasses such as "
                    f"StagedArch(embed_dims=..., depths=...), {name!r} is {arch!r}"
                )

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        positive("norm_eps", self.norm_eps)
        self.arch: Any = self.resolve_arch(arch)
        self.arch_name = arch if isinstance(arch, str) else None
        self.in_channels = positive_int("in_channels", in_channels)
        self.out_indices = self._resolve_out_indices(out_indices)
        self.embed_dims = self.arch.stage_dims
        self.depths = self.arch.stage_depths
        self.frozen_stages = self._check_frozen_stages(frozen_stages)
        self.norm_eval = switch("norm_eval", norm_eval)
        self.drop_path_rate = rate("drop_path_rate", drop_path_rate)
        self.with_cp = switch("with_cp", with_cp)
        switch("out_norm", out_norm)

        self.out_channels, self.out_strides = self._describe_outputs()

        rates = self._drop_path_rates()
        self.stem = self.build_stem()
        self.stages = nn.ModuleList()
        for index in range(self.num_built_stages):
            downsample = self.build_downsample(index) if index > 0 else None
            blocks = [
                self.build_block(index, block_index, rate)
                for block_index, rate in enumerate(rates[index])
            ]
            self.stages.append(Stage(downsample, blocks, with_cp=with_cp))
        self._build_resampling()
        channels = dict(zip(self.out_indices, self.out_channels, strict=True))
        self.out_norms = nn.ModuleDict(
            {
                str(index): self.build_out_norm(channels[index])
                if out_norm
                else nn.Identity()
                for index in sorted(self.out_indices)
            }
        )
        self.apply(self._init_module)
        self._freeze()

    @property
    def num_built_stages(self) -> int:
        """The stages up to the last one that an output needs."""
        return max(self.out_indices) + 1

    @abstractmethod
    def build_stem(self) -> nn.Module:
        """Build what maps an image (B, C, H, W) to the first map (B, H', W', C')."""

    @abstractmethod
    def build_downsample(self, stage: int) -> nn.Module | None:
        """Build what leads from the map of ``stage - 1`` to that of ``stage``.

        None where the stage goes on with the map as it is.
        """

    def build_block(self, stage: int, block: int, drop_path_rate: float) -> nn.Module:
        """Build block number ``block`` of ``stage``: by default a ``MixerBlock``."""
        dim = self.embed_dims[stage]
        return MixerBlock(
            norm1=self.build_norm(dim),
            mixer=self.build_mixer(stage, block),
            norm2=self.build_norm(dim),
            mlp=self.build_mlp(stage),
            drop_path_rate=drop_path_rate,
            branch_scale=self.branch_scale,
            layer_scale1=self.build_layer_scale(dim),
            layer_scale2=self.build_layer_scale(dim),
        )

    def build_mixer(self, stage: int, block: int) -> nn.Module:
        """Build the token mixer of a block, (B, H, W, C) to (B, H, W, C)."""
        raise NotImplementedError(
            f"{type(self).__name__} must define build_mixer or build_block"
        )

    def build_mlp(self, stage: int) -> nn.Module:
        """Build the channel MLP of a block; it widens as the arch says."""
        dim = self.embed_dims[stage]
        ratios = getattr(self.arch, "mlp_ratios", None)
        ratio = self.arch.mlp_ratio if ratios is None else ratios[stage]
        return ChannelMLP(dim, int(dim * ratio), recompute=self.recomputes)

    def build_norm(self, dim: int) -> nn.Module:
        """Build the norm in front of a mixer or MLP: over the last of (B, H, W, C).

        Torch's batch and group norms do as well; they are called through a view.
        """
        return nn.LayerNorm(dim, eps=self.norm_eps)

    def build_layer_scale(self, dim: int) -> LayerScale | None:
        """Build the learnt scale of a block's branch: by default none."""
        return None

    def build_out_norm(self, dim: int) -> nn.Module:
        """Build the norm of one returned map: by default as those of the blocks."""
        return self.build_norm(dim)

    def build_embed(
        self,
        stage: int,
        *,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        norm: nn.Module | None = None,
        embed_class: type[ConvEmbed] = ConvEmbed,
    ) -> ConvEmbed:
        """Build a strided convolution to a stage: from the image, or the stage before.

        Args:
            stage: Number of the stage; 0 is the stem's.
            kernel_size: See :class:`ConvEmbed`, as the next three.
            stride: Step, in cells of the input.
            padding: Zero padding on each side, in cells of the input.
            norm: What the embedded map passes last, or None.
            embed_class: What is built.
        """
        return embed_class(
            self.embed_dims[stage - 1] if stage else self.in_channels,
            self.embed_dims[stage],
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            norm=norm,
            channels_last=stage > 0,
        )

    @property
    def recomputes(self) -> bool:
        """Whether ``recompute`` has an effect: ``with_cp`` saves more by itself."""
        return self.recompute and not self.with_cp

    def block_number(self, stage: int, block: int) -> int:
        """Count a block over all stages, from 0.

        Args:
            stage: Number of the stage.
            block: Number of the block in it.
        """
        return sum(self.depths[:stage]) + block

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the pyramid.

        Args:
            x: Images, (B, C, H, W), with H and W at least 32 pixels.

        Returns:
            One map (B, C_i, H / stride_i, W / stride_i) for each of ``out_indices``,
            contiguous in memory.

        Raises:
            ValueError: If the shape of ``x`` does not fit.
        """
        maps = self._pyramid(x)
        return tuple(
            # (B, H, W, C) -> (B, C, H, W); a channels_last view would pass through an
            # FPN and reach mmcv's RoIAlign, which reads it in the wrong order
            apply_norm(self.out_norms[str(index)], feature)
            .permute(0, 3, 1, 2)
            .contiguous()
            for index, feature in zip(self.out_indices, maps, strict=True)
        )

    def _pyramid(self, x: Tensor) -> list[Tensor]:
        """Compute the maps (B, H, W, C) that the output norms take."""
        maps = self.forward_stages(x)
        return [maps[index] for index in self.out_indices]

    def _describe_outputs(self) -> tuple[list[int], list[int]]:
        """Return channels and strides of the returned maps."""
        return (
            [self.embed_dims[index] for index in self.out_indices],
            [self.stage_strides[index] for index in self.out_indices],
        )

    def _build_resampling(self) -> None:
        """Build what stands between stages and output norms: here nothing."""

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Compute the raw map of every stage that is built, without output norms.

        Args:
            x: Images, (B, C, H, W), with H and W at least 32 pixels.

        Returns:
            The maps behind the last block of each stage, (B, H_i, W_i, C_i).

        Raises:
            ValueError: If the shape of ``x`` does not fit.
        """
        self._check_input(x)
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def train(self, mode: bool = True) -> "MLPBackbone":
        """Switch the mode; frozen parts, and norms with ``norm_eval``, stay in eval."""
        super().train(mode)
        if mode:
            for part in self._frozen_parts():
                part.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def init_weights(self) -> None:
        """Initialise by ``init_cfg``; ``Pretrained`` goes through the strict loader."""
        given = self.init_cfg
        configs = [given] if isinstance(given, Mapping) else list(given or [])
        configs = [config for config in configs if config]  # a base config may be {}
        pretrained = [c for c in configs if c.get("type") == "Pretrained"]
        others = [c for c in configs if c.get("type") != "Pretrained"]
        if others or not pretrained:
            self.init_cfg = others or None
            super().init_weights()
            self.init_cfg = given
        for config in pretrained:
            options = {key: value for key, value in config.items() if key != "type"}
            unknown = options.keys() - {"checkpoint", "prefix", "map_location"}
            if unknown or "checkpoint" not in options:
                raise ValueError(
                    "a Pretrained init_cfg takes checkpoint, prefix and map_location, "
                    f"got {config!r}"
                )
            load_pretrained(self, **options)
        self._is_init = True

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Say how deep a parameter lies, for layer-wise learning rate decay.

        Args:
            param_name: The name of the parameter.
            prefix: What stands before the names of this backbone, such as
                ``"backbone."``.

        Returns:
            The layer's number, 0 for the stem, 1 ... N for the N blocks (a
            downsampling counts with the block behind it) and N + 1 for everything
            else; and the number of layers, N + 2.
        """
        depths = [len(stage.blocks) for stage in self.stages]  # type: ignore[arg-type]
        num_blocks = sum(depths)
        name = param_name.removeprefix(prefix)
        parts = name.split(".")
        if not param_name.startswith(prefix):
            return num_blocks + 1, num_blocks + 2
        if parts[0] == "stem":
            return 0, num_blocks + 2
        if parts[0] == "stages":
            stage = int(parts[1])
            depth = sum(depths[:stage]) + 1
            if parts[2] == "blocks":
                depth += int(parts[3])
            return depth, num_blocks + 2
        return num_blocks + 1, num_blocks + 2

    @classmethod
    def resolve_arch(cls, arch: str | Mapping[str, Any]) -> Any:
        """Return the checked fields of an architecture, of the family's class.

        Args:
            arch: A name of ``arch_settings``, ``mini``, or a mapping with the same
                fields.

        Raises:
            TypeError: If ``arch`` is neither a name nor a mapping.
            ValueError: If the name is unknown, or fields are missing, unknown or
                impossible.
        """
        names = ", ".join(cls.arch_settings)
        if isinstance(arch, str):
            if arch == "mini" and cls.mini_arch is not None:
                return cls.mini_arch
            if arch not in cls.arch_settings:
                raise ValueError(
                    f"unknown arch {arch!r} of {cls.__name__}, choose one of {names}"
                )
            return cls.arch_settings[arch]
        kind = type(next(iter(cls.arch_settings.values())))
        if isinstance(arch, kind):
            return arch
        if not isinstance(arch, Mapping):
            raise TypeError(
                f"arch must be one of {names} or a mapping, got {arch!r} "
                f"of type {type(arch).__name__}"
            )
        return kind.from_mapping(arch, cls.__name__)

    def adapt_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fit official weights to arguments that change what they mean.

        Args:
            weights: Tensors under this package's names.
        """
        return weights

    def apply_noted_arguments(self, arguments: Mapping[str, Any]) -> list[str]:
        """Compare what weights were trained with to this model.

        Args:
            arguments: Those of ``noted_arguments`` that the weights note.

        Returns:
            What has changed in the model, in words; here nothing.

        Raises:
            CheckpointError: If an argument differs from the model's.
        """
        for name, value in arguments.items():
            own = getattr(self, name, None) if name in self.noted_arguments else None
            if value != own:
                raise CheckpointError(
                    f"the weights of {type(self).__name__} were trained with "
                    f"{name}={value!r}, the model has {own!r}"
                )
        return []

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are to be normalised for the published weights of this size."""
        return self.preprocessing_of(self.arch_name).for_channels(self.in_channels)

    @classmethod
    def preprocessing_of(cls, arch: str | None) -> Preprocessing:
        """Say how images are to be normalised for the published weights of a size.

        Args:
            arch: A name of ``arch_settings`` or ``mini``; None stands for an
                architecture without a name.
        """
        return cls.arch_preprocessing.get(arch or "", cls.default_preprocessing)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass from now on, or store them again.

        Args:
            enable: What ``with_cp`` is set to.
        """
        self.with_cp = switch("enable", enable)
        for stage in self.stages:
            stage.with_cp = enable  # type: ignore[assignment]

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that are trained without weight decay.

        They are those that the ImageNet configs exempt by ``paramwise_cfg``: all of one
        dimension (norms, biases, scales) and embeddings of positions.
        """
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim <= 1 or "pos_embed" in name
        }

    def _save_to_state_dict(
        self, destination: Any, prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # torch's notes on each module go into files with the weights, and add no key
        notes = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if notes is not None and self.noted_arguments:
            notes["layout_arguments"] = {
                name: getattr(self, name) for name in self.noted_arguments
            }

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        try:
            self.apply_noted_arguments(local_metadata.get("layout_arguments", {}))
        except CheckpointError as error:
            error_messages = args[-1]
            error_messages.append(str(error))

    def _resolve_out_indices(self, out_indices: Sequence[int]) -> tuple[int, ...]:
        if isinstance(out_indices, int) or not isinstance(out_indices, Sequence):
            raise TypeError(
                "out_indices must be a sequence of stage numbers, got "
                f"{out_indices!r} of type {type(out_indices).__name__}"
            )
        num_stages = len(self.stage_strides)
        resolved = []
        for index in out_indices:
            if type(index) is not int or not -num_stages <= index < num_stages:
                raise ValueError(
                    f"out_indices {tuple(out_indices)} holds {index!r}; allowed are "
                    f"{-num_stages} ... {num_stages - 1}"
                )
            resolved.append(index % num_stages)
        if not resolved or len(set(resolved)) != len(resolved):
            raise ValueError(
                "out_indices must be non-empty and without duplicates, got "
                f"{tuple(out_indices)}"
            )
        return tuple(resolved)

    def _check_frozen_stages(self, frozen_stages: int) -> int:
        last = self.num_built_stages
        if type(frozen_stages) is not int or not -1 <= frozen_stages <= last:
            raise ValueError(
                f"frozen_stages must be -1 (nothing), 0 (the stem) or up to {last} "
                f"(the stem and that many stages), got {frozen_stages!r}"
            )
        return frozen_stages

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} takes images of shape (B, {self.in_channels}, "
                f"H, W), got {tuple(x.shape)}"
            )
        if x.shape[2] < MIN_INPUT_SIZE or x.shape[3] < MIN_INPUT_SIZE:
            raise ValueError(
                f"images must be at least {MIN_INPUT_SIZE} x {MIN_INPUT_SIZE} pixels, "
                f"got {x.shape[2]} x {x.shape[3]}"
            )

    def _drop_path_rates(self) -> list[list[float]]:
        depths = self.depths
        if self.constant_drop_path:
            return [[self.drop_path_rate] * depth for depth in depths]
        last = max(sum(depths) - 1, 1)
        flat = iter(range(sum(depths)))
        return [
            [self.drop_path_rate * next(flat) / last for _ in range(depth)]
            for depth in depths
        ]

    def _init_module(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def _frozen_parts(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.stem, *self.stages[: self.frozen_stages]]

    def _freeze(self) -> None:
        for part in self._frozen_parts():
            part.eval()
            for parameter in part.parameters():
                parameter.requires_grad = False

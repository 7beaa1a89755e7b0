"""The backbones, one file a family."""

from mlp_backbones.backbones.arch import (
    Arch,
    IsotropicArch,
    PyramidArch,
    StagedArch,
    TwoStrideArch,
)
from mlp_backbones.backbones.as_mlp import ASMLP
from mlp_backbones.backbones.base import CommonArguments, MLPBackbone
from mlp_backbones.backbones.ccs_mlp import CCSMLP
from mlp_backbones.backbones.convmlp import ConvMLP
from mlp_backbones.backbones.cs_mixer import CSMixer
from mlp_backbones.backbones.cyclemlp import CycleMLP
from mlp_backbones.backbones.dynamixer import DynaMixer
from mlp_backbones.backbones.gfnet import GFNet
from mlp_backbones.backbones.gmlp import GMLP
from mlp_backbones.backbones.hire_mlp import HireMLP
from mlp_backbones.backbones.mlp_mixer import MlpMixer
from mlp_backbones.backbones.ms_mlp import MSMLP
from mlp_backbones.backbones.resampled import ResampledArguments, ResampledBackbone
from mlp_backbones.backbones.resmlp import ResMLP
from mlp_backbones.backbones.s2_mlp import S2MLP
from mlp_backbones.backbones.s2_mlpv2 import S2MLPv2
from mlp_backbones.backbones.smlpnet import SMLPNet
from mlp_backbones.backbones.spach import SPACH
from mlp_backbones.backbones.vip import VisionPermutator
from mlp_backbones.backbones.wave_mlp import WaveMLP

__all__ = [
    "ASMLP",
    "CCSMLP",
    "GMLP",
    "MSMLP",
    "S2MLP",
    "SPACH",
    "Arch",
    "CSMixer",
    "CommonArguments",
    "ConvMLP",
    "CycleMLP",
    "DynaMixer",
    "GFNet",
    "HireMLP",
    "IsotropicArch",
    "MLPBackbone",
    "MlpMixer",
    "PyramidArch",
    "ResMLP",
    "ResampledArguments",
    "ResampledBackbone",
    "S2MLPv2",
    "SMLPNet",
    "StagedArch",
    "TwoStrideArch",
    "VisionPermutator",
    "WaveMLP",
]

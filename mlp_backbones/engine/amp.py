"""What mixed precision needs besides an optimizer wrapper."""

import re
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mlp_backbones.registry import HOOKS

_HEAD = re.compile(r"(^|\.)(rpn_head|bbox_head|mask_head|head)(\.\d+)?$")


@HOOKS.register_module()
class FloatHeadOutputsHook(Hook):
    """Let heads give float32 under autocast, inside they compute as before.

    mmdet makes anchors and boxes in the type of the head's outputs. In bfloat16, which
    has 8 bits, coordinates above 256 pixels are rounded to even numbers; operators that
    take boxes and maps then meet two types, and NumPy has no bfloat16 at all.
    """

    priority = "VERY_HIGH"

    def before_run(self, runner: Runner) -> None:
        """Put a cast behind each head."""
        for name, module in runner.model.named_modules():
            if _HEAD.search(name) and not isinstance(module, nn.ModuleList):
                module.register_forward_hook(_cast_outputs)


def _cast_outputs(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    return to_float(outputs)


def to_float(outputs: Any) -> Any:
    """Cast the floating-point tensors in nested lists and tuples to float32."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, (list, tuple)):
        return type(outputs)([to_float(one) for one in outputs])
    return outputs

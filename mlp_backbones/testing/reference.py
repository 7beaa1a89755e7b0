"""Reference cases: inputs, weights and outputs recorded from official code."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mlp_backbones.checkpoints import load_pretrained
from mlp_backbones.factory import Classifier, get_family


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

    cls = get_family(description["family"])
    arguments = {
        **cls.classifier_arguments,
        **cls.arguments_from_reference(
            description["config"], tuple(description["input_size"])
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

"""A small zoo to break: one family, five of its configs."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from dev.zoo.checking import check_zoo
from mlp_backbones.config_names import config_dir

CLASSIFIER = "cyclemlp-b1_8xb128_in1k"
SECOND_CLASSIFIER = "cyclemlp-b2_8xb128_in1k"
RETINANET = "retinanet_cyclemlp-b1_fpn_8xb2-1x_coco"
MASK_RCNN = "mask-rcnn_cyclemlp-mini_fpn_1xb8-6e_digit-scenes"
UPERNET = "upernet_cyclemlp-tiny_8xb2-160k_ade20k-512x512"
NAMES = (CLASSIFIER, SECOND_CLASSIFIER, RETINANET, UPERNET, MASK_RCNN)

README = """\
# CycleMLP

Something about it.

<!-- table: classification in1k -->
<!-- /table -->

Detectors and segmentors:

<!-- table: coco ade20k -->
<!-- /table -->

<!-- table: digit-scenes -->
<!-- /table -->
"""


@dataclass(frozen=True)
class Zoo:
    """A folder of configs that tests may break."""

    config_dir: Path

    @property
    def family(self) -> Path:
        return self.config_dir / "cyclemlp"

    @property
    def metafile(self) -> Path:
        return self.family / "metafile.yml"

    @property
    def readme(self) -> Path:
        return self.family / "README.md"

    @property
    def model_index(self) -> Path:
        return self.config_dir.parent / "model-index.yml"

    def read(self) -> dict:
        return yaml.safe_load(self.metafile.read_text())

    def write(self, content: dict) -> None:
        self.metafile.write_text(yaml.safe_dump(content, sort_keys=False))

    def check(self, build=()) -> list[str]:
        return check_zoo(self.config_dir, build=build)


def make_zoo(folder: Path) -> Zoo:
    """Copy the five configs, their entries and their bases to a folder."""
    source = config_dir()
    small = Zoo(folder / "configs")
    shutil.copytree(source / "_base_", small.config_dir / "_base_")
    small.family.mkdir()
    for name in NAMES:
        shutil.copy(source / "cyclemlp" / f"{name}.py", small.family)
    content = yaml.safe_load((source / "cyclemlp" / "metafile.yml").read_text())
    entries = {model["Name"]: model for model in content["Models"]}
    content["Models"] = [entries[name] for name in NAMES]
    small.write(content)
    small.readme.write_text(README)
    small.model_index.write_text("Import:\n  - configs/cyclemlp/metafile.yml\n")
    return small

"""Package metadata. The two OpenMMLab stacks are extras: see the README."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What MIM looks for inside a package. MANIFEST.in names the same files.
MIM_FILES = (
    "model-index.yml",
    "configs/**/*.md",
    "configs/**/*.py",
    "configs/**/*.yml",
    "tools/**/*.py",
    "tools/**/*.sh",
)


class BuildWithMim(build_py):
    """Put configs, tools and the model index where MIM finds them.

    An editable installation needs nothing: there MIM looks in the checkout.
    """

    def run(self) -> None:
        package = Path(self.build_lib) / "mlp_backbones"
        if not self.editable_mode:  # what an earlier build has left may be stale
            shutil.rmtree(package, ignore_errors=True)
        super().run()
        if self.editable_mode:
            return
        folder = package / ".mim"
        for pattern in MIM_FILES:
            for source in ROOT.glob(pattern):
                target = folder / source.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)


class WheelForMim(bdist_wheel):
    """Put `.mim` beside the metadata, too.

    onedl-mim 0.5 takes the folder of the first file that an installation lists for the
    package. That is right where a distribution is called otherwise than its package;
    `mlp_backbones-*.dist-info` sorts before `mlp_backbones`.
    """

    def write_wheelfile(self, wheelfile_base: str) -> None:
        super().write_wheelfile(wheelfile_base)
        folder = Path(self.bdist_dir) / "mlp_backbones" / ".mim"
        if folder.is_dir():  # not in an editable installation
            shutil.copytree(folder, Path(wheelfile_base) / ".mim")


def read_version() -> str:
    namespace: dict[str, str] = {}
    exec((ROOT / "mlp_backbones" / "version.py").read_text(), namespace)
    return namespace["__version__"]


DEMO = ["matplotlib", "rich", "scikit-learn"]
CAM = ["grad-cam"]
VIS = ["tensorboard", "wandb"]
ONNX = ["onnx", "onnxruntime", "onnxscript"]

setup(
    name="mlp_backbones",
    version=read_version(),
    description="Vision-MLP backbones for detection, segmentation and classification "
    "on OpenMMLab",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The mlp_backbones authors",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    keywords="computer vision, MLP, backbone, object detection, segmentation",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["mlp_backbones", "mlp_backbones.*"]),
    package_data={"mlp_backbones": ["py.typed"]},
    cmdclass={"bdist_wheel": WheelForMim, "build_py": BuildWithMim},
    zip_safe=False,
    # No OpenMMLab distribution stands here: two sets of them share their import
    # names, and requiring one would break an environment that holds the other.
    install_requires=[
        "numpy",
        "safetensors",
        "torch>=2.1",
        "typing_extensions",
    ],
    extras_require={
        # The extra of a stack is all that training on the digit scenes by mim needs.
        "onedl": [
            *DEMO,
            "onedl-mmengine>=0.10.12",
            "onedl-mmcv>=2.3.6",
            "onedl-mmdetection>=3.5.1",
            "onedl-mmsegmentation>=1.4.2",
            "onedl-mmpretrain>=1.3.6",
            "onedl-mim>=0.5.1",
            "pycocotools",
            "torchvision",
            "msgspec",
            "pillow",
        ],
        "upstream": [
            *DEMO,
            "mmengine>=0.10.7",
            # without compiled operators, in which torchvision stands in
            "mmcv-lite>=2.0.0,<2.2.0",
            "mmdet>=3.3.0",
            "mmsegmentation>=1.2.2",
            "mmpretrain>=1.2.0",
            "openmim>=0.3.7,<0.3.9",  # that one needs the pins of opendatalab
            "ftfy",
            "numpy<2",
            "pycocotools",
            "regex",
            "setuptools<81",  # mmengine and openmim import pkg_resources
            "torch<2.6",
            "torchvision",
            "msgspec",
            "pillow",
        ],
        "cam": CAM,
        "demo": DEMO,
        "onnx": ONNX,
        "tensorboard": VIS[:1],
        "wandb": VIS[1:],
        "test": [*DEMO, *ONNX, *CAM, "pytest", "pytest-xdist"],
        "dev": [*VIS, "codespell", "mypy", "pre-commit", "ruff", "types-PyYAML"],
    },
)

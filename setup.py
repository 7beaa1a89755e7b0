"""Package metadata. The two OpenMMLab stacks are extras: see the README."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What `mim train`, `mim test` and `mim download` look for inside a package.
MIM_PARTS = ("tools", "configs", "model-index.yml")


class BuildWithMim(build_py):
    """Put tools, configs and the model index where MIM finds them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / "mlp_backbones" / ".mim"
        folder.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        for part in MIM_PARTS:
            source, target = ROOT / part, folder / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
            elif source.exists():
                shutil.copyfile(source, target)


def read_version() -> str:
    namespace: dict[str, str] = {}
    exec((ROOT / "mlp_backbones" / "version.py").read_text(), namespace)
    return namespace["__version__"]


DEMO = ["matplotlib", "rich", "scikit-learn"]
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
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["mlp_backbones", "mlp_backbones.*"]),
    package_data={"mlp_backbones": ["py.typed"]},
    cmdclass={"build_py": BuildWithMim},
    zip_safe=False,
    # No OpenMMLab distribution stands here: two sets of them share their import
    # names, and requiring one would break an environment that holds the other.
    install_requires=["numpy", "safetensors", "torch>=2.1"],
    extras_require={
        "onedl": [
            "onedl-mmengine>=0.10.12",
            "onedl-mmcv>=2.3.6",
            "onedl-mmdetection>=3.5.1",
            "onedl-mmsegmentation>=1.4.2",
            "onedl-mmpretrain>=1.3.6",
            "pycocotools",
            "torchvision",
        ],
        "upstream": [
            "mmengine>=0.10.7",
            "mmcv>=2.0.0,<2.2.0",
            "mmdet>=3.3.0",
            "mmsegmentation>=1.2.2",
            "mmpretrain>=1.2.0",
            "ftfy",
            "numpy<2",
            "pycocotools",
            "regex",
            "torch<2.6",
            "torchvision",
        ],
        "demo": DEMO,
        "onnx": ONNX,
        "test": [*DEMO, *ONNX, "pytest", "pytest-xdist"],
        "dev": ["codespell", "mypy", "pre-commit", "ruff", "types-PyYAML"],
    },
)

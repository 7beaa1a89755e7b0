"""Packages of the main stack, made up, as the environment check asks for them."""

TORCH = """
class version:
    cuda = None
class tensor(list):
    expand = lambda self, *_: self
    contiguous = lambda self: self
    tolist = lambda self: list(self)
arange = lambda n: tensor()
"""
OPERATORS = """
roi_align = lambda *_: 2.5
nms = lambda boxes, scores, threshold: (boxes, type(boxes)([0, 2]))
"""
MAIN = {
    "torch": ("torch", "2.12.1", TORCH),
    "torchvision": ("torchvision", "0.27.1", ""),
    "opencv-python": ("cv2", "4.12.0", ""),
    "onedl-mmengine": ("mmengine", "0.10.12", ""),
    "onedl-mmcv": ("mmcv", "2.3.6", ""),
    "onedl-mmdetection": ("mmdet", "3.5.1", ""),
    "onedl-mmsegmentation": ("mmseg", "1.4.2", ""),
    "onedl-mmpretrain": ("mmpretrain", "1.3.6", ""),
    **{n: (n, "1.0", "") for n in ("numpy", "safetensors", "pycocotools", "pytest")},
    "msgspec": ("msgspec", "1.0", ""),
    "pillow": ("PIL", "1.0", ""),
    **{n: (n, "1.0", "") for n in ("onnx", "onnxruntime", "onnxscript", "matplotlib")},
    "scikit-learn": ("sklearn", "1.0", ""),
    "pytest-xdist": ("xdist", "1.0", ""),
}
SUBMODULES = {"mmcv": ("ops", OPERATORS)}
SUBMODULES |= dict.fromkeys(("mmdet", "mmseg", "mmpretrain"), ("models", ""))


def module_files(module: str, source: str) -> dict[str, str]:
    """Return the files of a package by path."""
    files = {f"{module}/__init__.py": source}
    if module in SUBMODULES:
        submodule, content = SUBMODULES[module]
        files[f"{module}/{submodule}.py"] = content
    return files

"""Laying out what the authors of data sets give for download.

Nothing is overwritten, and what was interrupted goes on: a file is written beside its
place and moved there when it is whole, and one that lies there already is kept if it is
the same. In the end counts are compared and a sample of the files is read.
"""

import filecmp
import io
import json
import os
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import cv2
import numpy as np

from mlp_backbones.datasets.checks import DataError, check_image_bytes

__all__ = ["Laid", "prepare_ade20k", "prepare_coco", "prepare_imagenet"]

_SAMPLE = 200  # files that are read in the end
_CHUNK = 1 << 20  # bytes
_NUM_IMAGENET_CLASSES = 1000
_ADE20K_SPLITS = {"training": 20210, "validation": 2000}
_ADE20K_CLASSES = 150


@dataclass
class Laid:
    """What lies where it belongs now.

    Attributes:
        folder: The root of the data set.
        written: Files that this call has put there.
        kept: Files that lay there already.
        counts: Images of each split.
        checked: Files that were read in the end.
    """

    folder: Path
    written: int = 0
    kept: int = 0
    counts: dict[str, int] | None = None
    checked: int = 0


def prepare_coco(archives: Sequence[Path], out: Path, partial: bool = False) -> Laid:
    """Unpack COCO's zip files and compare images with annotations.

    Args:
        archives: Such as ``train2017.zip``, ``val2017.zip`` and
            ``annotations_trainval2017.zip``, in one call or in several.
        out: Becomes the ``data_root``, with ``train2017``, ``val2017`` and
            ``annotations``.
        partial: Accept splits of which only some images are there.

    Raises:
        DataError: If an archive is damaged or holds nothing of COCO, a file would be
            overwritten, or images and annotations do not go together.
    """
    laid = Laid(out, counts={})
    for archive in archives:
        _unpack(archive, out, laid, _COCO_FOLDERS)
    sample: list[tuple[Path, dict[str, Any]]] = []
    for file in sorted((out / "annotations").glob("instances_*.json")):
        split = file.stem.removeprefix("instances_")
        if not (out / split).is_dir():
            continue
        listed = {image["file_name"]: image for image in _read_json(file)["images"]}
        found = {path.name for path in (out / split).glob("*.jpg")}
        _compare_counts(split, listed.keys(), found, partial)
        laid.counts[split] = len(listed.keys() & found)  # type: ignore[index]
        names = sorted(listed.keys() & found)
        sample += [(out / split / name, listed[name]) for name in _spread(names)]
    if not laid.counts:
        raise DataError(
            f"{out} holds no split with images and annotations yet; give the zip files "
            "of both, such as val2017.zip annotations_trainval2017.zip"
        )
    for path, image in sample:
        size = _read_image(path).shape[1::-1]
        if size != (image["width"], image["height"]):
            raise DataError(
                f"{path} has {size[0]} x {size[1]} pixels, its annotations say "
                f"{image['width']} x {image['height']}"
            )
    laid.checked = len(sample)
    return laid


_COCO_FOLDERS = ("train2017", "val2017", "annotations")


def prepare_ade20k(archive: Path, out: Path, partial: bool = False) -> Laid:
    """Unpack ``ADEChallengeData2016.zip`` and compare images with annotations.

    Args:
        archive: The zip file.
        out: Folder for ``ADEChallengeData2016``, usually ``data/ade``.
        partial: Accept fewer images than the whole set has.

    Raises:
        DataError: If the archive is damaged or another one, a file would be
            overwritten, or images and annotations do not go together.
    """
    top = "ADEChallengeData2016"
    laid = Laid(out / top, counts={})
    _unpack(archive, out, laid, (top,))
    pairs: list[tuple[Path, Path]] = []
    for split, number in _ADE20K_SPLITS.items():
        images = {p.stem: p for p in (laid.folder / "images" / split).glob("*.jpg")}
        maps = {p.stem: p for p in (laid.folder / "annotations" / split).glob("*.png")}
        _compare_counts(f"images of {split}", maps.keys(), images.keys(), False)
        if len(images) != number and not partial:
            raise DataError(
                f"{split} of {archive} has {len(images)} images, ADE20K has {number}; "
                "with --partial that is accepted"
            )
        laid.counts[split] = len(images)  # type: ignore[index]
        pairs += [(images[stem], maps[stem]) for stem in _spread(sorted(images))]
    for image, label in pairs:
        labels = _read_image(label, cv2.IMREAD_UNCHANGED)
        if labels.ndim != 2 or labels.max() > _ADE20K_CLASSES:
            raise DataError(f"{label} is no map of the classes 0 to {_ADE20K_CLASSES}")
        if labels.shape != _read_image(image).shape[:2]:
            raise DataError(f"{label} has another size than {image}")
    laid.checked = 2 * len(pairs)
    return laid


def prepare_imagenet(
    images: Path, devkit: Path, out: Path, partial: bool = False
) -> Laid:
    """Sort ImageNet's flat validation images into a folder for each class.

    Args:
        images: ``ILSVRC2012_img_val.tar``, or the folder that it was unpacked to.
        devkit: ``ILSVRC2012_devkit_t12.tar.gz``, or its folder.
        out: Becomes the ``data_root``; images go to ``val/<class>``. From a folder
            they are linked, which takes no space, or copied to another disk.
        partial: Accept that images are missing.

    Raises:
        DataError: If something is damaged or missing, or a file would be overwritten.
    """
    wnids = _read_labels(devkit)
    laid = Laid(out, counts={})
    places = {
        f"ILSVRC2012_val_{number:08d}.JPEG": wnid
        for number, wnid in enumerate(wnids, 1)
    }
    seen: dict[str, Path] = {}

    def place(name: str) -> Path | None:
        target = Path(out, "val", places[name], name) if name in places else None
        if target is not None:
            seen[name] = target
        return target

    if images.is_dir():
        for file in _progress(sorted(images.iterdir()), "linking"):
            target = place(file.name)
            if target is not None:
                _put(target, file, file.stat().st_size, laid)
    else:
        with _open_tar(images) as archive:
            for member in _progress(archive, "unpacking"):
                target = place(PurePosixPath(member.name).name)
                content = archive.extractfile(member) if target is not None else None
                if target is not None and content is not None:
                    _put(target, content, member.size, laid)
    if not seen:
        raise DataError(f"{images} holds no ILSVRC2012_val_*.JPEG")
    _compare_counts(str(images), places.keys(), seen.keys(), partial)
    classes = Counter(target.parent.name for target in seen.values())
    missing = sorted(set(wnids) - classes.keys())
    if missing and not partial:
        raise DataError(f"class {missing[0]} has no image")
    laid.counts["val"] = len(seen)  # type: ignore[index]
    chosen = _spread(sorted(seen))
    for name in chosen:
        check_image_bytes(seen[name].read_bytes(), str(seen[name]))
        _read_image(seen[name])
    laid.checked = len(chosen)
    return laid


def _read_labels(devkit: Path) -> list[str]:
    """Return the class folder of each validation image, from the devkit."""
    from scipy.io import loadmat  # comes with mmdet and mmpretrain

    wanted = ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")
    found: dict[str, Any] = {}
    if devkit.is_dir():
        for name in wanted:
            for file in sorted(devkit.rglob(name))[:1]:
                found[name] = file.read_bytes()
    else:
        with _open_tar(devkit) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                content = archive.extractfile(member) if name in wanted else None
                if content is not None:
                    found[name] = content.read()
    for name in wanted:
        if name not in found:
            raise DataError(
                f"{devkit} holds no {name}: it is not the devkit of ImageNet"
            )
    synsets = loadmat(io.BytesIO(found[wanted[0]]), squeeze_me=True)["synsets"]
    classes = {
        int(row["ILSVRC2012_ID"]): str(row["WNID"])
        for row in synsets
        if 1 <= int(row["ILSVRC2012_ID"]) <= _NUM_IMAGENET_CLASSES
    }
    numbers = [int(line) for line in found[wanted[1]].split()]
    unknown = sorted(set(numbers) - classes.keys())
    if len(classes) != _NUM_IMAGENET_CLASSES or unknown:
        raise DataError(
            f"{devkit} knows {len(classes)} classes of {_NUM_IMAGENET_CLASSES}"
            + (f", and none with number {unknown[0]}" if unknown else "")
        )
    return [classes[number] for number in numbers]


def _unpack(archive: Path, out: Path, laid: Laid, folders: Sequence[str]) -> None:
    """Unpack what a zip has in some folders."""
    number = 0
    try:
        with zipfile.ZipFile(archive) as content:
            for info in _progress(content.infolist(), archive.name):
                path = PurePosixPath(info.filename)
                if info.is_dir() or not path.parts or path.parts[0] not in folders:
                    continue
                if path.is_absolute() or ".." in path.parts:
                    raise DataError(f"{archive} holds {path}, which leads out of it")
                number += 1
                with content.open(info) as file:
                    _put(
                        out.joinpath(*path.parts), file, info.file_size, laid, info.CRC
                    )
    except FileNotFoundError as error:
        raise DataError(f"archive {error.filename} does not exist") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"archive {archive} is damaged ({error}); download it again"
        ) from error
    if not number:
        raise DataError(f"archive {archive} holds nothing of this data set")


def _put(
    target: Path,
    source: Path | IO[bytes],
    size: int,
    laid: Laid,
    crc: int | None = None,
) -> None:
    """Write a file as a whole, unless the same one lies there already."""
    if target.exists():
        same = target.stat().st_size == size
        if same and isinstance(source, Path):
            same = target.samefile(source) or filecmp.cmp(target, source, shallow=False)
        elif same and crc is not None:
            same = _crc(target) == crc
        if not same:
            raise DataError(f"{target} exists and is another file; move it away")
        laid.kept += 1
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    if isinstance(source, Path):
        try:
            os.link(source, part)
        except OSError:  # on another disk, or a file system without links
            shutil.copyfile(source, part)
    else:
        with part.open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK)
    if part.stat().st_size != size:
        raise DataError(
            f"{part} was cut short: is the archive damaged or the disk full?"
        )
    part.replace(target)
    laid.written += 1


def _crc(file: Path) -> int:
    value = 0
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


@contextmanager
def _open_tar(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file) as archive:
            yield archive
    except FileNotFoundError as error:
        raise DataError(f"{file} does not exist") from error
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(
            f"archive {file} is damaged ({str(error).splitlines()[0]}); download it "
            "again"
        ) from error


def _compare_counts(
    what: str, wanted: Iterable[str], found: Iterable[str], partial: bool
) -> None:
    missing = sorted(set(wanted) - set(found))
    surplus = sorted(set(found) - set(wanted))
    if missing and not partial:
        raise DataError(
            f"{what}: {len(missing)} of {len(set(wanted))} files are missing, first "
            f"{missing[0]}; with --partial the rest is laid out"
        )
    if surplus:
        raise DataError(
            f"{what}: {len(surplus)} files without annotations, first {surplus[0]}"
        )


def _read_image(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    image = cv2.imdecode(content, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DataError(f"image {path} cannot be read")
    return image


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file} is no JSON ({error})") from error


def _spread(names: Sequence[str]) -> list[str]:
    """Choose names evenly, first and last among them."""
    if len(names) <= _SAMPLE:
        return list(names)
    places = np.linspace(0, len(names) - 1, _SAMPLE).round().astype(int)
    return [names[place] for place in places]


def _progress(items: Iterable[Any], what: str) -> Iterable[Any]:
    """Show a bar at a terminal."""
    from rich.progress import track

    return track(items, what, disable=not sys.stderr.isatty(), transient=True)

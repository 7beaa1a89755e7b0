"""Image files and masks: what their headers say, and what decoders would lose."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from mlp_backbones.datasets.checks.report import DataError, few

__all__ = [
    "ImageFacts",
    "ImageLoader",
    "ImageLooks",
    "check_image_bytes",
    "check_mask_file",
    "image_facts",
    "spread",
]

IMAGE_SUFFIXES = frozenset(
    [
        *(".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
    ]
)
_TAIL = 4096  # bytes; the end mark of a whole image file is nearly always in here
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_UNTURNED = "color_ignore_orientation"
_UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError)


@dataclass(frozen=True)
class ImageLoader:
    """How a pipeline reads image files.

    Attributes:
        color_type: Flag of ``mmcv.imfrombytes``.
        backend: Its backend.
    """

    color_type: str = "color"
    backend: str | None = "cv2"

    @property
    def turns(self) -> bool:
        """Whether images are turned as their EXIF orientation says."""
        reads_exif = self.backend in ("cv2", "pillow", None)
        return reads_exif and self.color_type in ("color", "grayscale")

    @classmethod
    def of(cls, pipeline: Sequence[Any] | None) -> "ImageLoader | None":
        """Return how a pipeline reads files; None if by a loader of the user's own."""
        for step in pipeline or ():
            if isinstance(step, Mapping) and short_name(step) in (
                "LoadImage",
                "LoadImageFromFile",
            ):
                return cls(
                    step.get("color_type", "color"), step.get("imdecode_backend", "cv2")
                )
        return None if pipeline else cls()


@dataclass(frozen=True)
class ImageFacts:
    """What the header of an image file says.

    Attributes:
        kind: Name of its format, such as 'JPEG'.
        mode: Pixel mode in Pillow's words, such as 'RGB'.
        size: Width and height as stored, px.
        orientation: EXIF orientation, 1 if there is none.
        bits: Per channel.
        animated: Whether it has more than one picture.
    """

    kind: str
    mode: str
    size: tuple[int, int]
    orientation: int = 1
    bits: int = 8
    animated: bool = False

    def loaded_size(self, loader: ImageLoader) -> tuple[int, int]:
        """Width and height as the pipeline gets them, px."""
        width, height = self.size
        turned = loader.turns and self.orientation >= 5
        return (height, width) if turned else (width, height)

    def oddities(self, path: str, loader: ImageLoader) -> Iterator[str]:
        """Yield what an ordinary loader changes without a word."""
        if loader.color_type == "unchanged":
            return
        suffix = os.path.splitext(path)[1].lower()
        if self.kind in _SUFFIXES and suffix not in _SUFFIXES[self.kind]:
            yield f"of another format than the name says ({self.kind})"
        if self.mode in ("CMYK", "YCCK"):
            yield "CMYK, which the decoder turns into RGB without a colour profile"
        if self.bits > 8:
            yield f"of {self.bits} bits per channel, of which the loader keeps 8"
        if self.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
            yield "with an alpha channel, which the loader leaves out"
        if self.animated:
            yield "animated, of which the loader reads the first picture only"


def short_name(step: Mapping[str, Any]) -> str:
    """Class name of a transform's config without its scope."""
    name = step.get("type", "")
    return (name if isinstance(name, str) else name.__name__).rpartition(".")[2]


def spread(number: int, most: int) -> list[int]:
    """Return at most ``most`` indices below ``number``, evenly spaced."""
    if number <= most:
        return list(range(number))
    return [index * number // most for index in range(most)]


def image_facts(file: BinaryIO, head: bytes) -> ImageFacts | None:
    """Read the header of an image; None if Pillow does not know the format.

    Args:
        file: The open file.
        head: Its first bytes.
    """
    try:
        with _patient(), Image.open(file) as image:
            exif = "exif" in image.info and image.format in ("JPEG", "MPO", "PNG")
            return ImageFacts(
                image.format or "",
                image.mode,
                image.size,
                image.getexif().get(0x0112, 1) if exif else 1,
                _bits(image, head),
                # An MPO is a photograph with a preview behind it.
                image.format != "MPO" and getattr(image, "is_animated", False),
            )
    except (*_UNREADABLE, Image.DecompressionBombError):
        return None


@contextmanager
def _patient() -> Iterator[None]:
    """Let Pillow open large images without a word: aerial ones are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _bits(image: Image.Image, head: bytes) -> int:
    if image.format == "PNG":  # Pillow opens 16-bit colour as 8-bit
        return head[24]
    if image.mode.startswith("I;16"):
        return 16
    return 32 if image.mode in ("I", "F") else 8


class ImageLooks:
    """Looks at image files one by one, and sums up what is odd about them.

    Args:
        split: For messages.
        loader: How they are read.
    """

    def __init__(self, split: str, loader: ImageLoader) -> None:
        self.split = split
        self.loader = loader
        self.number = 0
        self._odd: dict[str, list[str]] = {}

    def look(
        self,
        path: str,
        told: tuple[int, int] | None = None,
        annotated: bool = False,
        teller: str = "its annotation file says",
    ) -> None:
        """Look at one file.

        Args:
            path: Of the file.
            told: Width and height that the annotation tells, px.
            annotated: Whether annotations belong to places in the image.
            teller: Who tells the size, for messages.

        Raises:
            DataError: If it is empty, truncated, or of another size.
        """
        self.number += 1
        with open(path, "rb") as file:
            head = file.read(_TAIL)
            size = os.fstat(file.fileno()).st_size
            if size > 2 * _TAIL:
                file.seek(-_TAIL, os.SEEK_END)
            tail = file.read()
            try:
                check_image_bytes(head + tail, path)
            except DataError:
                # Long headers, or data behind the end mark: the whole file decides.
                file.seek(0)
                check_image_bytes(file.read(), path)
            file.seek(0)
            facts = image_facts(file, head)
        if facts is None:
            return  # the decoder may know it
        for oddity in facts.oddities(path, self.loader):
            self._odd.setdefault(oddity, []).append(path)
        if told is not None or annotated:
            self._compare(facts, path, told, teller)

    def _compare(
        self, facts: ImageFacts, path: str, told: tuple[int, int] | None, teller: str
    ) -> None:
        loaded, turned = facts.loaded_size(self.loader), facts.orientation != 1
        if told is not None and told != loaded:
            other = "color" if not self.loader.turns else _UNTURNED
            remedy = (
                f"; its EXIF orientation is {facts.orientation}: load it with "
                f"color_type={other!r}"
                if turned and sorted(told) == sorted(loaded)
                else ""
            )
            raise DataError(
                f"{path}: the image is {loaded[0]}x{loaded[1]} px, {teller} "
                f"{told[0]}x{told[1]} px{remedy}"
            )
        square = facts.size[0] == facts.size[1]
        undecided = told is None or facts.orientation < 5 or square
        if turned and self.loader.turns and undecided:
            self._odd.setdefault(
                "turned on loading by their EXIF orientation; if the annotations were "
                f"made on the stored pixels, load with color_type={_UNTURNED!r}",
                [],
            ).append(path)

    @property
    def warnings(self) -> list[str]:
        """One line for each kind of oddity, with counts and names."""
        return [
            f"{self.split}: {len(paths)} of {self.number} images looked at are "
            f"{oddity} ({few(paths, 3)})"
            for oddity, paths in self._odd.items()
        ]


def check_image_bytes(content: bytes, path: str) -> None:
    """Refuse an image file that is empty or breaks off.

    Decoders fill the missing part of a truncated JPEG with grey and go on; the file
    itself tells, as it lacks the end mark.

    Args:
        content: Of the whole file, or its first and last bytes.
        path: For the message.

    Raises:
        DataError: If the file is empty or truncated.
    """
    if not content:
        raise DataError(f"{path}: the image file is empty")
    if content.startswith(b"\xff\xd8"):
        # A thumbnail in the header ends with the same mark: look behind it.
        whole = content.rfind(b"\xff\xd9") > _jpeg_scan_start(content)
    elif content.startswith(b"\x89PNG\r\n\x1a\n"):
        whole = b"IEND" in content[-_TAIL:]
    else:
        whole = content.strip(b"\0") != b""
        if not whole:
            raise DataError(f"{path}: the image file holds nothing but zero bytes")
    if not whole:
        raise DataError(f"{path}: the image file is truncated (no end mark)")


def _jpeg_scan_start(content: bytes) -> int:
    """Offset of the picture's own data, behind all headers."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xDA:  # start of scan
            return position
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return position


def check_mask_file(
    path: str, backend: str = "pillow", whole: bool = True
) -> np.ndarray | None:
    """Read a mask as it is stored, and refuse what a cast to 8 bits would change.

    mmseg's ``LoadAnnotations`` casts without a look: label 256 becomes 0.

    Args:
        path: Of the mask.
        backend: ``imdecode_backend`` of the loader.
        whole: Decode masks of 8 bits, too; without, only what may lose bits.

    Returns:
        The labels, (H, W), uint8; None if Pillow does not know the format, or the mask
        was not decoded.

    Raises:
        DataError: If the mask is damaged, has several channels, or values that 8 bits
            cannot hold.
    """
    with open(path, "rb") as file:
        content = file.read()
    check_image_bytes(content, path)
    try:
        with _patient(), Image.open(BytesIO(content)) as image:
            mode = image.mode
            if not whole and mode in ("1", "L"):
                return None
            labels = np.array(image)
    except UnidentifiedImageError:
        return None
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable mask ({error})") from error
    if labels.ndim != 2:
        raise DataError(
            f"{path}: the mask has {labels.shape[2]} channels ({mode}), expected one "
            "with the numbers of the classes"
        )
    if mode == "P" and backend == "cv2":
        raise DataError(
            f"{path}: OpenCV reads the colours of this palette image, not its labels; "
            "load it with imdecode_backend='pillow'"
        )
    narrow = labels.astype(np.uint8)
    if labels.dtype != np.uint8 and not np.array_equal(narrow, labels):
        lost = np.unique(labels[narrow != labels])
        raise DataError(
            f"{path}: the mask ({mode}) has values that 8 bits cannot hold, such as "
            f"{lost[0]}, which becomes {narrow[labels == lost[0]][0]}; write labels 0 "
            "to 254, and 255 for pixels to ignore"
        )
    return narrow

"""What a check of data says: an error of one line, or a report for the run card."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["NEARLY_ALL", "DataError", "DataReport", "DatasetReport", "few"]

NEARLY_ALL = 0.8  # share of objects or images whose loss is no accident but a fault


class DataError(ValueError):
    """Something is wrong with the data; the message is one line and names it."""

    @property
    def line(self) -> str:
        """The message alone, also where a data worker put its traceback before it."""
        last = str(self).strip().splitlines()[-1]
        return last.removeprefix(f"{type(self).__module__}.{type(self).__name__}: ")


@dataclass(frozen=True)
class DatasetReport:
    """What the checks know about one data set.

    Attributes:
        split: 'train', 'val' or 'test'.
        type: Class of the data set.
        source: Annotation file, or image folder where there is none.
        num_images: Images that the loader keeps.
        num_objects: Boxes, masks or labels that the loader keeps.
        classes: Their names in the order of the labels; None if unknown.
        class_source: Where the names come from.
        dropped: What the loader leaves out, counted by reason.
        evaluator_files: Annotation files that the evaluator of the split reads.
        warnings: What could not be decided, each one line with its numbers.
    """

    split: str
    type: str
    source: str
    num_images: int
    num_objects: int
    classes: tuple[str, ...] | None = None
    class_source: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)
    evaluator_files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """One line for people."""
        classes = "" if self.classes is None else f", {len(self.classes)} classes"
        dropped = ", ".join(f"{number} {why}" for why, number in self.dropped.items())
        return (
            f"{self.split}: {self.source}: {self.num_images} images, "
            f"{self.num_objects} objects{classes}"
            + (f"; left out: {dropped}" if dropped else "")
        )


@dataclass(frozen=True)
class DataReport:
    """What the checks know about all data sets of a config.

    Attributes:
        datasets: One report for each data set inside the data loaders.
    """

    datasets: tuple[DatasetReport, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Every warning once."""
        return tuple(dict.fromkeys(w for one in self.datasets for w in one.warnings))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"datasets": [asdict(one) for one in self.datasets]}


def few(names: Iterable[Any], number: int = 6) -> str:
    """Return the first names, and how many there are if not all are shown."""
    shown = [str(name) for name in names]
    more = f", ... ({len(shown)} in all)" if len(shown) > number else ""
    return ", ".join(shown[:number]) + more


def check_file(path: str, split: str) -> None:
    """Refuse an annotation file that is missing or empty."""
    if not os.path.isfile(path):
        raise DataError(f"{split}: annotation file {path} does not exist")
    if os.path.getsize(path) == 0:
        raise DataError(f"{split}: annotation file {path} is empty")


def check_folder(path: str, split: str, what: str = "image") -> None:
    """Refuse a folder that is missing or empty."""
    if not os.path.isdir(path or "."):
        raise DataError(f"{split}: {what} folder {path} does not exist")
    with os.scandir(path or ".") as entries:
        if next(entries, None) is None:
            raise DataError(f"{split}: {what} folder {path} is empty")


def check_present(paths: Sequence[str], split: str, what: str, source: str) -> None:
    """Refuse a list that names files which are not there.

    One listing for a folder takes the place of one question for a file.
    """
    listings: dict[str, set[str]] = {}
    missing: list[str] = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(folder or "."))
            except OSError:
                listings[folder] = set()
        if name not in listings[folder]:
            missing.append(path)
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"{split}: {what} {missing[0]}{more} does not exist, listed by {source}"
        )

"""Tables made from the metafiles: those of the READMEs and the page of all models."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dev.zoo.metafile import Metafile, Model, Result, read_metafile
from dev.zoo.naming import (
    DURATION,
    HEADS,
    METRICS,
    TRAINING_DATA,
    sort_key,
    spell_size,
)
from mlp_backbones.config_names import ConfigName, parse_config_name
from mlp_backbones.factory import get_family

__all__ = [
    "Row",
    "TableError",
    "fill_readme",
    "find_stale_pages",
    "make_pages",
    "read_rows",
    "render_model_zoo",
    "render_table",
    "select_rows",
    "write_pages",
]

COMMAND = "python dev/make_model_zoo.py"
_TABLE = re.compile(
    r"^<!-- table: (?P<key>[^\n]*?) -->\n(?P<body>((?!<!-- table:).)*?)"
    r"^<!-- /table -->$",
    re.MULTILINE | re.DOTALL,
)
_LOOSE_MARKER = re.compile(r"<!-- */?table\b[^\n]*")
_LINK = re.compile(r"^\|.*\[config\]\(([^)]*)\)", re.MULTILINE)
_HEAD_WORDS = {(word or "classification"): word for word in HEADS}
_DATA_WORDS = {word.removesuffix("-512x512"): word for word in TRAINING_DATA}
_SHORT = {"Top 1 Accuracy": "Top-1", "Top 5 Accuracy": "Top-5"}
_TIMM = "github.com/rwightman/pytorch-image-models"


class TableError(ValueError):
    """Tables that cannot be made.

    Args:
        problems: One line for each fault, with its file.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Row:
    """A config as tables show it.

    Attributes:
        model: Its entry.
        name: What its name says.
        arch: The size as the class calls it.
        folder: The family's folder, which is the family's name.
        title: How the family is called.
    """

    model: Model
    name: ConfigName
    arch: str
    folder: str
    title: str

    @property
    def schedule(self) -> str:
        """The schedule; that of a classifier is its number of epochs."""
        return self.name.schedule or f"{self.model.epochs}e"


def read_rows(folder: Path, title: str | None = None) -> list[Row]:
    """Read the rows of a family, in the order of all tables.

    Args:
        folder: The family's folder.
        title: How the family is called; by default as its class.

    Raises:
        MetafileError: If the metafile is not in order.
        ValueError: If a name does not follow the rule.
    """
    metafile = read_metafile(folder / "metafile.yml")
    return _make_rows(folder, metafile, title or metafile.collection.name)


def _make_rows(folder: Path, metafile: Metafile, title: str) -> list[Row]:
    sizes = {spell_size(a): a for a in get_family(folder.name).arch_settings}
    rows = []
    for model in metafile.models:
        path = folder / PurePosixPath(model.config).name
        name = parse_config_name(path)
        arch = sizes.get(name.size, name.size)
        rows.append((sort_key(path), Row(model, name, arch, folder.name, title)))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def select_rows(rows: Sequence[Row], key: str) -> list[Row]:
    """Return the rows that the key of a table stands for.

    Args:
        rows: All rows of a family.
        key: Words for heads, schedules and data sets. Words of one kind are
            alternatives; a kind without a word is not restricted.

    Raises:
        ValueError: If a word is unknown.

    Example:
        ``mask-rcnn 1x coco`` or ``coco ade20k``.
    """
    heads, schedules, datasets = set(), set(), set()
    for word in key.split():
        if word in _HEAD_WORDS:
            heads.add(_HEAD_WORDS[word])
        elif word in _DATA_WORDS:
            datasets.add(_DATA_WORDS[word])
        elif re.fullmatch(r"\d+[ekx]", word):
            schedules.add(word)
        else:
            raise ValueError(
                f"unknown word {word!r}, known are {', '.join(_HEAD_WORDS)}, "
                f"{', '.join(_DATA_WORDS)} and schedules such as 1x or 40k"
            )
    return [
        row
        for row in rows
        if (not heads or row.name.head in heads)
        and (not schedules or row.schedule in schedules)
        and (not datasets or row.name.dataset in datasets)
    ]


# Columns -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[Row], str | None]
    always: bool = False


def render_table(rows: Sequence[Row], *, config_dir: str = "") -> str:
    """Render a Markdown table; columns without any value are left out.

    Rows of several families get a column for the family, rows of several heads one
    for the head, and so on. Results stand in columns of their own, those of several
    heads in one.

    Args:
        rows: What to show, in order.
        config_dir: Where the families' folders lie, as seen from the page; empty for
            the page of a family in its own folder.
    """
    columns = [
        *_describing_columns(rows, config_dir),
        _Column("Params", lambda row: f"{row.model.parameters / 1e6:.1f}M", True),
        _Column("FLOPs", lambda row: _giga(row.model.flops)),
        _Column("Params (paper)", lambda row: row.model.paper_parameters),
        _Column("FLOPs (paper)", lambda row: row.model.paper_flops),
        *_result_columns(rows),
        *_linking_columns(rows, config_dir),
    ]
    cells = [[column.cell(row) for row in rows] for column in columns]
    shown = [i for i, c in enumerate(columns) if c.always or any(cells[i])]
    lines = [
        [columns[i].title for i in shown],
        ["---"] * len(shown),
        *([cells[i][k] or "-" for i in shown] for k in range(len(rows))),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _describing_columns(rows: Sequence[Row], config_dir: str) -> Iterator[_Column]:
    def differ(get: Callable[[Row], object]) -> bool:
        return len({get(row) for row in rows}) > 1

    if config_dir:
        yield _Column("Family", lambda row: f"[{row.title}]({config_dir}/{row.folder})")
    several_heads = differ(lambda row: row.name.head)
    if several_heads or rows[0].name.dataset == "digit-scenes":
        yield _Column("Head", lambda row: HEADS[row.name.head].title)
    if differ(lambda row: row.name.dataset):
        yield _Column("Data", lambda row: row.model.training_data)
    yield _Column("Arch", lambda row: row.arch)
    if differ(lambda row: row.schedule) and rows[0].name.dataset != "digit-scenes":
        yield _Column("Schedule", lambda row: row.schedule)


def _linking_columns(rows: Sequence[Row], config_dir: str) -> Iterator[_Column]:
    if all(row.name.dataset == "in1k" for row in rows):
        yield _Column("Images a step", lambda row: str(row.model.batch_size))

    def link(row: Row) -> str:
        file = PurePosixPath(row.model.config).name
        folder = f"{config_dir}/{row.folder}/" if config_dir else ""
        return f"[config]({folder}{file})"

    yield _Column("Config", link, True)
    addresses = [row.model.weights for row in rows if row.model.weights]
    owner = "timm's" if all(_TIMM in address for address in addresses) else "authors'"
    if config_dir:
        owner = "authors' or timm's"
    yield _Column(f"Weights ({owner})", lambda row: _link_weights(row.model.weights))


def _giga(flops: int | None) -> str | None:
    return None if flops is None else f"{flops / 1e9:.1f}G"


def _link_weights(address: str | None) -> str | None:
    return None if address is None else f"[{PurePosixPath(address).name}]({address})"


def _result_columns(rows: Sequence[Row]) -> Iterator[_Column]:
    several_heads = len({row.name.head for row in rows}) > 1
    for source in ("paper", "measured here"):
        if several_heads:
            yield _Column(f"Results ({source})", _summary_cell(source))
        else:
            for metric in (name for names in METRICS.values() for name in names):
                title = f"{_SHORT.get(metric, metric)} ({source})"
                yield _Column(title, _metric_cell(metric, source))
    yield _Column(DURATION, _metric_cell(DURATION, "measured here"))
    yield _Column("Hardware", _hardware_cell)


def _metric_cell(metric: str, source: str) -> Callable[[Row], str | None]:
    def cell(row: Row) -> str | None:
        values = [
            str(result.metrics[metric])
            for result in row.model.results
            if result.source == source and metric in result.metrics
        ]
        return "; ".join(values) or None

    return cell


def _summary_cell(source: str) -> Callable[[Row], str | None]:
    def cell(row: Row) -> str | None:
        runs: dict[str | None, list[str]] = {}
        for result in row.model.results:
            if result.source == source:
                runs.setdefault(result.hardware, []).extend(_spell_metrics(result))
        return "; ".join(", ".join(run) for run in runs.values()) or None

    return cell


def _spell_metrics(result: Result) -> Iterator[str]:
    for metric, value in result.metrics.items():
        if metric != DURATION:
            yield f"{_SHORT.get(metric, metric)} {value}"


def _hardware_cell(row: Row) -> str | None:
    results = row.model.results
    names = dict.fromkeys(result.hardware for result in results if result.hardware)
    return "; ".join(names) or None


# Pages ---------------------------------------------------------------------------


def fill_readme(text: str, rows: Sequence[Row], name: str = "README.md") -> str:
    """Put the tables of a family's page between their markers.

    Args:
        text: The page, with ``<!-- table: key -->`` and ``<!-- /table -->`` on lines of
            their own around each table.
        rows: All rows of the family. Each has to be in exactly one table.
        name: How messages call the page.

    Raises:
        TableError: If a marker or a key is wrong, a table is empty, or a config is in
            no table or in two.
    """
    problems: list[str] = []
    shown: dict[str, int] = {}

    def render(match: re.Match[str]) -> str:
        key = match["key"]
        lines = match["body"].splitlines()
        prose = next((line for line in lines if line and line[0] != "|"), None)
        if prose is not None:
            problems.append(f"{name}: table {key!r}: {prose!r} would be lost")
        try:
            chosen = select_rows(rows, key)
        except ValueError as error:
            problems.append(f"{name}: table {key!r}: {error}")
            return match[0]
        if not chosen:
            problems.append(f"{name}: table {key!r}: no config fits")
            return match[0]
        for row in chosen:
            shown[row.model.name] = shown.get(row.model.name, 0) + 1
        table = render_table(chosen)
        return f"<!-- table: {key} -->\n\n{table}\n<!-- /table -->"

    filled = _TABLE.sub(render, text)
    rest = _TABLE.sub("", text)
    for marker in _LOOSE_MARKER.findall(rest):
        problems.append(f"{name}: marker {marker!r} has no partner")
    for file in _LINK.findall(rest):
        problems.append(f"{name}: {file} stands in a table without markers")
    for row in rows:
        times = shown.get(row.model.name, 0)
        if times != 1:
            words = "no table" if times == 0 else f"{times} tables"
            problems.append(f"{name}: {row.model.name} is in {words}")
    if problems:
        raise TableError(problems)
    return filled


_INTRODUCTION = """\
# Model zoo

<!-- Made by dev/make_model_zoo.py from configs/*/metafile.yml: do not edit. -->

Every family on every task, one config each. Columns marked (paper) hold the numbers of
the papers and of the authors' repositories: nobody here has run these trainings. Those
marked (measured here) are of trainings with these configs. All results are in percent.
Parameters and FLOPs without a mark are counted from the configs. FLOPs: multiply-adds
of one image at the size the classifier is tested with. What a recipe follows and where
it departs from the paper is told in [recipes.md](recipes.md), the rest on the pages of
the families.
"""

_SECTIONS = {
    "Image classification on ImageNet-1k": "classification in1k",
    "RetinaNet on COCO": "retinanet coco",
    "Mask R-CNN on COCO": "mask-rcnn coco",
    "Semantic FPN on ADE20K": "fpn ade20k",
    "UperNet on ADE20K": "upernet ade20k",
    "Digit scenes, on a CPU": "digit-scenes",
}


def render_model_zoo(families: Sequence[tuple[Metafile, Sequence[Row]]]) -> str:
    """Render the page of all models.

    Args:
        families: Each family's metafile and rows, in order.

    Raises:
        TableError: If a config is in no section.
    """
    rows = [row for _, family in families for row in family]
    parts = [_INTRODUCTION, f"## Families\n\n{_render_families(families)}"]
    shown: set[str] = set()
    for title, key in _SECTIONS.items():
        chosen = select_rows(rows, key)
        if chosen:
            shown |= {row.model.name for row in chosen}
            parts.append(
                f"## {title}\n\n{render_table(chosen, config_dir='../configs')}"
            )
    missing = [row.model.name for row in rows if row.model.name not in shown]
    if missing:
        raise TableError([f"model_zoo.md: {name} is in no section" for name in missing])
    return "\n".join(parts)


def _render_families(families: Sequence[tuple[Metafile, Sequence[Row]]]) -> str:
    lines = [
        "| Family | Class | Paper | Sizes | Params | Configs | Weights |",
        "| --- " * 7 + "|",
    ]
    for metafile, rows in families:
        collection = metafile.collection
        sizes = [row for row in rows if row.name.dataset == "in1k"]
        counts = [row.model.parameters / 1e6 for row in sizes]
        cells = [
            f"[{rows[0].title}](../configs/{rows[0].folder})",
            f"`{collection.name}`",
            f"[{collection.paper_title}]({collection.paper_url})",
            str(len(sizes)),
            f"{min(counts):.1f}M to {max(counts):.1f}M" if counts else "-",
            str(len(rows)),
            str(sum(row.model.weights is not None for row in sizes) or "-"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def make_pages(config_dir: Path) -> dict[Path, str]:
    """Render all pages that hold tables of configs.

    Args:
        config_dir: The folder of configs; pages are the families' READMEs in it and
            ``docs/model_zoo.md`` beside it.

    Returns:
        The text of each page by its path.

    Raises:
        TableError: If a page's markers are not in order or it lacks a config, or a
            family has no entries.
        MetafileError: If a metafile is not in order.
        FileNotFoundError: If there is no metafile at all.
    """
    pages: dict[Path, str] = {}
    families = []
    problems: list[str] = []
    metafiles = sorted(config_dir.glob("*/metafile.yml"))
    if not metafiles:
        raise FileNotFoundError(f"no metafile.yml in the folders of {config_dir}")
    for path in metafiles:
        readme = path.parent / "README.md"
        text = readme.read_text(encoding="utf-8")
        metafile = read_metafile(path)
        rows = _make_rows(path.parent, metafile, _title_of(text, readme))
        if not rows:
            problems.append(f"{path}: Models is empty: run dev/update_metafiles.py")
            continue
        families.append((metafile, rows))
        try:
            pages[readme] = fill_readme(text, rows, str(readme))
        except TableError as error:
            problems += error.problems
    if problems:
        raise TableError(problems)
    families.sort(key=lambda family: family[1][0].title.lower())
    pages[config_dir.parent / "docs" / "model_zoo.md"] = render_model_zoo(families)
    return pages


def _title_of(text: str, path: Path) -> str:
    first = text.split("\n", 1)[0]
    if not first.startswith("# "):
        raise TableError([f"{path}: the first line should be a title, got {first!r}"])
    return first.removeprefix("# ").strip()


def find_stale_pages(pages: dict[Path, str]) -> list[str]:
    """Compare rendered pages with the files.

    Args:
        pages: As :func:`make_pages` gives them.

    Returns:
        One line for each page that is not as its metafile says, with the first line
        that differs.
    """
    lines = []
    for path, text in pages.items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if found != text:
            number, there, due = _first_difference(found, text)
            lines.append(
                f"{path}:{number}: stale, {there!r} should be {due!r}: run {COMMAND}"
            )
    return lines


def _first_difference(found: str, due: str) -> tuple[int, str, str]:
    old, new = found.splitlines(), due.splitlines()
    length = max(len(old), len(new))
    old += [""] * (length - len(old))
    new += [""] * (length - len(new))
    return next(
        (
            (number, a, b)
            for number, (a, b) in enumerate(zip(old, new, strict=True), start=1)
            if a != b
        ),
        (length, "", ""),
    )


def write_pages(pages: dict[Path, str]) -> list[Path]:
    """Write rendered pages and return those that changed.

    Args:
        pages: As :func:`make_pages` gives them.
    """
    changed = []
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed

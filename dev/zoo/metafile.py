"""The metafile of a family as typed records, in the format of model-index.

``mim search`` and ``mmpretrain.list_models`` read these files through the package
`model-index`, which knows collections, models, metadata and results. A result also says
where it comes from. Everything else that stands in a file is refused, so that no
misspelt key is lost in silence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "SOURCES",
    "Collection",
    "Metafile",
    "MetafileError",
    "Model",
    "Result",
    "format_metafile",
    "parse_metafile",
    "read_metafile",
]

SOURCES = ("paper", "measured here")
"""Where a result may come from."""


class MetafileError(ValueError):
    """A metafile that is not in order.

    Args:
        problems: One line for each fault, with file, entry and value.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Collection:
    """A family.

    Attributes:
        name: The name of its class.
        architecture: Its parts, such as ``Cycle FC``.
        paper_url: Address of the paper.
        paper_title: Title of the paper.
        readme: Path from the root of the repository.
        code_url: Address of the authors' code; where they published none, the path of
            ours from the root of the repository.
        code_version: The commit of the authors' code.
    """

    name: str
    architecture: tuple[str, ...]
    paper_url: str
    paper_title: str
    readme: str
    code_url: str
    code_version: str | None = None


@dataclass(frozen=True)
class Result:
    """What a model reaches.

    Attributes:
        task: Such as ``Object Detection``.
        dataset: Such as ``COCO``.
        source: One of :data:`SOURCES`.
        metrics: Numbers by name, in percent but for ``Minutes``.
        hardware: What a training here ran on, where it is worth telling.
    """

    task: str
    dataset: str
    source: str
    metrics: Mapping[str, float]
    hardware: str | None = None


@dataclass(frozen=True)
class Model:
    """One config.

    Attributes:
        name: Its file's name without ending.
        collection: The name of the family's collection.
        config: Path from the root of the repository.
        parameters: Number of parameters of the whole model.
        flops: Multiply-adds of one image; of ImageNet classifiers only.
        batch_size: Images a step, on all GPUs together.
        epochs: Length of the training, or None where it is counted in iterations.
        iterations: Length of the training, or None where it is counted in epochs.
        training_data: Such as ``COCO``.
        paper_parameters: As the paper prints them, such as ``24.9M``.
        paper_flops: As the paper prints them, such as ``2.1G``.
        results: What it reaches, and who says so.
        weights: Address of the authors' weights.
    """

    name: str
    collection: str
    config: str
    parameters: int
    batch_size: int
    training_data: str
    flops: int | None = None
    epochs: int | None = None
    iterations: int | None = None
    paper_parameters: str | None = None
    paper_flops: str | None = None
    results: tuple[Result, ...] = ()
    weights: str | None = None


@dataclass(frozen=True)
class Metafile:
    """A family's collection and its configs.

    Attributes:
        header: The comment at the top, lines with their ``#``.
        collection: The family.
        models: Its configs, in the order of the file.
    """

    header: str
    collection: Collection
    models: tuple[Model, ...] = field(default=())


def read_metafile(path: str | Path) -> Metafile:
    """Read a metafile.

    Args:
        path: The file.

    Raises:
        MetafileError: If it is not YAML, lacks something, or holds something unknown.
        FileNotFoundError: If it is not there.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MetafileError([f"{path}: not UTF-8: {error}"]) from error
    return parse_metafile(text, str(path))


def parse_metafile(text: str, name: str = "metafile") -> Metafile:
    """Parse the text of a metafile.

    Args:
        text: YAML with ``Collections`` and ``Models``.
        name: How messages call it.

    Raises:
        MetafileError: If it is not YAML, lacks something, or holds something unknown.
    """
    try:
        raw = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise MetafileError(
            [f"{name}: not YAML: {' '.join(str(error).split())}"]
        ) from error
    reader = _Reader(name)
    if raw is None:
        reader.report("the file", "is empty")
    top = reader.take(
        raw, "the file", {"Collections": list, "Models": list}, dict[str, type]()
    )
    collections = [reader.collection(entry) for entry in top.get("Collections", [])]
    if len(collections) != 1:
        reader.report("Collections", f"one is expected, {len(collections)} are there")
    models = [reader.model(entry) for entry in top.get("Models", [])]
    header, body = _split_header(text)
    comments = [line.strip() for line in body if line.lstrip().startswith("#")]
    if comments:
        reader.report(
            "the file", f"a comment below the first key would be lost: {comments[0]!r}"
        )
    if reader.problems:
        raise MetafileError(reader.problems)
    return Metafile(header, collections[0], tuple(models))


def _split_header(text: str) -> tuple[str, list[str]]:
    lines = text.splitlines()
    length = next(
        (i for i, line in enumerate(lines) if not line.startswith("#")), len(lines)
    )
    return "\n".join(lines[:length]), lines[length:]


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Reader:
    """Turns dictionaries into records and notes what is wrong with them."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[str] = []

    def report(self, entry: str, problem: str) -> None:
        self.problems.append(f"{self.file}: {entry}: {problem}")

    def take(
        self,
        raw: Any,
        entry: str,
        required: Mapping[str, Any],
        optional: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the known values of the right type; report the rest."""
        if raw is None:  # missing, which is reported one level above
            return {}
        if not isinstance(raw, dict):
            self.report(entry, f"keys and values are expected, got {raw!r}")
            return {}
        known = {**required, **optional}
        values = {}
        for key, value in raw.items():
            if key not in known:
                self.report(entry, f"unknown key {key!r}, known are {', '.join(known)}")
            elif isinstance(value, bool) or not isinstance(value, known[key]):
                wanted = getattr(known[key], "__name__", str(known[key]))
                self.report(entry, f"{key} should be {wanted}, got {value!r}")
            else:
                values[key] = value
        for key in required:
            if key not in raw:
                self.report(entry, f"{key} is missing")
        return values

    def collection(self, raw: Any) -> Collection:
        raw = {} if raw is None else raw  # "-" with nothing behind it
        where = f"collection {_name_of(raw)}"
        parts = {"Name": str, "Metadata": dict, "Paper": dict, "README": str}
        values = self.take(raw, where, {**parts, "Code": dict}, {})
        metadata = self.take(
            values.get("Metadata"), where, {"Architecture": list}, {"Weight": str}
        )
        paper = self.take(values.get("Paper"), where, {"URL": str, "Title": str}, {})
        code = self.take(values.get("Code"), where, {"URL": str}, {"Version": str})
        # Without it `mim download` ends in an error.
        if "Metadata" in values and metadata.get("Weight") != "":
            self.report(where, f"Weight should be '', got {metadata.get('Weight')!r}")
        for part in metadata.get("Architecture", ()):
            if not isinstance(part, str):
                self.report(where, f"Architecture should hold texts, got {part!r}")
        return Collection(
            name=values.get("Name", ""),
            architecture=tuple(metadata.get("Architecture", ())),
            paper_url=paper.get("URL", ""),
            paper_title=paper.get("Title", ""),
            readme=values.get("README", ""),
            code_url=code.get("URL", ""),
            code_version=code.get("Version"),
        )

    def model(self, raw: Any) -> Model:
        raw = {} if raw is None else raw  # "-" with nothing behind it
        where = _name_of(raw)
        parts = {"Name": str, "In Collection": str, "Config": str, "Metadata": dict}
        values = self.take(raw, where, parts, {"Results": list, "Weights": str})
        metadata = self.take(
            values.get("Metadata"),
            where,
            {"Parameters": int, "Batch Size": int, "Training Data": str},
            {
                "FLOPs": int,
                "Epochs": int,
                "Iterations": int,
                "Paper Parameters": str,
                "Paper FLOPs": str,
            },
        )
        if metadata and ("Epochs" in metadata) == ("Iterations" in metadata):
            self.report(where, "either Epochs or Iterations should be given")
        results = (self.result(entry, where) for entry in values.get("Results", ()))
        return Model(
            name=values.get("Name", ""),
            collection=values.get("In Collection", ""),
            config=values.get("Config", ""),
            parameters=metadata.get("Parameters", 0),
            batch_size=metadata.get("Batch Size", 0),
            training_data=metadata.get("Training Data", ""),
            flops=metadata.get("FLOPs"),
            epochs=metadata.get("Epochs"),
            iterations=metadata.get("Iterations"),
            paper_parameters=metadata.get("Paper Parameters"),
            paper_flops=metadata.get("Paper FLOPs"),
            results=tuple(results),
            weights=values.get("Weights"),
        )

    def result(self, raw: Any, model: str) -> Result:
        raw = {} if raw is None else raw  # "-" with nothing behind it
        where = f"{model}: Results"
        parts = {"Task": str, "Dataset": str, "Source": str, "Metrics": dict}
        values = self.take(raw, where, parts, {"Hardware": str})
        source = values.get("Source", SOURCES[0])
        if source not in SOURCES:
            self.report(where, f"Source should be one of {SOURCES}, got {source!r}")
        metrics = {}
        for name, value in values.get("Metrics", {}).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                self.report(where, f"{name} should be a number, got {value!r}")
            else:
                metrics[str(name)] = value
        if "Metrics" in values and not values["Metrics"]:
            self.report(where, "Metrics is empty")
        return Result(
            task=values.get("Task", ""),
            dataset=values.get("Dataset", ""),
            source=source,
            metrics=metrics,
            hardware=values.get("Hardware"),
        )


def _name_of(raw: Any) -> str:
    name = raw.get("Name") if isinstance(raw, dict) else None
    return name if isinstance(name, str) else "an entry without Name"


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, as the files of OpenMMLab do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def format_metafile(metafile: Metafile) -> str:
    """Return the text of a metafile, keys in a fixed order.

    Args:
        metafile: What to write; the models keep their order.
    """
    blocks = [
        _dump({"Collections": [_collection_to_dict(metafile.collection)]}),
        "Models:\n" + "\n".join(_dump_model(model) for model in metafile.models)
        if metafile.models
        else "Models: []\n",
    ]
    head = f"{metafile.header}\n" if metafile.header else ""
    return head + "\n".join(blocks)


def _dump_model(model: Model) -> str:
    return _dump({"Models": [_model_to_dict(model)]}).removeprefix("Models:\n")


def _dump(value: Any) -> str:
    return yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=float("inf"),
    )


def _collection_to_dict(collection: Collection) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "Name": collection.name,
        "Metadata": {
            "Architecture": list(collection.architecture),
            # What MIM takes a model without Weights to have: nothing to download.
            # Without it `mim download` stops before it writes the config.
            "Weight": "",
        },
        "Paper": {"URL": collection.paper_url, "Title": collection.paper_title},
        "README": collection.readme,
        "Code": _without_none(
            {"URL": collection.code_url, "Version": collection.code_version}
        ),
    }
    return entry


def _model_to_dict(model: Model) -> dict[str, Any]:
    metadata = {
        "Parameters": model.parameters,
        "FLOPs": model.flops,
        "Batch Size": model.batch_size,
        "Epochs": model.epochs,
        "Iterations": model.iterations,
        "Training Data": model.training_data,
        "Paper Parameters": model.paper_parameters,
        "Paper FLOPs": model.paper_flops,
    }
    entry: dict[str, Any] = {
        "Name": model.name,
        "In Collection": model.collection,
        "Config": model.config,
        "Metadata": _without_none(metadata),
    }
    if model.results:
        entry["Results"] = [_result_to_dict(result) for result in model.results]
    if model.weights is not None:
        entry["Weights"] = model.weights
    return entry


def _result_to_dict(result: Result) -> dict[str, Any]:
    return _without_none(
        {
            "Task": result.task,
            "Dataset": result.dataset,
            "Source": result.source,
            "Hardware": result.hardware,
            "Metrics": dict(result.metrics),
        }
    )


def _without_none(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}

"""Bring a family's metafile up to date with its configs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config

from dev.zoo.counting import count_flops, has_flops, read_facts
from dev.zoo.metafile import (
    Metafile,
    Model,
    format_metafile,
    read_metafile,
)
from dev.zoo.naming import sort_key, spell_size
from mlp_backbones.config_names import find_configs
from mlp_backbones.factory import get_family

__all__ = ["Update", "find_families", "update_metafile", "update_model_index"]


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        path: The metafile.
        added: Names of new entries.
        dropped: Names of entries whose config is gone.
        changed: Names of entries with other numbers than before.
        rewritten: Whether the text of the file changed.
    """

    path: Path
    added: tuple[str, ...]
    dropped: tuple[str, ...]
    changed: tuple[str, ...]
    rewritten: bool


def find_families(config_dir: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the folders of families, of all or of those named.

    Args:
        config_dir: The folder that holds ``_base_`` and one folder for each family.
        names: Names of folders.

    Raises:
        ValueError: If there is no such folder.
    """
    known = {path.parent.name: path.parent for path in find_configs(config_dir)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"no family {unknown[0]!r} in {config_dir}, there are "
            f"{', '.join(sorted(known))}"
        )
    return [known[name] for name in sorted(names or known)]


def update_metafile(
    folder: Path,
    *,
    recount: bool = False,
    prune: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> Update:
    """Add entries for new configs and count anew what can be counted.

    Results, paper's numbers and weights of an entry are kept. Multiply-adds are counted
    where they are missing or the number of parameters changed, as they take seconds.

    Args:
        folder: The family's folder, with its configs and its ``metafile.yml``.
        recount: Count all multiply-adds anew.
        prune: Drop entries whose config is gone.
        progress: Is told the name of each config whose multiply-adds are counted.

    Raises:
        FileNotFoundError: If there is no metafile, in which a person has to say what
            the family is.
        MetafileError: If the file is not in order.
        ValueError: If an entry has no config and ``prune`` is not given, or a config's
            name does not follow the rule, or it cannot be read or built.
    """
    path = folder / "metafile.yml"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: begin it with the family's Collections, as another "
            "family's begins, and 'Models: []'"
        )
    before = read_metafile(path)
    entries = {model.name: model for model in before.models}
    if len(entries) < len(before.models):
        names = [model.name for model in before.models]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: {double} has two entries")
    configs = sorted(folder.glob("*.py"), key=sort_key)
    dropped = sorted(set(entries) - {config.stem for config in configs})
    if dropped and not prune:
        raise ValueError(
            f"{path}: {dropped[0]} has no config: rename the entry, or drop it by "
            "--prune with what it says"
        )
    models = []
    for config in configs:
        known = entries.get(config.stem)
        models.append(_update_model(config, known, before, recount, progress))
    after = replace(before, models=tuple(models))
    text = format_metafile(after)
    rewritten = text != path.read_text(encoding="utf-8")
    if rewritten:
        path.write_text(text, encoding="utf-8")
    return Update(
        path=path,
        added=tuple(model.name for model in models if model.name not in entries),
        dropped=tuple(dropped),
        changed=tuple(
            model.name
            for model in models
            if model.name in entries and model != entries[model.name]
        ),
        rewritten=rewritten,
    )


def update_model_index(config_dir: Path) -> bool:
    """Write the model index, which imports every metafile.

    Args:
        config_dir: The folder of configs; ``model-index.yml`` lies beside it.

    Returns:
        Whether the file changed.
    """
    path = config_dir.parent / "model-index.yml"
    names = sorted(file.parent.name for file in config_dir.glob("*/metafile.yml"))
    lines = [f"  - {config_dir.name}/{name}/metafile.yml\n" for name in names]
    text = "".join(["Import:\n", *lines])
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


def _update_model(
    path: Path,
    known: Model | None,
    metafile: Metafile,
    recount: bool,
    progress: Callable[[str], None],
) -> Model:
    try:
        config = Config.fromfile(path)
        facts = read_facts(path, config)
    except Exception as error:  # a config is code: anything may be raised
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: {type(error).__name__}: {reason}") from error
    flops = known.flops if known and known.parameters == facts.parameters else None
    if not has_flops(path):
        flops = None
    elif recount or flops is None:
        progress(path.stem)
        flops = count_flops(config)
    counted = {
        "collection": metafile.collection.name,
        "config": path.relative_to(path.parents[2]).as_posix(),
        "flops": flops,
        **vars(facts),
    }
    if known is not None:
        return replace(known, **counted)
    return Model(name=path.stem, weights=_released_weights(path, config), **counted)


def _released_weights(path: Path, config: Config) -> str | None:
    """Return the address of the authors' weights, of their own network only."""
    arch = config.model.backbone.arch
    if not has_flops(path) or not isinstance(arch, str):
        return None
    released = get_family(path.parent.name).released_weights
    return {spell_size(k): v for k, v in released.items()}.get(spell_size(arch))

"""Where the files that come with this package lie."""

from pathlib import Path


def config_dir() -> Path:
    """Return this package's folder of configs, in a checkout or an installation.

    For configs in other repositories, whose ``_base_`` may call it: MMEngine's
    ``package::config`` form knows a fixed list of packages only.

    Raises:
        FileNotFoundError: If neither is there.

    Example:
        >>> sorted(path.name for path in (config_dir() / "_base_" / "models").iterdir())
        ... # doctest: +ELLIPSIS
        ['image-classifier.py', ...]
    """
    package = Path(__file__).resolve().parent
    for folder in (package / ".mim" / "configs", package.parent / "configs"):
        if (folder / "_base_").is_dir():
            return folder
    raise FileNotFoundError(f"no configs beside {package} and none inside it")

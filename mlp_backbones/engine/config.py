"""Configs as the tools use them: read, overridden, and checked before a run."""

import importlib.util
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mlp_backbones.checkpoints import CheckpointError
from mlp_backbones.config_names import TASKS
from mlp_backbones.engine.errors import UserError, one_line
from mlp_backbones.engine.overrides import check_options, parse_options
from mlp_backbones.engine.roots import follow_root_of_file, move_root
from mlp_backbones.preflight import (
    PreflightError,
    print_card,
    run_preflight,
    save_card,
)
from mlp_backbones.preflight.flight import check_config


def load_config(args: Namespace) -> Config:
    """Read the config and apply every option that train and test share.

    Raises:
        UserError: If the file is missing or faulty, an option has no place in it, or
            options do not go together.
    """
    if "LOCAL_RANK" not in os.environ:
        os.environ["LOCAL_RANK"] = str(args.local_rank)
    config = read_config(args.config, args.cfg_options)
    config.launcher = args.launcher
    if args.work_dir is not None:
        config.work_dir = args.work_dir
    elif config.get("work_dir") is None:
        config.work_dir = str(Path("work_dirs") / Path(args.config).stem)
    if args.seed is not None:
        config.setdefault("randomness", ConfigDict()).seed = args.seed
    if args.deterministic:
        config.setdefault("randomness", ConfigDict()).deterministic = True
    if args.compile and not config.get("compile"):
        config.compile = True
    if args.amp_dtype is not None:
        args.amp = True
    _set_dataloader_defaults(config)
    _set_pictures(config, args)
    return config


def read_config(file: str, options: Mapping[str, Any] | Iterable[str] = ()) -> Config:
    """Read a config file and merge options into it.

    Args:
        file: Path of the config.
        options: Settings such as ``model.backbone.arch=b2``, as text or as full keys
            with their values.

    Raises:
        UserError: If the file is missing or faulty, its scope is unknown, or an option
            has no place in it (:func:`mlp_backbones.engine.overrides.check_options`).
    """
    if not isinstance(options, Mapping):
        options = parse_options(options)
    if not Path(file).is_file():
        raise UserError(f"config file {file} does not exist")
    try:
        config = Config.fromfile(file)
    except Exception as error:
        raise UserError(f"config file {file} cannot be read: {one_line(error)}") from (
            error
        )
    config = follow_root_of_file(config)
    check_options(config, options)
    options = dict(options)
    new_root = options.pop("data_root", None)
    try:
        config.merge_from_dict(options)
    except (KeyError, TypeError) as error:
        raise UserError(f"--cfg-options: {one_line(error)}") from error
    if new_root is not None:
        config = move_root(config, str(new_root))
    scope = config.get("default_scope")
    if scope not in TASKS:
        raise UserError(
            f"default_scope of {file} is {scope!r}, allowed: {', '.join(TASKS)}"
        )
    if importlib.util.find_spec(scope) is None:
        raise UserError(f"{file} is a {TASKS[scope]} config, which needs {scope}")
    _refuse_mistakes(config, options)
    return config


def _refuse_mistakes(config: Config, options: Mapping[str, Any]) -> None:
    """Refuse what the classes behind a config do not take, naming file or option."""
    try:
        check_config(config)
    except PreflightError as error:
        for key in options:
            if error.place == key or f"{error.place}.".startswith(f"{key}."):
                message = str(error).removeprefix(f"{config.filename}: ")
                raise UserError(f"--cfg-options {key}: {message}") from error
        raise UserError(str(error), exit_code=1) from error


def _set_dataloader_defaults(config: Config) -> None:
    """Give dataloaders what mmpretrain's own tools give them and no config states."""
    import torch

    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = config.get(name)
        if loader is None:
            continue
        if not loader.get("num_workers"):
            loader.persistent_workers = False
            loader.pop("prefetch_factor", None)
        if config.default_scope == "mmpretrain":
            loader.setdefault("collate_fn", ConfigDict(type="default_collate"))
            loader.setdefault("persistent_workers", bool(loader.get("num_workers")))
            loader.setdefault("pin_memory", torch.cuda.is_available())


def _set_pictures(config: Config, args: Namespace) -> None:
    """Add the hook behind --show and --show-dir."""
    if args.show or args.show_dir is not None:
        add_hook(
            config,
            type="mlp_backbones.PredictionPicturesHook",
            out_dir=args.show_dir,
            show=args.show,
            wait_time=args.wait_time,
        )


def add_hook(config: Config, **hook: Any) -> None:
    """Append a hook to the config's own.

    Args:
        config: The config, changed in place.
        hook: The hook's ``type`` and arguments.
    """
    config.custom_hooks = [*(config.get("custom_hooks") or []), ConfigDict(hook)]


def check_data(config: Config, splits: Sequence[str]) -> Any:
    """Look through the annotations that a run will use, before anything is built.

    Of a distributed run only the first process does it.

    Returns:
        The report of :func:`mlp_backbones.datasets.checks.check_data`, or None.

    Raises:
        UserError: Naming what is wrong in which file.
    """
    from mlp_backbones.datasets import checks

    if not is_first_process():
        return None
    try:
        return checks.check_data(config, splits)
    except (ValueError, OSError) as error:
        raise UserError(one_line(error), exit_code=1) from error


def check_run(
    config: Config,
    tool: str,
    splits: Sequence[str],
    *,
    with_data: bool = True,
    checkpoint: str | None = None,
    with_card: bool = True,
) -> None:
    """Send a run through the preflight; print and keep its card.

    Of a distributed run only the first process does it.

    Args:
        config: As the run gets it.
        tool: ``train``, ``test`` or the name of another tool.
        splits: Whose data are in use.
        with_data: Whether the data are checked.
        checkpoint: Weights that must fit exactly.
        with_card: Whether the card is printed and kept in the work folder.

    Raises:
        UserError: If the run cannot be what the user wants.
    """
    if not is_first_process():
        return
    try:
        card = run_preflight(
            config,
            tool,
            splits,
            read_data=check_data if with_data else None,
            checkpoint=checkpoint,
        )
    except (PreflightError, CheckpointError) as error:
        raise UserError(one_line(error), exit_code=1) from error
    if with_card:
        print_card(card)
        save_card(card)


def is_first_process() -> bool:
    """Whether this is rank 0, before the processes know each other."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def check_checkpoint(path: str, *, whole_model: bool = True) -> None:
    """Refuse a checkpoint that is missing, unreadable, or more than plain data.

    MMEngine would run the code in a file that asks for it. Files and http(s) addresses
    are therefore read here first, with nothing but tensors and plain data admitted;
    other addresses (``open-mmlab://...``) are left to MMEngine.

    Args:
        path: File or address.
        whole_model: Refuse kinds of files that MMEngine does not load models from.

    Raises:
        UserError: Naming what is wrong with which file.
    """
    if "://" in path and not path.startswith(("http://", "https://")):
        return
    bare = Path(path).suffix in (".safetensors", ".npz")
    if whole_model and bare and Path(path).is_file():
        raise UserError(
            f"{path}: MMEngine loads whole models from files of torch.save only; give "
            "weights of a backbone as model.backbone.init_cfg.checkpoint"
        )
    from mlp_backbones.checkpoints import read_checkpoint

    try:
        read_checkpoint(path)
    except FileNotFoundError as error:
        raise UserError(one_line(error)) from error
    except (ValueError, OSError) as error:
        raise UserError(one_line(error), exit_code=1) from error

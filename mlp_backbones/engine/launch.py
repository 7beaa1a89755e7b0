"""Training and testing by config: what tools/train.py and tools/test.py do.

One pair of tools serves classification, detection and segmentation; the config's
`default_scope` decides which. The options are those of MMEngine, mmdet, mmseg and
mmpretrain under one roof.
"""

import gc
import importlib.util
import logging
import os
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import print_log

from mlp_backbones.engine.cli import UserError, add_debug_option, one_line
from mlp_backbones.engine.tta import set_test_time_augmentation

if TYPE_CHECKING:
    from mmengine.runner import Runner

TASKS = {
    "mmdet": "detection",
    "mmseg": "segmentation",
    "mmpretrain": "classification",
}

# Top-level keys a config may lack and an option may still set.
RUNNER_KEYS = frozenset(
    [
        "activation_checkpointing",
        "auto_scale_lr",
        "compile",
        "custom_hooks",
        "custom_imports",
        "data_preprocessor",
        "default_hooks",
        "default_scope",
        "efficient_conv_bn_eval",
        "env_cfg",
        "experiment_name",
        "find_unused_parameters",
        "launcher",
        "load_from",
        "log_level",
        "log_processor",
        "model",
        "model_wrapper_cfg",
        "optim_wrapper",
        "param_scheduler",
        "randomness",
        "resume",
        "runner_type",
        "sync_bn",
        "test_cfg",
        "test_dataloader",
        "test_evaluator",
        "train_cfg",
        "train_dataloader",
        "tta_model",
        "tta_pipeline",
        "val_cfg",
        "val_dataloader",
        "val_evaluator",
        "visualizer",
        "work_dir",
    ]
)


def add_common_options(parser: ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument("--work-dir", help="folder for logs and checkpoints")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="settings that override the config, e.g. train_dataloader.batch_size=4; "
        "data_root=DIR moves every path below the data_root of the config; "
        'a list as key="[a,b]" or key=a,b, a nested one as key="[(a,b),(c,d)]", '
        "quoted and without spaces; an element of a list as key.0.name=value",
    )
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision")
    parser.add_argument(
        "--amp-dtype",
        choices=("float16", "bfloat16"),
        help="number format of --amp, which it implies "
        "(default: float16 on a GPU, bfloat16 on a CPU)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the step with torch.compile"
    )
    parser.add_argument("--seed", type=int, help="seed of all random numbers")
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="use deterministic algorithms, which may be slower",
    )
    parser.add_argument(
        "--no-check-data",
        action="store_true",
        help="do not look through the annotations before the start",
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch", "slurm", "mpi"),
        default="none",
        help="how the processes of a distributed run were started",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    add_debug_option(parser)


def add_picture_options(parser: ArgumentParser) -> None:
    """Add the options that show predictions."""
    parser.add_argument(
        "--show", action="store_true", help="show predictions in a window"
    )
    parser.add_argument(
        "--show-dir",
        help="folder for pictures of predictions beside the ground truth",
    )
    parser.add_argument(
        "--wait-time",
        type=float,
        default=2.0,
        help="seconds that --show shows each picture",
    )


def train_parser() -> ArgumentParser:
    """Make the parser of tools/train.py."""
    parser = ArgumentParser(
        description="Train a classifier, detector or segmentor; the config decides."
    )
    parser.add_argument("config", help="config file")
    add_common_options(parser)
    add_picture_options(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help='continue from this checkpoint, or without a value (or with "auto") '
        "from the latest one in the work folder",
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate to the batch size, from the config's "
        "auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        "--no-validate", action="store_true", help="do not evaluate while training"
    )
    return parser


def test_parser() -> ArgumentParser:
    """Make the parser of tools/test.py."""
    parser = ArgumentParser(
        description="Test a classifier, detector or segmentor; the config decides."
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    add_common_options(parser)
    add_picture_options(parser)
    parser.add_argument("--out", help="file for the predictions (.pkl or .pickle)")
    parser.add_argument(
        "--overwrite", action="store_true", help="let --out replace a file"
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: the config's tta_model and tta_pipeline, "
        "otherwise the task's own with a horizontal flip",
    )
    return parser


# --------------------------------------------------------------------- the config


def load_config(args: Namespace) -> Config:
    """Read the config and apply every option that train and test share.

    Raises:
        UserError: on a missing or faulty file, an option whose key the config does
            not have, or options that do not go together.
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


def read_config(file: str, options: dict | None = None) -> Config:
    """Read a config file and merge `key=value` options into it.

    Args:
        file: path of the config.
        options: full key (`model.backbone.arch`) to value.

    Raises:
        UserError: on a missing or faulty file, an unknown scope, or an option whose
            first key neither the config nor the runner knows, or whose path leads
            through something that is no dict or list.
    """
    if not Path(file).is_file():
        raise UserError(f"config file {file} does not exist")
    try:
        config = Config.fromfile(file)
    except Exception as error:
        raise UserError(f"config file {file} cannot be read: {one_line(error)}") from (
            error
        )
    for key in options or {}:
        _check_option(config, key)
    old_root = config.get("data_root")
    try:
        config.merge_from_dict(options or {})
    except (KeyError, TypeError) as error:
        raise UserError(f"--cfg-options: {one_line(error)}") from error
    if "data_root" in (options or {}):
        config = _move_data_root(config, str(old_root), str(config.data_root))
    scope = config.get("default_scope")
    if scope not in TASKS:
        raise UserError(
            f"default_scope of {file} is {scope!r}, allowed: {', '.join(TASKS)}"
        )
    if importlib.util.find_spec(scope) is None:
        raise UserError(f"{file} is a {TASKS[scope]} config, which needs {scope}")
    return config


def parse_options(options: list[str]) -> dict:
    """Turn `key=value` arguments into full keys and values.

    Raises:
        UserError: on an argument without `=`.
    """
    for option in options:
        if "=" not in option:
            raise UserError(f"--cfg-options takes KEY=VALUE, got {option!r}")
    parser = ArgumentParser()
    parser.add_argument("--cfg-options", nargs="*", action=DictAction, default={})
    return parser.parse_args(["--cfg-options", *options]).cfg_options or {}


def _check_option(config: Config, key: str) -> None:
    """Refuse a key whose path the config does not have.

    The last name may be new, since an argument that is left to its default does not
    stand in a config; a misspelt one is refused by the class that gets it.
    """
    names = key.split(".")
    if names[0] in config and names[0] not in RUNNER_KEYS | {"data_root"}:
        raise UserError(
            f"--cfg-options {key}: {names[0]!r} is a variable of the config file, "
            "already used there; set the place where its value went"
        )
    node: Any = config
    for depth, name in enumerate(names):
        path = ".".join(names[:depth]) or "the config"
        if isinstance(node, (list, tuple)):
            if not name.isdigit() or int(name) >= len(node):
                raise UserError(
                    f"--cfg-options {key}: {path} is a list of {len(node)}, "
                    f"{name!r} is no index of it"
                )
            node = node[int(name)]
        elif isinstance(node, (dict, Config)):
            if name not in node:
                last = depth == len(names) - 1
                if (depth == 0 and name not in RUNNER_KEYS) or (depth and not last):
                    known = ", ".join(sorted(map(str, node.keys())))
                    raise UserError(
                        f"--cfg-options {key}: {path} has no {name!r}; it has {known}"
                    )
                return
            node = node[name]
        elif node is None:
            return
        else:
            raise UserError(
                f"--cfg-options {key}: {path} is {node!r} and has no {name!r}"
            )


def _move_data_root(config: Config, old: str, new: str) -> Config:
    """Let `data_root=...` reach every path that the config file made with it.

    Without this only the variable would change, which nothing reads any more.
    """
    old, new = old.rstrip("/"), new.rstrip("/")

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return type(node)({key: moved(value) for key, value in node.items()})
        if isinstance(node, (list, tuple)):
            return type(node)(moved(value) for value in node)
        if isinstance(node, str) and (node == old or node.startswith(f"{old}/")):
            return new + node[len(old) :]
        return node

    return Config(moved(config.to_dict()), filename=config.filename)


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
        _add_hook(
            config,
            type="mlp_backbones.PredictionPicturesHook",
            out_dir=args.show_dir,
            show=args.show,
            wait_time=args.wait_time,
        )


def _add_hook(config: Config, **hook: Any) -> None:
    config.custom_hooks = [*(config.get("custom_hooks") or []), ConfigDict(hook)]


def check_data(config: Config, splits: tuple[str, ...]) -> None:
    """Look through the annotations that a run will use, before anything is built.

    Of a distributed run only the first process does it.

    Raises:
        UserError: with what is wrong in which file.
    """
    from mlp_backbones.datasets import checks

    if not _is_first_process():
        return
    try:
        checks.check_data(config, splits)
    except (ValueError, OSError) as error:
        raise UserError(one_line(error), exit_code=1) from error


def _is_first_process() -> bool:
    """Whether this is rank 0, before the processes know each other."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def check_checkpoint(path: str, *, whole_model: bool = True) -> None:
    """Refuse a checkpoint that is missing, unreadable, or more than plain data.

    MMEngine would run the code in a file that asks for it. Files and http(s) addresses
    are therefore read here first, with nothing but tensors and plain data admitted;
    other addresses (`open-mmlab://...`) are left to MMEngine.

    Args:
        path: file or address.
        whole_model: refuse kinds of files that MMEngine does not load models from.

    Raises:
        UserError: with what is wrong with which file.
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


# ------------------------------------------------------------------------ running


def train(args: Namespace) -> None:
    """Train as the command line says.

    Args:
        args: what `train_parser` has parsed.

    Raises:
        UserError: on whatever can be seen to be wrong before the training.
    """
    config = prepare_training(args)
    build_runner(config).train()
    _end_process_group()


def prepare_training(args: Namespace) -> Config:
    """Make the config that a training runs with; its work folder is made ready.

    Raises:
        UserError: on whatever can be seen to be wrong before the training.
    """
    config = load_config(args)
    for name in ("train_dataloader", "train_cfg", "optim_wrapper"):
        if config.get(name) is None:
            raise UserError(f"{args.config} has no {name} and cannot be trained")
    if args.no_validate:
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
    if args.amp:
        _set_training_precision(config, args.amp_dtype)
    if args.auto_scale_lr:
        if "base_batch_size" not in (config.get("auto_scale_lr") or {}):
            raise UserError(
                f"--auto-scale-lr needs auto_scale_lr.base_batch_size in {args.config}"
            )
        config.auto_scale_lr.enable = True
    if args.resume is not None:
        config.resume = True
        config.load_from = None if args.resume == "auto" else args.resume
    if config.get("load_from") is not None:
        check_checkpoint(config.load_from)
    hooks = config.get("custom_hooks") or []
    if not any("CheckLossHook" in str(hook) for hook in hooks):
        _add_hook(config, type="mlp_backbones.CheckLossHook")
    if not args.no_check_data:
        splits = (
            ("train",) if config.get("val_dataloader") is None else ("train", "val")
        )
        check_data(config, splits)
    if not config.get("resume"):
        keep_earlier_checkpoints(Path(config.work_dir), config.get("load_from"))
    return config


def _set_training_precision(config: Config, dtype: str | None) -> None:
    """Exchange the optimizer wrapper for one with mixed precision."""
    from mmengine.device import get_device

    device = get_device()
    if dtype is None:
        dtype = "bfloat16" if device == "cpu" else "float16"
    if dtype == "float16" and device == "cpu":
        raise UserError("--amp-dtype float16 needs a GPU; a CPU can do bfloat16")
    wrapper = config.optim_wrapper
    known = ("OptimWrapper", "AmpOptimWrapper", "mlp_backbones.AutocastOptimWrapper")
    kind = wrapper.get("type", "OptimWrapper")
    if kind not in known:
        raise UserError(
            f"--amp cannot replace the optimizer wrapper {kind!r}, only {known[0]}"
        )
    if dtype == "bfloat16":
        wrapper.type = known[2]
        for name in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(name, None)
    else:
        wrapper.type = known[1]
        wrapper.setdefault("loss_scale", "dynamic")
        wrapper.dtype = dtype


def keep_earlier_checkpoints(work_dir: Path, load_from: str | None) -> None:
    """Move the checkpoints of an earlier run out of the way of a new one.

    MMEngine writes each run's log into a folder of its own but all checkpoints into
    the work folder, where a second run would replace those of the first.

    Args:
        work_dir: the work folder.
        load_from: checkpoint that the new run starts from.

    Raises:
        UserError: when the new run starts from a checkpoint that it would replace.
    """
    files = [*work_dir.glob("*.pth"), *work_dir.glob("last_checkpoint")]
    if not files or not _is_first_process():
        return
    if load_from is not None and Path(load_from).resolve() in [
        file.resolve() for file in files
    ]:
        raise UserError(
            f"load_from {load_from} lies in the work folder, where the new run writes; "
            "choose another --work-dir, or --resume to continue the earlier run"
        )
    stamp = time.strftime(
        "%Y%m%d_%H%M%S", time.localtime(max(file.stat().st_mtime for file in files))
    )
    target = work_dir / "earlier_runs" / stamp
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        file.rename(target / file.name)
    print_log(f"{len(files)} files of an earlier run were moved to {target}")


def test(args: Namespace) -> dict[str, float]:
    """Test as the command line says.

    Args:
        args: what `test_parser` has parsed.

    Returns:
        The metrics by name.

    Raises:
        UserError: on whatever can be seen to be wrong before the test.
    """
    config = prepare_test(args)
    if args.out is not None:
        _check_output(Path(args.out), args.overwrite)
    runner = build_runner(config)
    if args.out is not None:
        from mmengine.registry import METRICS

        kind = (
            "mmdet.DumpDetResults"
            if config.default_scope == "mmdet"
            else ("DumpResults")
        )
        runner.test_evaluator.metrics.append(
            METRICS.build({"type": kind, "out_file_path": args.out})
        )
    if config.get("compile"):
        import torch

        options = {} if config.compile is True else dict(config.compile)
        runner.model.test_step = torch.compile(runner.model.test_step, **options)
    metrics = runner.test()
    del runner
    _end_process_group()
    return metrics


def prepare_test(args: Namespace) -> Config:
    """Make the config that a test runs with.

    Raises:
        UserError: on whatever can be seen to be wrong before the test.
    """
    config = load_config(args)
    for name in ("test_dataloader", "test_cfg", "test_evaluator"):
        if config.get(name) is None:
            raise UserError(f"{args.config} has no {name} and cannot be tested")
    check_checkpoint(args.checkpoint)
    if args.amp:
        _set_test_precision(config, args.amp_dtype)
    if not args.no_check_data:
        check_data(config, ("test",))
    if args.tta:
        set_test_time_augmentation(config)
    config.resume = False
    config.load_from = None
    _add_hook(config, type="mlp_backbones.StrictLoadHook", checkpoint=args.checkpoint)
    return config


def _set_test_precision(config: Config, dtype: str | None) -> None:
    """Let the test loop run under autocast; it has no number format of its own."""
    import torch
    from mmengine.device import get_device

    device = get_device()
    if device == "cpu" and dtype == "float16":
        raise UserError("--amp-dtype float16 needs a GPU; a CPU can do bfloat16")
    config.test_cfg.fp16 = True
    if device == "cuda" and dtype is not None:
        torch.set_autocast_dtype("cuda", getattr(torch, dtype))


def _check_output(file: Path, overwrite: bool) -> None:
    if file.suffix not in (".pkl", ".pickle"):
        raise UserError(f"--out must end in .pkl or .pickle, got {file}")
    if file.exists() and not overwrite:
        raise UserError(f"--out {file} exists; --overwrite replaces it")
    if not file.absolute().parent.is_dir():
        raise UserError(f"--out {file}: its folder does not exist")


def build_runner(config: Config) -> "Runner":
    """Build the runner, of the kind that `runner_type` names where it does."""
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    if config.default_scope == "mmdet":
        from mmdet.utils import setup_cache_size_limit_of_dynamo

        setup_cache_size_limit_of_dynamo()
    if config.get("launcher", "none") != "none":
        _distribute_on_cpu(config)
    if "runner_type" in config:
        return RUNNERS.build(config)
    return Runner.from_cfg(config)


def _distribute_on_cpu(config: Config) -> None:
    """Let several processes work together where there is no accelerator.

    MMEngine's start of the process group and its model wrapper both take a GPU for
    granted. With one, nothing is done here.
    """
    import torch
    from mmengine.device import get_device

    if get_device() != "cpu":
        return
    if config.launcher != "pytorch":
        raise UserError(
            f"--launcher {config.launcher} needs a GPU; without one use pytorch"
        )
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    if config.get("model_wrapper_cfg") is None:
        config.model_wrapper_cfg = ConfigDict(
            type="MMDistributedDataParallel",
            broadcast_buffers=False,
            find_unused_parameters=config.get("find_unused_parameters", False),
        )
    config.model_wrapper_cfg.device_ids = None


def _end_process_group() -> None:
    """Leave the process group, if there is one, once the work is done.

    A process may be aborted if the threads of its group still run when it exits. They
    run as long as anything holds the group: a wrapped model does, and the runner
    around it is freed by the garbage collector only, as it refers to itself. After an
    error the group is left alone: the other processes may wait in a collective call,
    and this one would wait with them.
    """
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()


def current_log_dir() -> Path | None:
    """Folder of this process's log, where what belongs to the run can be kept."""
    from mmengine.logging import MMLogger

    if not MMLogger._instance_dict:
        return None
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            return Path(handler.baseFilename).parent
    return None

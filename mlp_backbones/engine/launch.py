"""Training and testing by config: what tools/train.py and tools/test.py do.

One pair of tools serves classification, detection and segmentation; the config's
``default_scope`` decides which.
"""

import gc
import logging
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mlp_backbones.datasets.transforms import guard_pipelines
from mlp_backbones.engine.config import (
    add_hook,
    check_checkpoint,
    check_run,
    is_first_process,
    load_config,
)
from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.runs.lock import lock_work_dir
from mlp_backbones.engine.runs.prepare import make_resumable, run_training
from mlp_backbones.engine.runs.resume import resolve_resume
from mlp_backbones.engine.tta import set_test_time_augmentation
from mlp_backbones.engine.vis import add_vis_backends

if TYPE_CHECKING:
    from mmengine.runner import Runner


def train(args: Namespace) -> None:
    """Train as the command line says.

    Args:
        args: What ``train_parser`` has parsed.

    Raises:
        UserError: If anything is wrong that can be seen before the training.
    """
    config = prepare_training(args)
    if args.dry_run:
        return
    code = run_training(lambda: build_runner(config).train(), config.work_dir)
    _end_process_group()
    if code:
        raise SystemExit(code)


def prepare_training(args: Namespace) -> Config:
    """Make the config that a training runs with; its work folder is made ready.

    Raises:
        UserError: If anything is wrong that can be seen before the training.
    """
    config = load_config(args)
    for name in ("train_dataloader", "train_cfg", "optim_wrapper"):
        if config.get(name) is None:
            raise UserError(f"{args.config} has no {name} and cannot be trained")
    if args.no_validate:
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
    if args.amp:
        _set_training_precision(config, args.amp_dtype)
        add_hook(config, type="mlp_backbones.FloatHeadOutputsHook")
    if args.auto_scale_lr:
        if "base_batch_size" not in (config.get("auto_scale_lr") or {}):
            raise UserError(
                f"--auto-scale-lr needs auto_scale_lr.base_batch_size in {args.config}"
            )
        config.auto_scale_lr.enable = True
    start = config.get("load_from")
    if args.resume is not None:
        config.resume = True
        config.load_from = None if args.resume == "auto" else args.resume
    make_resumable(config)
    acts = is_first_process() and not args.dry_run
    if acts and Path(config.work_dir).is_dir():
        lock_work_dir(Path(config.work_dir))
    resolve_resume(config, start=start, first_process=acts)
    if config.get("load_from") is not None:
        check_checkpoint(config.load_from)
    hooks = config.get("custom_hooks") or []
    for kind in ("FiniteGuardHook", "PlainCheckpointHook"):
        if not any(kind in str(hook) for hook in hooks):
            add_hook(config, type=f"mlp_backbones.{kind}")
    _explain_metrics(config)
    add_vis_backends(config, args.vis)
    splits = ("train",) if config.get("val_dataloader") is None else ("train", "val")
    check_run(config, "train", splits, with_data=not args.no_check_data)
    if not args.no_check_data:
        guard_pipelines(config, splits)
    _count_accumulation(config)
    if acts:
        lock_work_dir(Path(config.work_dir))
    if not config.get("resume") and not args.dry_run:
        keep_earlier_checkpoints(Path(config.work_dir), config)
    return config


def _count_accumulation(config: Config) -> None:
    """Let the scaling of the learning rate count the batches of a step.

    MMEngine scales by processes times batch size over ``base_batch_size``; a step over
    several batches takes as many times that number of images.
    """
    scaling = config.get("auto_scale_lr") or {}
    number = config.optim_wrapper.get("accumulative_counts", 1)
    if scaling.get("enable") and number > 1:
        scaling["base_batch_size"] = scaling["base_batch_size"] / number


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


def keep_earlier_checkpoints(work_dir: Path, config: Config) -> None:
    """Move the checkpoints of an earlier run out of the way of a new one.

    MMEngine writes each run's log into a folder of its own but all checkpoints into
    the work folder, where a second run would replace those of the first.

    Args:
        work_dir: The work folder.
        config: Of the new run.

    Raises:
        UserError: If the new run reads a checkpoint that it would replace.
    """
    files = [*work_dir.glob("*.pth"), *work_dir.glob("last_checkpoint")]
    if not files or not is_first_process():
        return
    places = {file.resolve() for file in files}
    for key, path in _paths_in(config.to_dict()):
        if Path(path).expanduser().resolve() in places:
            raise UserError(
                f"{key} {path} lies in the work folder, where the new run writes; "
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


def _paths_in(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a config that may be a checkpoint, with its key."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _paths_in(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _paths_in(value, f"{key}.{index}")
    elif isinstance(node, str) and node.endswith(".pth"):
        yield key, node


def test(args: Namespace) -> dict[str, float]:
    """Test as the command line says.

    Args:
        args: What ``test_parser`` has parsed.

    Returns:
        The metrics by name.

    Raises:
        UserError: If anything is wrong that can be seen before the test.
    """
    if args.out is not None:
        _check_output(Path(args.out), args.overwrite)
    config = prepare_test(args)
    if args.dry_run:
        return {}
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
        UserError: If anything is wrong that can be seen before the test.
    """
    config = load_config(args)
    for name in ("test_dataloader", "test_cfg", "test_evaluator"):
        if config.get(name) is None:
            raise UserError(f"{args.config} has no {name} and cannot be tested")
    check_checkpoint(args.checkpoint)
    if args.amp:
        _set_test_precision(config, args.amp_dtype)
        add_hook(config, type="mlp_backbones.FloatHeadOutputsHook")
    check_run(
        config,
        "test",
        ("test",),
        with_data=not args.no_check_data,
        checkpoint=args.checkpoint,
    )
    if args.tta:
        set_test_time_augmentation(config)
    if not args.no_check_data:
        guard_pipelines(config, ("test",))
    config.resume = False
    config.load_from = None
    add_hook(config, type="mlp_backbones.StrictLoadHook", checkpoint=args.checkpoint)
    _explain_metrics(config)
    return config


def _explain_metrics(config: Config) -> None:
    """Add the hook that gives a detector's evaluation all its metrics."""
    hooks = config.get("custom_hooks") or []
    known = any("ExplainMetricsHook" in str(hook) for hook in hooks)
    if config.default_scope == "mmdet" and not known:
        add_hook(config, type="mlp_backbones.ExplainMetricsHook")


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
    """Build the runner, of the kind that ``runner_type`` names where it does."""
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

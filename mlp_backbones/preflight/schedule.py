"""Loops, intervals, schedulers and the metric of the best checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlp_backbones.preflight.keys import Mistake, nearest

# Values that must be at least 1, by the dict that holds them.
_POSITIVE = {
    ("train_cfg",): ("max_epochs", "max_iters", "val_interval"),
    ("train_dataloader",): ("batch_size",),
    ("val_dataloader",): ("batch_size",),
    ("test_dataloader",): ("batch_size",),
    ("optim_wrapper",): ("accumulative_counts",),
    ("auto_scale_lr",): ("base_batch_size",),
    ("default_hooks", "logger"): ("interval",),
}


def find_schedule_mistakes(content: Mapping[str, Any]) -> list[Mistake]:
    """Find loops that do nothing, periods that end before they begin, and the like.

    Args:
        content: A whole config as plain dicts.
    """
    return [
        *_numbers(content),
        *_checkpoints(content),
        *_schedulers(content),
        *_best_metrics(content),
    ]


def length_of(content: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return unit and number of a training's length; None if nothing says.

    Args:
        content: A config.
    """
    loop = content.get("train_cfg") or {}
    for unit in ("epochs", "iters"):
        number = loop.get(f"max_{unit}")
        if isinstance(number, int) and not isinstance(number, bool):
            return unit, number
    return None


def _numbers(content: Mapping[str, Any]) -> Iterator[Mistake]:
    for path, names in _POSITIVE.items():
        node: Any = content
        for name in path:
            node = (node or {}).get(name)
        if not isinstance(node, Mapping):
            continue
        for name in names:
            value = node.get(name)
            if name not in node or value is None:
                continue
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or value < 1 or value != int(value):
                place = (*path, name)
                yield Mistake(
                    place,
                    f"{'.'.join(place)} must be a whole number of at least 1, got "
                    f"{value!r}",
                )
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        workers = (content.get(name) or {}).get("num_workers")
        if isinstance(workers, int) and workers < 0:
            yield Mistake(
                (name, "num_workers"),
                f"{name}.num_workers must be at least 0, got {workers}",
            )
    begin = (content.get("train_cfg") or {}).get("val_begin")
    length = length_of(content)
    if length and isinstance(begin, int) and begin > length[1]:
        yield Mistake(
            ("train_cfg", "val_begin"),
            f"train_cfg.val_begin={begin} lies behind the last of {length[1]} "
            f"{length[0]}: nothing is ever validated",
            False,
        )


def _checkpoints(content: Mapping[str, Any]) -> Iterator[Mistake]:
    for path, hook in _hooks(content):
        if not str(hook.get("type", "")).endswith("CheckpointHook"):
            continue
        interval = hook.get("interval", -1)
        if isinstance(interval, int) and (interval == 0 or interval < -1):
            yield Mistake(
                (*path, "interval"),
                f"{'.'.join(path)}.interval must be at least 1, or -1 for no "
                f"checkpoints, got {interval}",
            )
        length = length_of(content)
        by_epoch = hook.get("by_epoch", True)
        if length and interval != -1 and by_epoch and length[0] == "iters":
            yield Mistake(
                (*path, "by_epoch"),
                f"{'.'.join(path)} counts epochs, the loop iterations: the only "
                f"checkpoint is the last; add by_epoch=False",
                False,
            )


def _hooks(
    content: Mapping[str, Any],
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    for name, hook in (content.get("default_hooks") or {}).items():
        if isinstance(hook, Mapping):
            yield ("default_hooks", name), hook
    for index, hook in enumerate(content.get("custom_hooks") or []):
        if isinstance(hook, Mapping):
            yield ("custom_hooks", str(index)), hook


def _schedulers(content: Mapping[str, Any]) -> Iterator[Mistake]:
    schedulers = content.get("param_scheduler") or []
    is_list = isinstance(schedulers, Sequence)
    length = length_of(content)
    for index, one in enumerate(schedulers if is_list else [schedulers]):
        if not isinstance(one, Mapping) or "type" not in one:
            continue
        path = ("param_scheduler", str(index)) if is_list else ("param_scheduler",)
        place = ".".join(path)
        begin, end = one.get("begin", 0), one.get("end")
        if not isinstance(begin, int):
            continue
        if isinstance(end, int) and end <= begin:
            yield Mistake(
                (*path, "end"),
                f"{place} ({one['type']}) ends at {end}, before it begins at {begin}",
            )
        unit = "epochs" if one.get("by_epoch", True) else "iters"
        if length is not None and length[0] == unit and begin >= length[1]:
            yield Mistake(
                (*path, "begin"),
                f"{place} ({one['type']}) begins at {begin}, the training ends after "
                f"{length[1]} {unit}: it does nothing",
                False,
            )


def _best_metrics(content: Mapping[str, Any]) -> Iterator[Mistake]:
    """Refuse a best checkpoint, or an early stop, by a metric that nobody computes."""
    made = metrics_of(content.get("val_evaluator"), content)
    for path, hook in _hooks(content):
        kind = str(hook.get("type", ""))
        key = "save_best" if kind.endswith("CheckpointHook") else "monitor"
        if key == "monitor" and not kind.endswith("EarlyStoppingHook"):
            continue
        wanted = hook.get(key)
        names = [wanted] if isinstance(wanted, str) else wanted or []
        if not names:
            continue
        place = f"{'.'.join(path)}.{key}"
        if content.get("val_evaluator") is None:
            yield Mistake(
                (*path, key),
                f"{place}={wanted!r} has no effect: nothing is validated",
                False,
            )
            continue
        for name in names if made is not None else ():
            if name != "auto" and made is not None and name not in made:
                near = nearest(name, made)
                advice = (
                    f"did you mean {near!r}?"
                    if near
                    else f"it computes {', '.join(sorted(made))}"
                )
                yield Mistake(
                    (*path, key),
                    f"{place}: val_evaluator computes no {name!r}; {advice}",
                )


def metrics_of(evaluator: Any, content: Mapping[str, Any]) -> set[str] | None:
    """Name the metrics that an evaluator computes; None if that is not certain.

    Args:
        evaluator: Config of a metric, or of several.
        content: The whole config.
    """
    if isinstance(evaluator, Mapping) and isinstance(evaluator.get("metrics"), list):
        evaluator = evaluator["metrics"]
    if not isinstance(evaluator, Sequence):
        evaluator = [evaluator] if isinstance(evaluator, Mapping) else []
    names: set[str] = set()
    for metric in evaluator:
        makers = {
            "Accuracy": _accuracy,
            "CocoMetric": _coco,
            "IoUMetric": _iou,
        }
        kind = str(metric.get("type", "")).rpartition(".")[2]
        made = makers[kind](metric) if kind in makers else None
        if made is None:
            return None
        names |= made
    return names or None


def _coco(metric: Mapping[str, Any]) -> set[str] | None:
    kinds = metric.get("metric", "bbox")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if metric.get("classwise") or not set(kinds) <= {"bbox", "segm"}:
        return None
    items = metric.get("metric_items") or [
        *("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    ]
    prefix = metric.get("prefix") or "coco"
    return {f"{prefix}/{kind}_{item}" for kind in kinds for item in items}


def _iou(metric: Mapping[str, Any]) -> set[str] | None:
    kinds = metric.get("iou_metrics", ["mIoU"])
    names = {"aAcc"}
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        more = {
            "mIoU": {"mIoU", "mAcc"},
            "mDice": {"mDice", "mAcc"},
            "mFscore": {"mFscore", "mPrecision", "mRecall"},
        }.get(kind)
        if more is None:
            return None
        names |= more
    prefix = metric.get("prefix")
    return {f"{prefix}/{name}" for name in names} if prefix else names


def _accuracy(metric: Mapping[str, Any]) -> set[str] | None:
    topk = metric.get("topk", (1,))
    topk = [topk] if isinstance(topk, int) else list(topk)
    thrs = metric.get("thrs", 0.0)
    if isinstance(thrs, (list, tuple)) and len(thrs) > 1:
        return None
    prefix = metric.get("prefix") or "accuracy"
    return {f"{prefix}/top{number}" for number in topk}

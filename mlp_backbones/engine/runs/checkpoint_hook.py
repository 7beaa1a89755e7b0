"""MMEngine's checkpoint hook, with which no checkpoint is ever lost or half written."""

import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu
from mmengine.utils import apply_to
from torch import Tensor

from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.runs import accumulation, files
from mlp_backbones.engine.runs.lock import lock_work_dir
from mlp_backbones.engine.runs.resume import resolve_resume
from mlp_backbones.registry import HOOKS

_UNWRITABLE = "choose a --work-dir that can be written"
# What is to be done about an error of a disk, by its number.
DISK_FAULTS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit of the size of a file (ulimit -f)",
    errno.EROFS: _UNWRITABLE,
    errno.EACCES: _UNWRITABLE,
    errno.EPERM: _UNWRITABLE,
}
INTERRUPTED = "interrupted_iter_{}.pth"


@HOOKS.register_module()
class SafeCheckpointHook(MMEngineCheckpointHook):
    """MMEngine's ``CheckpointHook``, safe against a kill or a full disk at any instant.

    A file is written under another name, brought to the disk, compared with its
    checksums, and then put in place in one step; the pointer ``last_checkpoint``
    likewise; only then are older files deleted. All settings mean what they mean to
    MMEngine's hook. Storage that is not a local disk is left to MMEngine's backends.

    Raises:
        UserError: If a checkpoint cannot be saved, naming file and reason.
    """

    file_backend: Any
    best_ckpt_path: str | None
    _gradients: list[dict[str, Tensor]] | None = None  # to be restored
    _meta: dict[str, int] | None = None  # of the checkpoint that is being saved
    saved: Path | None = None  # the latest that can be resumed
    saved_iter = -1

    def before_run(self, runner: Any) -> None:
        """Do for other tools what ours does before anything is built.

        No second run may use the work folder, and a run that resumes by itself takes
        the newest good checkpoint.
        """
        if runner._train_loop is None or isinstance(runner._train_loop, dict):
            return  # a test or a validation
        if is_main_process():
            lock_work_dir(Path(runner.work_dir))
        if runner._resume is True and runner._load_from is None:
            found = Config(
                {
                    "work_dir": runner.work_dir,
                    "resume": True,
                    "default_hooks": {"checkpoint": {"out_dir": self.out_dir}},
                }
            )
            resolve_resume(found, first_process=is_main_process())
            runner._resume, runner._load_from = found.resume, found.get("load_from")

    def before_train(self, runner: Any) -> None:
        """Look where to save; forget what a killed run has left unfinished."""
        super().before_train(runner)
        self._save_in_own_folder(runner)
        self._local = isinstance(self.file_backend, LocalBackend)
        if self._local and is_main_process():
            for file in Path(self.out_dir).glob(".*.pth.unfinished"):
                _delete(file)
            with _saving(files.SEED, runner.work_dir):
                seed = str(runner.seed)
                files.save_text(Path(runner.work_dir) / files.SEED, seed)
        if runner._resume and runner._load_from is not None and runner.iter > 0:
            self.saved, self.saved_iter = Path(runner._load_from), runner.iter
        if self._gradients is not None:
            accumulation.restore(runner, self._gradients)
            self._gradients = None

    def _save_in_own_folder(self, runner: Any) -> None:
        """Let the best checkpoints of a folder that was moved be those it holds."""

        def moved(path: str | None) -> str | None:
            return path and self.file_backend.join_path(self.out_dir, Path(path).name)

        if self.save_best is None:
            return
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = moved(self.best_ckpt_path)
            if self.best_ckpt_path is not None:
                runner.message_hub.update_info("best_ckpt", self.best_ckpt_path)
        else:
            for key, path in self.best_ckpt_path_dict.items():
                self.best_ckpt_path_dict[key] = moved(path)
                if path is not None:
                    runner.message_hub.update_info(f"best_ckpt_{key}", moved(path))

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Correct what is done; FlexibleRunner counts without regard to ``meta``."""
        if self._meta is not None:
            checkpoint["meta"].update(self._meta)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep the gradients that wait for an optimizer's step."""
        if runner._resume:
            self._gradients = checkpoint.get(accumulation.KEY)

    def save_interrupted(self, runner: Any, meta: dict[str, int]) -> Path:
        """Save a run that is to stop; the next regular checkpoint deletes this one.

        Args:
            runner: The runner.
            meta: Epochs (``epoch``) and iterations (``iter``) done.

        Returns:
            The file.
        """
        name = INTERRUPTED.format(meta["iter"])
        self._save(runner, name, meta, optimizer=True)
        if is_main_process():
            self._point_to(runner, self.file_backend.join_path(self.out_dir, name))
            for old in self._interrupted():
                if old != name:
                    self._remove(self.file_backend.join_path(self.out_dir, old))
        return Path(self.out_dir) / name

    def _save_checkpoint_with_step(
        self, runner: Any, step: int, meta: dict[str, int]
    ) -> None:
        """Save, then let the pointer follow, then delete what is one too many."""
        if isinstance(runner, _SaveSafely):
            runner = runner.runner
        outdated: list[str] = []
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids[0]))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        self._save(runner, name, meta, optimizer=self.save_optimizer)
        if not is_main_process():
            return
        self._point_to(runner, self.last_ckpt)
        for old in [*outdated, *self._interrupted()]:
            if old != name:
                self._remove(self.file_backend.join_path(self.out_dir, old))

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        """Save the best as MMEngine does, but delete the one before at the end."""
        backend = self.file_backend
        later = _DeleteLater(backend)
        self.file_backend = later
        try:
            super()._save_best_checkpoint(_SaveSafely(runner, self), metrics)
        finally:
            self.file_backend = backend
        if is_main_process():
            for path in later.deleted:
                if Path(path).name not in self._best_names():
                    self._remove(path)

    def _interrupted(self) -> list[str]:
        pattern = INTERRUPTED.format("*")
        return [file.name for file in Path(self.out_dir).glob(pattern)]

    def _best_names(self) -> set[str]:
        paths = (
            [self.best_ckpt_path]
            if len(self.key_indicators) == 1
            else self.best_ckpt_path_dict.values()
        )
        return {Path(path).name for path in paths if path is not None}

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # a sharded checkpoint
            self.file_backend.rmtree(path)

    def _point_to(self, runner: Any, path: str) -> None:
        with _saving(files.POINTER, runner.work_dir):
            files.save_text(Path(runner.work_dir) / files.POINTER, path)

    def _save(
        self, runner: Any, name: str, meta: dict[str, int], *, optimizer: bool
    ) -> None:
        """Save one checkpoint under its final name, verified."""
        if not name.startswith("best_"):
            self.saved, self.saved_iter = Path(self.out_dir) / name, meta["iter"]
        gradients = accumulation.gather(runner) if optimizer else None
        schedulers = optimizer and self.save_param_scheduler
        if self._local and isinstance(runner, Runner):
            if is_main_process():
                content = collect(runner, meta, optimizer, schedulers)
                if gradients is not None:
                    content[accumulation.KEY] = gradients
                Path(self.out_dir).mkdir(parents=True, exist_ok=True)
                with _saving(name, self.out_dir):
                    files.save(Path(self.out_dir) / name, content)
            return
        path = Path(self.out_dir) / name
        written = files.unfinished_name(path).name if self._local else name
        self._meta = meta
        with _saving(name, self.out_dir):
            runner.save_checkpoint(
                self.out_dir,
                written,
                self.file_client_args,
                save_optimizer=optimizer,
                save_param_scheduler=schedulers,
                meta=dict(meta),
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **(self.args if optimizer else {}),
            )
            barrier()
            if self._local and is_main_process():
                files.check_files(path.with_name(written))
                files.put_in_place(path.with_name(written), path)
        self._meta = None


class _DeleteLater:
    """A storage backend that notes what is to be deleted."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.deleted: list[str] = []

    def remove(self, path: str) -> None:
        self.deleted.append(path)

    rmtree = remove

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


class _SaveSafely:
    """A runner whose checkpoints the hook saves."""

    def __init__(self, runner: Any, hook: SafeCheckpointHook) -> None:
        self.runner = runner
        self.hook = hook

    def save_checkpoint(
        self, out_dir: str, filename: str, *, meta: dict[str, int], **_: Any
    ) -> None:
        self.hook._save(self.runner, filename, meta, optimizer=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)


def collect(
    runner: Runner, meta: dict[str, int], optimizer: bool, schedulers: bool
) -> dict[str, Any]:
    """Collect what ``Runner.save_checkpoint`` writes, to be written in another way.

    MMEngine's method first makes the whole file in memory.

    Args:
        runner: The runner.
        meta: Epochs and iterations done.
        optimizer: Whether the state of the optimizer belongs to it.
        schedulers: Whether that of the schedulers does.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    content: dict[str, Any] = {
        "meta": {
            **meta,
            "cfg": runner.cfg.pretty_text,
            "seed": runner.seed,
            "experiment_name": runner.experiment_name,
            "time": time.strftime("%Y%m%d_%H%M%S"),
            "mmengine_version": mmengine.__version__,
        },
        "state_dict": weights_to_cpu(model.state_dict()),
        "message_hub": _to_cpu(runner.message_hub.state_dict()),
    }
    dataset = runner.train_dataloader.dataset
    if hasattr(dataset, "metainfo"):
        content["meta"]["dataset_meta"] = dataset.metainfo
    if optimizer:
        content["optimizer"] = _to_cpu(runner.optim_wrapper.state_dict())
    if schedulers and runner.param_schedulers is not None:
        content["param_schedulers"] = (
            {name: _states(each) for name, each in runner.param_schedulers.items()}
            if isinstance(runner.param_schedulers, dict)
            else _states(runner.param_schedulers)
        )
    runner.call_hook("before_save_checkpoint", checkpoint=content)
    return content


def _to_cpu(content: Any) -> Any:
    return apply_to(content, lambda x: hasattr(x, "cpu"), lambda x: x.cpu())


def _states(schedulers: list[Any]) -> list[dict[str, Any]]:
    return [scheduler.state_dict() for scheduler in schedulers]


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _saving(name: str, folder: str) -> Iterator[None]:
    """Turn a fault of the disk into one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(describe_disk_fault(error, f"{folder}/{name}"), 1) from error


def describe_disk_fault(error: OSError, path: str) -> str:
    """Say in one line what a disk refuses and how to go on.

    Args:
        error: What was raised.
        path: What was to be written.
    """
    advice = DISK_FAULTS.get(error.errno or 0, "look after the disk")
    reason = (error.strerror or str(error)).lower()
    return (
        f"cannot write {path}: {reason}; {advice}, then --resume goes on; checkpoints "
        "saved before are intact"
    )

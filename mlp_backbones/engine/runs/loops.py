"""Training loops that can begin at any iteration and then do what they would have done.

They are MMEngine's loops with three differences: draws are a function of the place
(:mod:`mlp_backbones.engine.runs.draws`), a resumed run begins at the very batch that is
next, also within an epoch, and a validation that was due where the checkpoint was saved
is done again, so that the best checkpoint is that of the uninterrupted run.
"""

from collections.abc import Callable, Iterator
from typing import Any

from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from mlp_backbones.engine.errors import UserError
from mlp_backbones.engine.runs.draws import (
    STEP,
    Place,
    PlacedBatchSampler,
    place_batches,
    seed_draws,
    seed_samples,
)
from mlp_backbones.registry import LOOPS

# Kept in MMEngine's message hub, which every checkpoint holds.
DONE = "batches_done_in_epoch"
LENGTH = "batches_in_epoch"
VALIDATED = "last_validation_iter"


class _PlacedLoop:
    """What both loops share; it goes before MMEngine's class."""

    runner: Any
    dataloader: DataLoader[Any]
    val_begin: int
    val_interval: int
    _iter: int
    _decide_current_val_interval: Callable[[], None]

    def __init__(self, runner: Any, dataloader: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(runner, place_batches(dataloader), **kwargs)  # type: ignore
        seed_samples(self.dataloader.dataset)
        self.built_with = runner.seed

    @property
    def batches(self) -> PlacedBatchSampler:
        """The batch sampler of the data loader."""
        sampler = self.dataloader.batch_sampler
        assert isinstance(sampler, PlacedBatchSampler)
        return sampler

    def _restore_seed(self) -> None:
        """Give the samplers the seed of the run; resuming may have brought another."""
        self.batches.restore_seed(self.built_with, self.runner.seed)

    def _seed_step(self) -> None:
        seed_draws(Place(self.runner.seed, STEP, 0, self._iter, get_rank()))

    def _validate(self, done: int, end: int) -> None:
        """Validate if it is due after so many epochs or iterations."""
        if (
            self.runner.val_loop is not None
            and done >= self.val_begin
            and (done % self.val_interval == 0 or done == end)
        ):
            # what is saved at the end of the validation, with its result, says so
            self.runner.message_hub.update_info(VALIDATED, self._iter)
            self.runner.val_loop.run()

    def _validate_again(self, done: int, end: int) -> None:
        """Validate where the run was resumed, unless the checkpoint has the result."""
        hub = self.runner.message_hub
        if hub.runtime_info.get(VALIDATED) != self._iter:
            self._decide_current_val_interval()
            self._validate(done, end)


@LOOPS.register_module()
class ResumableEpochLoop(_PlacedLoop, EpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop``, resumed bit for bit and within epochs."""

    def run(self) -> nn.Module:
        """Train."""
        self._restore_seed()
        done = self._done_in_epoch()
        self.runner.call_hook("before_train")
        if self._epoch > 0 and done == 0:
            self._validate_again(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self._run_epoch_from(done)
            done = 0
            self._decide_current_val_interval()
            self._validate(self._epoch, self._max_epochs)
        self.runner.call_hook("after_train")
        return self.runner.model

    def _run_epoch_from(self, done: int) -> None:
        hub = self.runner.message_hub
        hub.update_info(LENGTH, len(self.dataloader))
        hub.update_info(DONE, done)
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.batches.start(self._epoch)
        self.batches.skip(done)
        for index, batch in enumerate(self.dataloader, done):
            self._seed_step()
            hub.update_info(DONE, index + 1)
            self.run_iter(index, batch)
        hub.update_info(DONE, 0)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _done_in_epoch(self) -> int:
        """Return how many batches of its epoch a resumed run has already seen.

        Raises:
            UserError: If the run stopped within an epoch that has another length now.
        """
        if self._iter == 0:
            return 0
        hub, length = self.runner.message_hub, len(self.dataloader)
        if LENGTH not in hub.runtime_info:  # saved by MMEngine's loop
            done = self._iter - self._epoch * length
            return done if 0 <= done <= length else 0
        done, before = hub.get_info(DONE), hub.get_info(LENGTH)
        if before != length and done > 0:
            raise UserError(
                f"the checkpoint was saved after {done} of {before} batches of an "
                f"epoch, which now has {length}; resume with the data, batch size and "
                "number of processes that it was saved with, or name a checkpoint from "
                "the end of an epoch"
            )
        if before != length:
            self.runner.logger.warning(
                f"an epoch had {before} batches before and has {length} now; the "
                "resumed run does not equal an uninterrupted one"
            )
        return done


@LOOPS.register_module()
class ResumableIterLoop(_PlacedLoop, IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop``, resumed bit for bit."""

    def run(self) -> nn.Module:
        """Train."""
        self._restore_seed()
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        batches = self._all_batches(self._iter)
        if self._iter > 0:
            self._validate_again(self._iter, self._max_iters)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            batch = next(batches)
            self._seed_step()
            self.run_iter(batch)
            self._decide_current_val_interval()
            self._validate(self._iter, self._max_iters)
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _all_batches(self, done: int) -> Iterator[Any]:
        """Yield batches without end, after those that are done."""
        epoch = 0
        self.batches.start(epoch)
        while (skipped := self.batches.skip(done)) < done:
            if skipped == 0:
                raise UserError("train_dataloader has no batch")
            done -= skipped
            epoch += 1
            self.batches.start(epoch)
        while True:
            empty = done == 0
            for batch in self.dataloader:
                empty = False
                yield batch
            if empty:
                raise UserError("train_dataloader has no batch")
            done, epoch = 0, epoch + 1
            self.batches.start(epoch)

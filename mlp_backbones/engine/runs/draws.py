"""Random draws that depend on the place in a training, not on what ran before.

The state of a generator is history: a validation, a restarted worker or a resumed run
changes it. Here the generators are seeded anew for every sample from (seed, epoch,
position, rank) and for every step from (seed, iteration, rank). A resumed run then
draws what the uninterrupted one draws, with any number of workers, and nothing has to
be stored.
"""

import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS as MMENGINE_SAMPLERS
from torch.utils.data import BatchSampler, Dataset, Sampler, get_worker_info

from mlp_backbones.registry import DATA_SAMPLERS

SAMPLE, STEP, PASS = range(3)  # what a place is the place of


class Place(NamedTuple):
    """Where in a training something is drawn; two places never share their draws.

    Attributes:
        seed: The seed of the run.
        kind: ``SAMPLE``, ``STEP`` or ``PASS``.
        epoch: Passes through the data before this one; 0 for a step.
        position: Number of the sample in its pass over all ranks, or iteration.
        rank: Rank of the process; 0 for a sample, whose position holds it.
    """

    seed: int
    kind: int
    epoch: int
    position: int
    rank: int


def seed_draws(place: Place) -> None:
    """Seed the generators of Python, NumPy and torch for a place.

    Those of accelerators are seeded for steps only: workers have none.
    """
    words = np.random.SeedSequence(place).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    seed = int(words[2]) << 32 | int(words[3])
    if place.kind == SAMPLE:
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class PlacedIndex(int):
    """An index of a data set that knows the place it was drawn for."""

    place: Place

    def __new__(cls, index: int, place: Place) -> "PlacedIndex":
        """Make an index of an index and a place."""
        placed = super().__new__(cls, index)
        placed.place = place
        return placed

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacedIndex, (int(self), self.place)


@DATA_SAMPLERS.register_module()
class PlacedBatchSampler(BatchSampler):
    """Batches of any sampler, whose indices know their place; it can start anywhere.

    Args:
        sampler: The sampler of the data loader.
        batch_size: Samples per batch and process.
        drop_last: Leave out a last batch that is not full.
        batch_sampler: Settings of the batch sampler that makes the batches, such as
            mmdet's ``AspectRatioBatchSampler``; None takes torch's own.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        batch_size: int,
        drop_last: bool = False,
        batch_sampler: dict[str, Any] | None = None,
    ) -> None:
        if batch_sampler is None:
            self.inner = BatchSampler(sampler, batch_size, drop_last)
        else:
            self.inner = MMENGINE_SAMPLERS.build(
                batch_sampler,
                default_args={"sampler": sampler, "batch_size": batch_size},
            )
        self.sampler = sampler
        self.batch_size = getattr(self.inner, "batch_size", batch_size)
        self.drop_last = getattr(self.inner, "drop_last", drop_last)
        self.seed = 0
        self.epoch = 0
        self.position = 0
        self._started: Iterator[list[int]] | None = None

    def restore_seed(self, built_with: int, seed: int) -> None:
        """Take the seed of the run that is resumed, for the order of the data too.

        Args:
            built_with: The seed that the samplers were built with.
            seed: The seed of the run.
        """
        self.seed = seed
        samplers: tuple[Any, ...] = (self.sampler, self.inner)
        for sampler in samplers:
            if getattr(sampler, "seed", None) == built_with:
                sampler.seed = seed

    def start(self, epoch: int) -> None:
        """Begin a pass through the data; samplers that have epochs learn its number."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        self.epoch, self.position = epoch, 0
        seed_draws(Place(self.seed, PASS, epoch, 0, get_dist_info()[0]))
        self._started = iter(self.inner)

    def skip(self, batches: int) -> int:
        """Leave out batches of the pass that has been started, without any data.

        Args:
            batches: How many.

        Returns:
            How many have been left out; fewer if the pass ends before.
        """
        assert self._started is not None
        for skipped in range(batches):
            batch = next(self._started, None)
            if batch is None:
                return skipped
            self.position += len(batch)
        return batches

    def __iter__(self) -> Iterator[list[int]]:
        if self._started is None:
            self.start(self.epoch)
        assert self._started is not None
        batches, position, epoch = self._started, self.position, self.epoch
        self._started = None
        rank, world_size = get_dist_info()
        for batch in batches:
            yield [
                PlacedIndex(
                    index,
                    Place(
                        self.seed,
                        SAMPLE,
                        epoch,
                        (position + number) * world_size + rank,
                        0,
                    ),
                )
                for number, index in enumerate(batch)
            ]
            position += len(batch)

    def __len__(self) -> int:
        return len(self.inner)


def place_batches(loader: dict[str, Any]) -> dict[str, Any]:
    """Let the batches of a data loader's settings know their place.

    Args:
        loader: Settings as ``train_dataloader`` has them.

    Returns:
        New settings.

    Raises:
        TypeError: If they are a data loader that has been built.
    """
    if not hasattr(loader, "keys"):
        raise TypeError(
            "a loop that can be resumed builds its data loader: train_dataloader must "
            f"be a dict, got a {type(loader).__name__}"
        )
    placed = dict(loader)
    placed["batch_sampler"] = {
        "type": "mlp_backbones.PlacedBatchSampler",
        "drop_last": placed.pop("drop_last", False),
        "batch_sampler": placed.pop("batch_sampler", None),
    }
    return placed


def seed_samples(dataset: Any) -> None:
    """Let a data set seed the generators before it makes a sample.

    ``__getitems__`` is the method that torch asks for a whole batch. It is set on the
    object, not by a wrapper: hooks exchange the pipeline of the object they find.
    """
    try:
        dataset.__getitems__ = partial(make_samples, dataset)
    except AttributeError:
        if not isinstance(dataset, (list, tuple)):  # those draw nothing
            raise


def make_samples(dataset: Dataset[Any], indices: Sequence[int]) -> list[Any]:
    """Make the samples of a batch, each with the draws of its place."""
    if get_worker_info() is not None:
        _outlive_signals()
    samples = []
    for index in indices:
        if isinstance(index, PlacedIndex):
            seed_draws(index.place)
        samples.append(dataset[int(index)])
    return samples


_shielded = False


def _outlive_signals() -> None:
    """Let a worker obey the signals of its parent only.

    Schedulers and terminals send a signal to all processes of a run. The main process
    then saves its state, for which it must not lose a worker in the middle of a step.
    """
    global _shielded
    if _shielded or not hasattr(signal, "sigwaitinfo"):
        return
    _shielded = True
    parent = os.getppid()
    ignored = [signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)

    def wait_for_parent() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=wait_for_parent, daemon=True).start()

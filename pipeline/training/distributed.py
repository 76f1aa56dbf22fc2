"""One fold on several GPUs: each is the device of a rank, a process with its part of every batch.

All ranks know the epoch's batches, as one process alone would cut them; rank r of n takes the rows
r, r + n, r + 2n, … of each. Each part's loss counts by its share of the whole batch, so that the
gradient, which DistributedDataParallel averages, is the mean over the batch however uneven its
parts: without random numbers, n ranks train the weights of one. What is random within a batch
(crops, mixing, dropout) is drawn by each rank for its part: pictures are mixed with others of it.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed.nn.functional  # later, by DDP, its defaults would hold the group
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    KwargsHandler,
    broadcast,
    broadcast_object_list,
)
from timm.layers import convert_sync_batchnorm
from torch import distributed, nn

from pipeline.base.cli import UserError
from pipeline.data.loader import BatchSpec, EpochBatches, derive_seed
from pipeline.model.head import OwnHead

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


def options(unfreezes: int | None) -> list[KwargsHandler]:
    """What Accelerate shall tell PyTorch of the ranks; a process alone has no use for it.

    Layers that are unfrozen later must be known to DDP from the start, and it must look each step
    which of them are still frozen; a second wrapping at unfreezing would patch the model twice.
    Rank 0 may take long over the head's start.
    """
    ddp = DistributedDataParallelKwargs(find_unused_parameters=bool(unfreezes))
    return [ddp, InitProcessGroupKwargs(timeout=timedelta(hours=3))]


def sync_batchnorm(model: nn.Module, frozen: bool) -> nn.Module:
    """BatchNorm that trains, over the parts of all ranks, which PyTorch has for GPUs only.

    Where the backbone's is `frozen`, that is a head of the user's own. On a CPU each rank
    normalises by its part, and rank 0's running statistics are kept.
    """
    if not (distributed.is_initialized() and distributed.get_backend() == "nccl"):
        return model
    if not frozen:
        return convert_sync_batchnorm(model)
    if isinstance(model, OwnHead):
        model.head = convert_sync_batchnorm(model.head)
    return model


def rank_seed(seed: int, accelerator: Accelerator) -> int:
    """The seed of a rank's own random numbers; a process alone has the seed as it is."""
    alone = accelerator.num_processes == 1
    return seed if alone else derive_seed(seed, "rank", accelerator.process_index)


class RankSampler:
    """A rank's part of each of the epoch's batches.

    Raises UserError if one could be of fewer images than `least`: of one BatchNorm learns nothing.
    """

    def __init__(self, batches: EpochBatches, accelerator: Accelerator, least: int = 1):
        self.batches, self.accelerator = batches, accelerator
        smallest, ranks = min(batches.sizes), accelerator.num_processes
        if smallest < ranks * least:
            fault = f"cannot be shared by {ranks} processes" if ranks > 1 else "is too small"
            need = f" (BatchNorm that trains needs {least} in each)" if least > 1 else ""
            raise UserError(
                f"train.batch_size: a batch of {smallest} images {fault}{need}; raise it, or lower "
                "--gpus-per-fold"
            )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[BatchSpec]:
        first, step = self.accelerator.process_index, self.accelerator.num_processes
        for seed, rows in self.batches:
            yield BatchSpec(rank_seed(seed, self.accelerator), rows[first::step])


def gather_predictions(
    predict: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    classes: int,
    accelerator: Accelerator,
) -> np.ndarray:
    """What `predict` gives for `rows`, float32 [len(rows), classes], each row by one rank.

    Every rank writes its rows into zeros, and their sum is the whole: each row once, in order.
    """
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    whole = torch.zeros(len(rows), classes)
    if len(rows[mine]):
        whole[mine] = torch.from_numpy(predict(rows[mine]))
    return accelerator.reduce(whole.to(accelerator.device), "sum").cpu().numpy()


def run_on_main(work: Callable[[], Any], model: nn.Module, accelerator: Accelerator) -> Any:
    """Let rank 0 alone work on a model, and give all ranks what came of it."""
    done = None
    if accelerator.is_main_process:
        answer, kernel = work(), getattr(model, "kernel", None)
        # pickled on a GPU, it would be laid onto rank 0's by each rank
        done = answer, kernel if kernel is None else kernel.cpu()
    answer, kernel = broadcast_from_main(done)
    if kernel is not None:  # which the other ranks have no room for yet
        model.kernel = kernel.to(accelerator.device)
    sync_model(model)
    return answer


def broadcast_from_main(answer: Any) -> Any:
    """Its answer for all ranks: clocks differ, and ranks that do not agree wait for each other."""
    answers = [answer]
    broadcast_object_list(answers)
    return answers[0]


def sync_model(*models: nn.Module | None) -> None:
    """Give all ranks the parameters and buffers of rank 0."""
    broadcast([tensor for model in models if model for tensor in model.state_dict().values()])


def leave_group(trainer: "Trainer") -> None:
    """End the group of ranks and, by letting go of DDP which holds it, its threads.

    One that asks for the interpreter's lock while that shuts down would abort the process.
    """
    trainer.model = trainer.bare_model
    trainer.accelerator.end_training()

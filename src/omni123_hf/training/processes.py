"""What the processes of a run tell each other, through the CPU: no collective here waits for a device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn


class Processes:
    """Agreement among the ranks of a run; alone, every answer is the process's own."""

    def __init__(self) -> None:
        self.parallel = (
            distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        )
        self.rank = distributed.get_rank() if self.parallel else 0
        self.count = distributed.get_world_size() if self.parallel else 1
        # NCCL moves device memory only, and its collectives would wait for the step that is being computed.
        self.group = None
        if self.parallel and distributed.get_backend() != "gloo":
            self.group = distributed.new_group(backend="gloo")

    def largest(self, *flags: float) -> list[float]:
        """The maximum over ranks of each number."""
        if not self.parallel:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.float64)
        distributed.all_reduce(values, op=distributed.ReduceOp.MAX, group=self.group)
        return values.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The (picklable) values of all ranks, in their order; also a barrier."""
        if not self.parallel:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        if not self.parallel:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self.group)
        return values[0]


def end_process_group(failed: bool = False) -> None:
    """Leaves the process group that `TrainingArguments` made: threads of gloo that outlive it can abort the interpreter.

    After a failure NCCL is left alone, for its end waits for ranks that may never come.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    if not failed or distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


@contextmanager
def whole_weights(model: nn.Module, keep: bool) -> Iterator[None]:
    """Inside, parameters that FSDP2 split stand whole in CPU memory where `keep` holds (one rank), and empty elsewhere.

    All ranks must enter. A model that is not sharded stays as it is. The model cannot be trained inside.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        yield
        return
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    for module in model.modules():
        if isinstance(module, FSDPModule):
            # After a forward the outermost part is left whole, and `state_dict` would split it behind our back.
            module.reshard()
    places: list[tuple[dict[str, Any], str, Any]] = [
        (module._parameters, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if isinstance(parameter, DTensor)
    ]
    # By identity: tied parameters stay tied.
    whole: dict[int, nn.Parameter] = {}
    for parameters, name, parameter in places:
        if id(parameter) not in whole:
            # A collective: one parameter at a time, so that only one is whole on every device.
            full = parameter.full_tensor().detach()
            whole[id(parameter)] = nn.Parameter(full.cpu() if keep else full.new_empty(0), requires_grad=False)
        parameters[name] = whole[id(parameter)]
    try:
        yield
    finally:
        for parameters, name, parameter in places:
            parameters[name] = parameter

"""What memory there is, and which settings make a run fit into it."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from rmexp.config.compose import build
from rmexp.config.schema import CONF_DIR
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.models.tuning import LoRA
from rmexp.training.planning.needs import Devices, Needs, Sizer, sized
from rmexp.training.planning.work import lay_out

GIBIBYTE = 2**30


MOST_DEVICES = 1024
"""More are not proposed."""


CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def device_memory(gpu: bool, sharing: int) -> float:
    """Bytes of this machine's GPU, or of its memory for each of `sharing` processes.

    Raises:
        UserError: a GPU is meant, and this machine has none to ask.
    """
    if gpu:
        if not torch.cuda.is_available():
            raise UserError(
                "This machine has no GPU to ask for its memory: give task.memory_gib=NUMBER."
            )
        return float(torch.cuda.get_device_properties(0).total_memory)
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = float(lines["MemTotal"].split()[0]) * 1024
    for name in CGROUPS:
        if Path(name).is_file() and (text := Path(name).read_text().strip()).isdigit():
            total = min(total, float(text))
    return total / sharing


def resident() -> int:
    """Bytes that this process holds: what a training process holds besides tensors, about."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@dataclass(frozen=True)
class MachineSetting:
    """All that decides the memory; `process` as in `Sizer.needs`.

    Models that were made before are in `made`, for settings that differ in devices or budget.
    """

    source: Any
    tokenizer: Any
    data: ComparisonData
    tune: Any
    precision: str
    gpu: bool
    devices: Devices
    process: int
    again: bool
    budget: int
    made: dict[Any, Sizer] = dataclasses.field(default_factory=dict)

    def needs(self) -> Needs:
        """Bytes on each device."""
        key = (repr(self.tune), self.again)
        if key not in self.made:
            self.made[key] = sized(
                self.source,
                self.tokenizer,
                self.data,
                self.tune,
                self.precision,
                self.gpu,
                self.again,
            )
        sizer = self.made[key]
        epoch = lay_out(self.data, sizer.layout, self.budget, self.devices.count)
        return sizer.needs(epoch, self.devices, self.process)


def refusal(setting: MachineSetting, needs: Needs, available: float) -> str:
    """Why it cannot be, and what could."""
    what, need = "a training step", needs.training
    if needs.most > need:
        need = needs.most
        what = {
            needs.keeping: "keeping what the frozen part gives",
            needs.saving: "saving a checkpoint",
            needs.export: "proving the export",
            needs.loading: "loading all weights",
        }[need]
    ways = list(_ways(setting, available))
    mend = (
        f"it would fit with {'; or '.join(ways)}"
        if ways
        else ("no tune, micro-batch or number of devices that rmexp can propose makes it fit")
    )
    return (
        f"This does not fit: {what} needs {need / GIBIBYTE:.1f} GiB on each device "
        f"({setting.devices.words}), and there are {available / GIBIBYTE:.1f} GiB; {mend}."
    )


def _ways(setting: MachineSetting, available: float) -> Iterator[str]:
    """Settings that fit, the mildest first: of each kind of mending one."""
    change = dataclasses.replace
    if setting.needs().loading > available:  # nothing makes the weights fewer
        return
    checkpointed = change(setting, again=True)
    words = "model.gradient_checkpointing=true"
    found = None
    if not setting.again and (found := _fits(checkpointed, available)):
        yield f"{words} ({found})"
    smallest = int(setting.data.columns.numbers("size").max())
    budget = setting.budget // 2
    while not found and budget >= smallest:
        for again in (setting.again, True):
            one = change(setting, budget=budget, again=again)
            if not found and (found := _fits(one, available)):
                more = f" {words}" if again and not setting.again else ""
                yield f"data.micro_batch_tokens={budget}{more} ({found})"
        budget //= 2
    if not isinstance(setting.tune, LoRA):
        lora: Any = OmegaConf.load(CONF_DIR / "tune" / "lora.yaml")
        tune = build(lora)
        for again in dict.fromkeys((setting.again, True)):
            if fits := _fits(change(setting, tune=tune, again=again), available):
                yield f"tune=lora{f' {words}' if again and not setting.again else ''} ({fits})"
                break
    if not found:
        yield from _more_devices(setting, available, words)


def _more_devices(setting: MachineSetting, available: float, words: str) -> Iterator[str]:
    count = max(2, 2 * setting.devices.count if setting.devices.strategy == "fsdp" else 2)
    while count <= MOST_DEVICES:
        devices = Devices("fsdp", count)
        for again in dict.fromkeys((setting.again, True)):
            one = dataclasses.replace(setting, devices=devices, again=again)
            if fits := _fits(one, available):
                more = f" {words}" if again and not setting.again else ""
                yield f"trainer=fsdp on {count} devices{more} ({fits})"
                return
        count *= 2


def _fits(setting: MachineSetting, available: float) -> str | None:
    """What it needs, in words, where that is not too much."""
    most = setting.needs().most
    return f"{most / GIBIBYTE:.1f} GiB" if most <= available else None

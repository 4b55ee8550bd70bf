"""The peak of memory: of the process on the CPU, of the tensors on an accelerator."""

from pathlib import Path

import pytest
import torch

from yoloflow.run.folder import choose_run
from yoloflow.run.summary import write_summary
from yoloflow.runtime.memory import forget_peak_memory, peak_memory
from yoloflow.runtime.ranks import Ranks

CUDA = torch.device("cuda", 1)


class Counter:
    """The counters of an accelerator that is not there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes: dict[torch.device, int] = {CUDA: 3 * 2**30}
        monkeypatch.setattr(torch.accelerator, "max_memory_allocated", self.bytes.__getitem__)
        monkeypatch.setattr(
            torch.accelerator, "reset_peak_memory_stats", lambda which: self.bytes.update({which: 0})
        )


def test_the_peak_of_an_accelerator_is_that_of_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(monkeypatch)
    forget_peak_memory()
    assert peak_memory(CUDA) == 3 * 2**30
    forget_peak_memory(CUDA)
    assert peak_memory(CUDA) == counter.bytes[CUDA] == 0


def test_a_device_that_does_not_count_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_device: torch.device) -> int:
        raise RuntimeError("Allocator for mps is not a DeviceAllocator")

    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", refuse)
    monkeypatch.setattr(torch.accelerator, "reset_peak_memory_stats", refuse)
    forget_peak_memory(torch.device("mps"))
    assert peak_memory(torch.device("mps")) is None


def test_the_summary_of_a_run_has_the_peak_of_an_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Counter(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "a card")
    run = choose_run(str(tmp_path), "run", "yolov8n", "never", Ranks())
    run.path.mkdir(parents=True)
    summaries = [
        write_summary(run, Ranks(), device, {}, {}, {}, {}) for device in (CUDA, torch.device("cpu"))
    ]
    assert summaries[0]["device_peak_memory_mb"] == 3072.0
    assert "device_peak_memory_mb" not in summaries[1]

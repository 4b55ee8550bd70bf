"""A batch goes to the device beside the step before; streams are stood in for, as a CPU has none."""

from __future__ import annotations

from types import TracebackType

import pytest
import torch
from torch import Tensor

from yoloflow.train_step.transfer import Transfer, copied_beside

CPU = torch.device("cpu")


class Stream:
    """A stream that notes what happens to it."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary = name, diary

    def __enter__(self) -> None:
        self.diary.append(f"into {self.name}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.diary.append(f"out of {self.name}")

    def wait_stream(self, other: Stream) -> None:
        self.diary.append(f"{self.name} waits for {other.name}")


class HostTensor(Tensor):
    """A tensor whose copies are noted."""

    diary: list[str]

    def to(self, *_args: object, **options: object) -> Tensor:
        assert options == {"non_blocking": True}
        self.diary.append("copy")
        copied = Copied(self.clone().as_subclass(Tensor))
        copied.diary = self.diary
        return copied


class Copied(Tensor):
    """A copy that notes the stream which uses it."""

    diary: list[str]

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        self.diary.append(f"kept for {stream.name}")


def test_copies_are_made_in_one_stream_and_awaited_and_kept_by_the_other() -> None:
    diary: list[str] = []
    parts = []
    for number in range(2):
        part = HostTensor(torch.full((2,), float(number)))
        part.diary = diary
        parts.append(part)
    side, computing = Stream("side", diary), Stream("computing", diary)
    copies = copied_beside(parts, CPU, side, computing)  # type: ignore[arg-type]
    assert diary == [
        *("into side", "copy", "copy", "out of side", "computing waits for side"),
        *("kept for computing", "kept for computing"),
    ]
    assert [copy.tolist() for copy in copies] == [[0.0, 0.0], [1.0, 1.0]]


def test_a_batch_that_is_where_it_should_be_is_not_copied() -> None:
    images, labels = torch.zeros(2), torch.ones(3)
    moved = Transfer(CPU)((images, labels))
    assert moved[0] is images
    assert moved[1] is labels


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_in_page_locked_memory_arrives_whole() -> None:
    device = torch.device("cuda", 0)
    parts = [torch.arange(100_000).pin_memory(), torch.rand(7, 3).pin_memory()]
    for found, part in zip(Transfer(device)(parts), parts, strict=True):
        assert torch.equal(found.cpu(), part)

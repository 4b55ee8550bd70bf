"""The first number that is not finite stops the training, or is told once, by name; it can be replayed."""

import json
import logging
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.support.toy_training import ToyLoader, everything, toy_step, toy_trainer
from yoloflow.optim.schedule import Schedule
from yoloflow.runtime.ranks import Ranks, leave_ranks
from yoloflow.structures import Batch
from yoloflow.train_step.non_finite import NonFiniteError
from yoloflow.train_step.step import StepSettings
from yoloflow.weights.files import load_weights

NAN, INF = float("nan"), float("inf")
SINKS = [1, 4, 100]


@pytest.mark.parametrize("sink_size", SINKS)
@pytest.mark.parametrize(("accumulate", "step_before"), [(1, 9), (2, 8), (4, 8)])
def test_a_training_stops_before_the_faulty_update(
    tmp_path: Path, sink_size: int, accumulate: int, step_before: int
) -> None:
    options = StepSettings(accumulate=accumulate)
    step, loader = toy_step(options), ToyLoader({10: NAN})
    with pytest.raises(NonFiniteError) as stopped:
        toy_trainer(tmp_path / "run", step, loader).train_with_datasink(sink_size)
    message = str(stopped.value)
    assert "step 10 (step 4 of epoch 2, rank 0): not finite: output of layer first" in message
    assert "images image36.jpg, image37.jpg, image38.jpg, image39.jpg" in message
    assert "loss scale 1024" in message
    assert f"that of step {step_before}: resume=auto takes the step again" in message
    # Nothing of the fault is in the state, which is that of a training that ended there.
    clean = toy_step(options)
    for batch in (ToyLoader().batch(number) for number in range(step_before)):
        clean(batch.images, batch.labels)
    expected = everything(clean)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(step).items())


def test_the_faulty_batch_is_kept_and_the_step_can_be_taken_again(tmp_path: Path) -> None:
    loader = ToyLoader({10: INF})
    with pytest.raises(NonFiniteError) as first:
        toy_trainer(tmp_path, toy_step(), loader).train()
    kept = load_weights(tmp_path / "faults" / "step-00000010-rank0.safetensors")
    assert torch.equal(kept["images"], loader.batch(9).images)
    report = json.loads((tmp_path / "faults" / "update-00000010.json").read_text())
    assert report["found"][0]["step"] == 10
    with pytest.raises(NonFiniteError) as again:
        toy_trainer(tmp_path, toy_step(), loader, resumed=True).train()
    assert str(again.value) == str(first.value)
    step = toy_step()
    toy_trainer(tmp_path, step, loader, resumed=True, non_finite="skip").train()
    assert step.skipped_updates == 1
    assert step.updates == 24


class MaskLoader(ToyLoader):
    """Batches with masks."""

    def batch(self, step: int) -> Batch:
        batch = super().batch(step)
        batch.masks = torch.full((len(batch.images), 2, 2), step % 200, dtype=torch.uint8)
        return batch


def test_the_masks_of_a_faulty_batch_are_kept_and_the_step_can_be_taken_again_with_them(
    tmp_path: Path,
) -> None:
    loader = MaskLoader({10: INF})
    with pytest.raises(NonFiniteError):
        toy_trainer(tmp_path, toy_step(), loader).train()
    kept = load_weights(tmp_path / "faults" / "step-00000010-rank0.safetensors")
    assert torch.equal(kept["masks"], torch.full((4, 2, 2), 9, dtype=torch.uint8))
    items = toy_step()(kept["images"], kept["labels"], kept["masks"]).loss_items
    assert not torch.isfinite(items).all()


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_training_that_skips_says_so_once_and_counts(
    tmp_path: Path, accumulate: int, caplog: pytest.LogCaptureFixture
) -> None:
    states = []
    for sink_size in SINKS:
        step = toy_step(StepSettings(accumulate=accumulate), scaler="dynamic")
        loader = ToyLoader({5: NAN, 10: INF, 17: NAN})
        with caplog.at_level(logging.WARNING, "yoloflow"):
            trainer = toy_trainer(tmp_path / str(sink_size), step, loader, non_finite="skip")
            summary = trainer.train_with_datasink(sink_size)
        assert summary["skipped_updates"] == 3
        states.append(everything(step))
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == len(SINKS)
    assert all(line.startswith("step 5 (step 5 of epoch 1") for line in warnings)
    for state in states[1:]:
        assert all(torch.equal(tensor, states[0][name]) for name, tensor in state.items())
    assert all(torch.isfinite(tensor).all() for tensor in states[0].values())


def test_skipping_equals_the_plain_step_without_a_watch(tmp_path: Path) -> None:
    watched, alone = (toy_step(scaler="dynamic") for _ in range(2))
    loader = ToyLoader({5: NAN, 17: NAN})
    toy_trainer(tmp_path, watched, loader, non_finite="skip").train_with_datasink(100)
    for number in range(24):
        batch = loader.batch(number)
        alone(batch.images, batch.labels)
    expected = everything(alone)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(watched).items())


def test_an_overflow_that_a_dynamic_scale_cures_is_no_fault(tmp_path: Path) -> None:
    step = toy_step(scaler="dynamic")
    step.scaler.scale.fill_(1e21)
    summary = toy_trainer(tmp_path, step).train_with_datasink(4)
    assert 0 < summary["skipped_updates"] < 24
    assert step.scaler.scale < 1e21


def test_a_static_scale_that_overflows_names_the_gradient(tmp_path: Path) -> None:
    step = toy_step()
    step.scaler.scale.fill_(3e38)
    with pytest.raises(
        NonFiniteError, match=r"step 1 .*gradient of last\.(weight|bias); .*loss scale 3e\+38"
    ):
        toy_trainer(tmp_path, step).train()


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    step = toy_step()
    with torch.no_grad():
        step.network.get_parameter("last.weight")[0, 0] = NAN
    with pytest.raises(
        NonFiniteError, match=r"after step 0: weight last\.weight is not finite; no state was"
    ):
        toy_trainer(tmp_path, step).train()


@pytest.mark.parametrize("sink_size", [1, 50])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_update_that_ruins_a_weight_is_named_with_its_images_and_the_state_left(
    tmp_path: Path, policy: str, sink_size: int
) -> None:
    step = toy_step()
    rates = {name: table.copy() for name, table in step.schedule.lr_by_group.items()}
    for table in rates.values():
        table[8] = INF
    step.schedule = Schedule(rates, step.schedule.momentum)
    trainer = toy_trainer(tmp_path, step, save_steps=5, non_finite=policy)
    with pytest.raises(
        NonFiniteError, match=r"^step 9 .*not finite: weight .* after update 9; images image32"
    ):
        trainer.train_with_datasink(sink_size)
    (report,) = (tmp_path / "faults").glob("*.json")
    content = json.loads(report.read_text())
    assert "is that of step 6: resume=auto goes on from there" in content["message"]
    kept = load_weights(Path(content["found"][0]["batch"]))
    assert torch.equal(kept["images"], ToyLoader().batch(8).images)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    step = toy_step(StepSettings(overflow_still_update=True))
    step.scaler.scale.fill_(3e38)
    with pytest.raises(NonFiniteError, match=r"step 1 .*weight first\.weight after update 1; .*no state was"):
        toy_trainer(tmp_path, step, save_steps=1).train()
    assert not list((tmp_path / "weights").glob("state-*"))


def test_a_watch_leaves_a_sound_training_as_it_is(tmp_path: Path) -> None:
    watched, alone = toy_step(), toy_step()
    toy_trainer(tmp_path, watched).train()
    for number in range(24):
        batch = ToyLoader().batch(number)
        alone(batch.images, batch.labels)
    expected = everything(alone)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(watched).items())


def test_a_message_names_a_few_images_and_the_report_all(tmp_path: Path) -> None:
    class Large(ToyLoader):
        def names_of(self, batch: Batch) -> list[str]:
            return [f"{number}.jpg" for number in range(16)]

    with pytest.raises(
        NonFiniteError, match=r"images 0\.jpg, 1\.jpg, 2\.jpg, 3\.jpg and 12 more, named in .*json;"
    ):
        toy_trainer(tmp_path, toy_step(), Large({1: NAN})).train()
    report = json.loads((tmp_path / "faults" / "update-00000001.json").read_text())
    assert len(report["found"][0]["images"]) == 16


def train_as_a_rank(rank: int, folder: str) -> None:
    """The second of two ranks has the bad batch, and joined statistics carry it to the first."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    loader = ToyLoader({9: NAN} if rank else {})
    step = toy_step(StepSettings(accumulate=2), is_parallel=True)
    run = Path(folder, "run")
    try:
        toy_trainer(run, step, loader, ranks=Ranks(rank, 2, rank)).train_with_datasink(6)
    except NonFiniteError as error:
        Path(folder, f"rank{rank}.txt").write_text(str(error))
    step = toy_step(StepSettings(accumulate=2), is_parallel=True)
    trainer = toy_trainer(run, step, loader, resumed=True, ranks=Ranks(rank, 2, rank), non_finite="skip")
    trainer.train_with_datasink(6)
    torch.save(everything(step), f"{folder}/rank{rank}.pt")
    del trainer, step
    leave_ranks()


@pytest.mark.process
def test_ranks_stop_together_and_all_name_the_one_with_the_fault(tmp_path: Path) -> None:
    mp.spawn(train_as_a_rank, (str(tmp_path),), nprocs=2)
    messages = [(tmp_path / f"rank{rank}.txt").read_text() for rank in range(2)]
    assert messages[0] == messages[1]
    assert "step 9 (step 3 of epoch 2, rank 1): not finite: output of layer first" in messages[0]
    assert (tmp_path / "run" / "faults" / "step-00000009-rank1.safetensors").exists()
    states = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert states[0]["skipped_updates"] == 1
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())

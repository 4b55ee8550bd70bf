"""What is printed on standard error while images are decoded belongs to its image."""

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.toy_loader import toy_index
from yoloflow.data.dataset import COCODataset
from yoloflow.data.decoder_messages import (
    DecoderRemarks,
    collected_standard_error,
    decode_again,
    decode_named,
    map_with_messages,
)
from yoloflow.data.image_files import decode_image
from yoloflow.data.loader import create_loader
from yoloflow.structures import YoloflowError


def test_lines_are_given_to_the_items_that_print_them_and_others_are_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    told: list[tuple[int, int]] = []
    is_first = threading.Event()

    def work(number: int) -> int:
        if number % 100 == 7:
            os.write(2, f"odd {number}\nodd {number}\n".encode())
        if number == 3 and not is_first.is_set():
            is_first.set()
            os.write(2, b"of another thread\n")
        return number * number

    outcomes = map_with_messages(work, range(600), lambda done, total: told.append((done, total)))
    assert [result for result, _ in outcomes] == [number * number for number in range(600)]
    assert {number: lines for number, (_, lines) in enumerate(outcomes) if lines} == {
        number: [f"odd {number}"] for number in range(7, 600, 100)
    }
    assert capfd.readouterr().err == "of another thread\n"
    assert told[-1] == (600, 600)
    os.write(2, b"as before\n")
    assert capfd.readouterr().err == "as before\n"
    assert map_with_messages(work, []) == []


def test_what_opencv_prints_is_one_message_whatever_its_time_and_thread(
    capfd: pytest.CaptureFixture[str],
) -> None:
    times = iter(("0@27.562", "2@27.620"))

    def work(_: int) -> None:
        os.write(2, f"[ WARN:{next(times)}] global jpeg2000.cpp:617 readData sRGB is assumed\n".encode())

    ((_, lines),) = map_with_messages(work, [0])
    assert lines == ["jpeg2000.cpp:617 readData sRGB is assumed"]
    assert capfd.readouterr().err == ""


def test_threads_that_listen_at_the_same_time_leave_standard_error_as_it_was() -> None:
    before = os.fstat(2)
    started = threading.Barrier(4)

    def listen() -> None:
        started.wait()
        for _ in range(20):
            with collected_standard_error() as printed:
                os.write(2, b"heard\n")
                time.sleep(0.001)
            assert printed == ["heard"]

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(listen) for _ in range(4)]:
            done.result()
    after = os.fstat(2)
    assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [False, True], ids=["decoded", "decoded-reduced"])
def test_a_loader_names_each_file_whose_decoder_warns_once(
    workers: int,
    augment: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    paths = [str(tmp_path / f"{number}.jpg") for number in range(6)]
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for path in paths:
        cv2.imwrite(path, pixels)
    damaged = paths[1], paths[4]
    for path in damaged:
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    index = toy_index(paths, [(128, 128)] * 6, [np.array([[8.0, 8.0, 60.0, 60.0]])] * 6)
    dataset = COCODataset(index, 32, [{"func_name": "letterbox"}], is_training=True, augment=augment)
    loader = create_loader(dataset, 2, epoch_size=3, num_parallel_workers=workers)
    with caplog.at_level(logging.WARNING, "yoloflow"):
        assert len(list(loader)) == 9
        list(loader)
    assert sorted(record.getMessage().split(": ")[0] for record in caplog.records) == sorted(damaged)
    assert "Corrupt JPEG data: premature end of data segment" in caplog.records[0].getMessage()
    assert capfd.readouterr().err == ""


def test_what_is_printed_of_an_image_that_cannot_be_used_is_part_of_the_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(path).write_bytes(data)
    remarks = DecoderRemarks()
    message = r"a\.png: the image is damaged .*\(its decoder says: .*CRC"
    with pytest.raises(YoloflowError, match=message), remarks.listening(path):
        decode_image(path)
    assert remarks.take() == []
    with pytest.raises(YoloflowError, match="its decoder says"):
        decode_named(path)
    assert (capfd.readouterr().err, caplog.records) == ("", [])


def test_an_image_that_is_decoded_again_is_named_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "a.jpg")
    cv2.imwrite(path, np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    with caplog.at_level(logging.WARNING, "yoloflow"):
        assert (decode_named(path) == decode_again(path)).all()
    assert [record.getMessage().split(": ")[:2] for record in caplog.records] == [[path, "Corrupt JPEG data"]]
    assert capfd.readouterr().err == ""


def test_what_is_printed_before_another_error_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    remarks = DecoderRemarks()

    def decode() -> None:
        with remarks.listening("x.jpg"):
            os.write(2, b"odd\n")
            raise ValueError("cut")

    with pytest.raises(ValueError, match="cut"):
        decode()
    assert remarks.take() == ["x.jpg: odd"]
    assert remarks.take() == []
    assert capfd.readouterr().err == ""

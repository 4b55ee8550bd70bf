"""What is printed on standard error while images are decoded belongs to its image."""

import os
import threading

import pytest

from yoloflow.data.decoder_messages import map_with_messages


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

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

"""Messages of calls from Python: shown where nobody has said otherwise, and nothing is left behind."""

import logging

import pytest

from yoloflow.runtime.messages import fit_width, shown_messages

logger = logging.getLogger("yoloflow")


def without_pytests_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])


def test_messages_are_shown_during_a_call_only(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pytests_handlers(monkeypatch)
    with shown_messages():
        logger.info("within")
    logger.info("after")
    assert capfd.readouterr().err == "within\n"
    assert logger.handlers == []
    assert logger.level == logging.NOTSET


def test_calls_in_several_threads_show_each_message_once(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pytests_handlers(monkeypatch)
    first, second = shown_messages(), shown_messages()
    with first:
        second.__enter__()
        logger.info("both")
    logger.info("the second goes on")
    second.__exit__(None, None, None)
    assert capfd.readouterr().err == "both\nthe second goes on\n"
    assert logger.handlers == []


def test_the_handlers_of_the_root_logger_show_them_instead(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pytests_handlers(monkeypatch)
    logging.basicConfig(format="mine: %(message)s")  # Colab has such a handler, at level WARNING
    with shown_messages():
        logger.info("hello")
    assert capfd.readouterr().err == "mine: hello\n"


@pytest.mark.parametrize(
    ("level", "shown"), [(logging.WARNING, "careful\n"), (logging.INFO, "hello\ncareful\n")]
)
def test_a_level_that_was_set_is_kept(
    level: int, shown: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pytests_handlers(monkeypatch)
    logger.setLevel(level)
    try:
        with shown_messages():
            logger.info("hello")
            logger.warning("careful")
        assert logger.level == level
    finally:
        logger.setLevel(logging.NOTSET)
    assert capfd.readouterr().err == shown


def test_a_handler_of_the_logger_is_not_joined_by_another(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pytests_handlers(monkeypatch)
    handler = logging.NullHandler()
    logger.addHandler(handler)
    with shown_messages():
        logger.info("hello")
        assert logger.handlers == [handler]
    logger.removeHandler(handler)
    assert capfd.readouterr().err == ""


def test_lines_are_broken_between_words_and_continue_indented() -> None:
    text = "  classes: cat 3, dog 40\nshort\n"
    assert fit_width(text, 16) == "  classes: cat\n    3, dog 40\nshort\n"
    assert fit_width("name  what it is for", 14, hang=6) == "name  what it\n      is for"


@pytest.mark.parametrize("word", ["/a/folder/with/a/long/name", "`yoloflow report runs/pets`,", "一" * 12])
def test_a_path_and_a_quoted_command_stay_whole(word: str) -> None:
    assert fit_width(f"see {word} there", 20) == f"see\n  {word}\n  there"


def test_a_command_on_a_line_of_its_own_stays_whole() -> None:
    text = "write this\n  yoloflow train yolov8n epochs=3\n  and go on"
    assert fit_width(text, 8) == "write\n  this\n  yoloflow train yolov8n epochs=3\n  and go\n    on"


def test_characters_of_two_columns_count_as_two() -> None:
    assert fit_width("猫 狗 鸟 鱼", 8) == "猫 狗 鸟\n  鱼"


def test_all_words_and_the_spaces_within_lines_stay() -> None:
    text = "data.train_set: classes  a 1,  b 2,  c 3" * 5
    for width in range(1, 60):
        assert fit_width(text, width).split() == text.split()

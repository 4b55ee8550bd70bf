"""Messages of calls from Python: shown where nobody has said otherwise, and nothing is left behind."""

import logging

import pytest

from yoloflow.runtime.messages import shown_messages

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

"""The interface of all guards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from yoloflow.structures import YoloflowError


class Guard:
    """Stops a training with a clear message where it cannot go on well.

    Every hook does nothing; a guard overrides those that it needs.
    """

    def running(self) -> AbstractContextManager[None]:
        """Returns the context in which the training runs."""
        return nullcontext()

    def before_training(self) -> None:
        """Looks at the training before anything of it is written; all ranks call it.

        Raises:
            YoloflowError: it cannot go well.
        """

    def after_steps(self) -> None:
        """Looks at the training after a sink of steps.

        Raises:
            YoloflowError: it cannot go on.
        """

    def explain(self, error: BaseException) -> YoloflowError | None:
        """Returns a clear error to raise instead of the one that ends the training; None to keep that."""
        return None


class Guards(Guard):
    """Several guards as one."""

    def __init__(self, guards: Sequence[Guard]) -> None:
        """Takes the guards in the order in which they begin."""
        self.guards = list(guards)
        self._has_begun = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Enters the contexts of all guards, the first one outermost."""
        with ExitStack() as contexts:
            for guard in self.guards:
                contexts.enter_context(guard.running())
            yield

    def before_training(self) -> None:
        """Asks all guards, when it is called first."""
        for guard in self.guards if not self._has_begun else ():
            guard.before_training()
        self._has_begun = True

    def after_steps(self) -> None:
        """Asks all guards."""
        for guard in self.guards:
            guard.after_steps()

    def explain(self, error: BaseException) -> YoloflowError | None:
        """Returns the first explanation that there is."""
        explanations = (guard.explain(error) for guard in self.guards)
        return next((explained for explained in explanations if explained is not None), None)

    @contextmanager
    def explaining(self, *on_exception: Callable[[], None]) -> Iterator[None]:
        """Raises the explanation of an error in a block instead of the error, where a guard has one.

        Args:
            on_exception: called before that in this order, each even where one before it fails.
        """
        try:
            yield
        except BaseException as error:
            explained = self.explain(error)
            with ExitStack() as calls:
                for call in reversed(on_exception):
                    calls.callback(call)
            if explained is not None:
                raise explained from error
            raise

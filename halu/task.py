"""A call that can stop in the middle to wait for something, and go on later."""

import contextvars
import threading
from collections.abc import Callable

import torch


class Closed(BaseException):
    """Raised inside a waiting call that is to end; not an error, so that nobody catches it."""


class Task:
    """Lets a plain function wait, like a coroutine.

    The call has a thread of its own, but that runs only while whoever says `go` stands still: one
    of the two at any time, in an order that is the same in every run. The call sees its caller's
    context variables and torch's gradient modes.

    Args:
        call: what is to be done; it may call `wait`.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self.over = False
        self._call = call
        self._error: BaseException | None = None
        self._closing = False
        self._inside, self._outside = threading.Semaphore(0), threading.Semaphore(0)
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run, *modes), daemon=True)
        self._thread.start()

    def go(self) -> None:
        """Runs the call until it waits or is over.

        Raises:
            Exception: what the call raises.
        """
        assert not self.over
        self._inside.release()
        self._outside.acquire()
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Called inside: gives the turn back until the next `go`.

        Raises:
            Closed: if the call is to end, at once while it already ends.
        """
        if self._closing:
            raise Closed
        self._outside.release()
        self._inside.acquire()
        if self._closing:
            raise Closed

    def close(self) -> None:
        """Ends a call that waits; what it holds is freed."""
        if not self.over:
            self._closing = True
            self._inside.release()
            self._outside.acquire()

    def _run(self, grad: bool, inference: bool) -> None:
        self._inside.acquire()
        try:
            if not self._closing:
                with torch.inference_mode(inference), torch.set_grad_enabled(grad):
                    self._call()
        except Closed:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.over = True
            del self._call
            self._outside.release()

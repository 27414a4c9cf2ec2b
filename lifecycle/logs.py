"""Standard logging for the library's own threads.

Rule: a host's log handlers take locks that a caller can hold (a signal handler may strike in the middle of one), and
may be slow. So they never run on the supervisor's or the gateway's thread: what is logged there is handed to a worker.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lifecycle.audit import Record

    Submit = Callable[[Callable[[], None]], None]

__all__ = ["OwnLogger", "event_fields", "get_logger", "report_unhandled", "session_fields", "use_worker"]

_submit: Final[list[Submit]] = []


def use_worker(submit: Submit | None) -> None:
    """Log through `submit` from now on, which runs a function on a worker; with None, where it is logged."""
    _submit[:] = [submit] if submit is not None else []


def session_fields(record: Record) -> dict[str, str | None]:
    """Whose record it is: what a host's logs and traces carry of a session, by the same names."""
    fields: dict[str, str | None] = {
        "session_id": record.session_id,
        "attachment_id": record.attachment_id,
        "adapter": record.adapter,
    }
    if record.principal is not None:
        fields["principal"] = record.principal
    return fields | {f"label.{key}": value for key, value in record.labels.items()}


def event_fields(record: Record) -> dict[str, str]:
    """What the record says that happened, for a host's logs and traces."""
    fields = {
        "kind": record.kind.value,
        "transition": record.event.value,
        "source": record.source.value,
        "dest": record.dest.value,
        "cause": record.cause,
    }
    if record.close_reason is not None:
        fields["close_reason"] = record.close_reason.value
    if record.error is not None:
        fields["error"] = record.error
    return fields


class OwnLogger:
    """The part of `logging.Logger` that the library uses, off the caller's thread once there is a worker."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, message: str, *args: object) -> None:
        """Log at level DEBUG."""
        self._log(logging.DEBUG, message, args)

    def warning(self, message: str, *args: object) -> None:
        """Log at level WARNING."""
        self._log(logging.WARNING, message, args)

    def error(self, message: str, *args: object, exc_info: Any = None) -> None:  # noqa: ANN401 - as logging has it
        """Log at level ERROR."""
        self._log(logging.ERROR, message, args, exc_info=exc_info)

    def exception(self, message: str, *args: object) -> None:
        """Log at level ERROR, with the exception that is being handled."""
        self._log(logging.ERROR, message, args, exc_info=sys.exc_info())

    def _log(self, level: int, message: str, args: tuple[object, ...], **options: Any) -> None:  # noqa: ANN401
        if not _submit:
            self._logger.log(level, message, *args, **options)
            return
        text = message % args if args else message  # now: the arguments may change

        def emit() -> None:
            try:
                self._logger.log(level, "%s", text, **options)
            except Exception:  # noqa: BLE001 - a host's handler must not end the worker; logging reports its own errors
                return

        _submit[0](emit)


def get_logger(name: str) -> OwnLogger:
    """The logger of a module."""
    return OwnLogger(name)


_log: Final = OwnLogger("lifecycle.loops")


def report_unhandled(_: object, context: Mapping[str, Any]) -> None:
    """The exception handler of the library's event loops: as asyncio's own, but off the loop."""
    error = context.get("exception")
    exc_info = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
    _log.error("%s", context.get("message", "unhandled error in an event loop"), exc_info=exc_info)

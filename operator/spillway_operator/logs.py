"""Logging of operator and webhook: one JSON object a line, quiet at rest."""

from __future__ import annotations

import logging
import sys

import structlog
from spillway.config import LogLevel


def configure_logging(level: LogLevel) -> None:
    """Route structlog and the standard library (kopf, aiohttp) into one JSON stream on stdout."""
    threshold = getattr(logging, level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    # kopf tells every watch event at info and less; what it warns of concerns a person.
    logging.getLogger("kopf").setLevel(max(threshold, logging.WARNING))

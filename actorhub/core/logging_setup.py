"""Log format of the command line's processes: text, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """JSON log line: `time` (UTC), `level`, `logger`, `message`, the fields bound to the process, and every `extra` of
    the record."""

    def __init__(self, **bound: str) -> None:
        super().__init__()
        self._bound = bound

    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._bound,
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
        }
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return json.dumps(row, default=str)


def configure_logging(style: str, level: str, **bound: str) -> None:
    """Log to standard error. `bound` names the process (node, worker) in each line."""
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter(**bound))
    else:
        names = " ".join(bound.values())
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s %(levelname)-7s {names} %(name)s: %(message)s", "%H:%M:%S")
        )
    logging.basicConfig(level=level, handlers=[handler], force=True)

"""Log lines and the audit log."""

from __future__ import annotations

import json
import logging
import threading
import time

import pytest

from recordings.errors import InputError
from service.observability import logs
from service.observability.logs import JsonFormatter, TextFormatter, logging_to_stderr, written
from service.security.audit import audit_to
from service.security.callers import set_request_id


def lost():
    raise AssertionError("a line was lost")


def test_json_lines_with_the_number_of_the_call(capsys, request):
    log = logging.getLogger("penfield.test")
    with logging_to_stderr("json", "info", lost):
        set_request_id("n1")
        request.addfinalizer(lambda: set_request_id(""))
        log.info("did %s", "this", extra={"fields": {"seconds": 0.5, "code": "OK"}})
        log.debug("not this")
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            log.exception("failed\nin two lines")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["message"], line["request_id"]) for line in lines] == [
        ("info", "did this", "n1"),
        ("error", "failed\nin two lines", "n1"),
    ]
    assert lines[0]["seconds"] == 0.5
    assert "ZeroDivisionError" in lines[1]["exception"]


def test_text_lines():
    record = logging.LogRecord("penfield", logging.INFO, "", 1, "call", (), None)
    record.fields, record.request_id = {"code": "OK"}, "n1"
    assert TextFormatter().format(record).endswith(" info call code=OK n1")


def test_words_of_strangers_do_not_look_like_lines():
    record = logging.LogRecord("penfield", logging.INFO, "", 1, "refused: a\n12:00:00 info b\x1b[2J", (), None)
    assert TextFormatter().format(record).endswith(r"refused: a\n12:00:00 info b\x1b[2J")


def test_logger_is_as_it_was_afterwards(capsys):
    logger = logging.getLogger("penfield")
    before = logger.handlers[:], logger.propagate, logger.level
    with logging_to_stderr("text", "debug", lost):
        assert logger.level == logging.DEBUG
    assert (logger.handlers, logger.propagate, logger.level) == before


def test_slow_disk_holds_up_nobody_and_lost_lines_are_counted(monkeypatch):
    monkeypatch.setattr(logs, "WAITING", 5)
    go, dropped, seen = threading.Event(), [], []

    class Slow(logging.Handler):
        def emit(self, record):
            go.wait(10)
            seen.append(record.getMessage())

    logger = logging.getLogger("penfield.slow")
    with written(logger, Slow(), lambda: dropped.append(1)):
        for i in range(20):
            logger.error("%d", i)
        assert len(dropped) >= 14
        go.set()
    assert len(seen) + len(dropped) == 20


def test_disk_that_hangs_does_not_keep_the_server_from_ending(monkeypatch):
    monkeypatch.setattr(logs, "WAITING", 2)
    monkeypatch.setattr(logs, "END_SECONDS", 0.05)
    go = threading.Event()

    class Stuck(logging.Handler):
        def emit(self, record):
            go.wait(10)

    logger = logging.getLogger("penfield.stuck")
    start = time.perf_counter()
    with written(logger, Stuck(), lambda: None):
        for i in range(9):
            logger.error("%d", i)
    assert time.perf_counter() - start < 2
    go.set()


def test_audit_lines(tmp_path):
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        with audit_to(path, lost) as note:
            note({"method": "a/B", "code": "OK", "caller": "ada"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["caller"] for line in lines] == ["ada", "ada"]
    with pytest.raises(InputError, match="audit log"), audit_to(tmp_path / "no" / "audit", lost):
        pass
    with audit_to(None, lost) as note:
        note({"method": "a/B"})


def test_rotated_audit_log_is_begun_anew(tmp_path):
    path = tmp_path / "audit.jsonl"
    with audit_to(path, lost) as note:
        note({"n": 1})
        path.rename(tmp_path / "old")
        note({"n": 2})
    assert path.exists()


def test_formatter_writes_what_json_does_not_know():
    record = logging.LogRecord("penfield", logging.INFO, "", 1, "call", (), None)
    record.fields = {"path": object()}
    assert "object" in json.loads(JsonFormatter().format(record))["path"]

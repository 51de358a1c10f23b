"""Results in JUnit's XML, which CI systems read: one suite a file, one case a test.

A known gap (`todo`) is `skipped`; a file that cannot be read is one case with an `error`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from saeguard.rules.testing.files import FileResult
from saeguard.rules.testing.run import CaseResult, Report

_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(files: Sequence[FileResult]) -> str:
    """The document."""
    root = Element("testsuites", name="saeguard test")
    for file in files:
        _suite(root, file)
    indent(root)
    return tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: Element, file: FileResult) -> None:
    name = _legal(str(file.path))
    statuses = [result.status for result in file.results]
    suite = SubElement(
        root,
        "testsuite",
        name=name,
        tests=str(len(statuses) + bool(file.errors)),
        failures=str(statuses.count("failed")),
        errors=str(int(bool(file.errors))),
        skipped=str(statuses.count("todo")),
        time=f"{sum(result.seconds for result in file.results):.6f}",
    )
    for result in file.results:
        _case(suite, name, result)
    if file.errors:
        case = SubElement(suite, "testcase", name="the file is readable", classname=name, time="0")
        text = _legal("\n".join(map(str, file.errors)))
        SubElement(case, "error", message=_legal(file.errors[0].message)).text = text


def _case(suite: Element, classname: str, result: CaseResult) -> None:
    case = SubElement(
        suite,
        "testcase",
        name=_legal(result.case.name),
        classname=classname,
        file=_legal(str(result.case.location.path)),
        line=str(result.case.location.line),
        time=f"{result.seconds:.6f}",
    )
    failures = [report for report in result.reports if not report.failure.is_todo]
    if failures:
        message = _legal(failures[0].failure.message)
        SubElement(case, "failure", message=message).text = _legal("\n".join(map(_lines, failures)))
    elif result.reports:
        SubElement(case, "skipped", message=_legal(f"todo: {result.reports[0].failure.message}"))


def _lines(report: Report) -> str:
    first = f"{report.failure.location}: {report.failure.message}"
    return "\n    ".join([first, *report.notes])


def _legal(text: str) -> str:
    """Control characters have no place in XML, not even as references."""
    return _NOT_IN_XML.sub("\ufffd", text)

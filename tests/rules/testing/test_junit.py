"""JUnit's XML, as programs that read it see it."""

from xml.etree import ElementTree

from saeguard.rules.testing.files import run_files
from saeguard.rules.testing.junit import junit_xml
from tests.rules.testing.suites import write_suite

TESTS = """\
  - {name: passes, stream: [{phase: answer, tokens: 1}]}
  - name: "fails \\x1b[31m <&>"
    request: {model: good/one}
    stream: [{phase: answer, features: {lie: 3 1 1}}]
    expect: [lying]
  - name: a known gap
    request: {model: good/one}
    stream: [{phase: answer, features: {lie: 3 1 1}}]
    expect: [{rule: lying, todo: true}]
"""


def document(*paths):
    return ElementTree.fromstring(junit_xml(list(run_files(paths))))


def test_each_test_is_a_case_with_its_place_and_time(tmp_path):
    path = write_suite(tmp_path, TESTS)
    (suite,) = document(path)
    counts = {key: suite.get(key) for key in ("name", "tests", "failures", "errors", "skipped")}
    assert counts == {
        "name": str(path),
        "tests": "3",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
    }
    passes, fails, gap = suite
    assert (passes.get("name"), passes.get("file"), passes.get("line")) == (
        "passes",
        str(path),
        "3",
    )
    assert float(passes.get("time")) > 0
    assert len(passes) == 0
    assert [child.tag for child in fails] == ["failure"]
    assert [child.tag for child in gap] == ["skipped"]
    assert gap[0].get("message") == "todo: expected 1 alert of lying, got none"


def test_a_failure_says_where_what_and_why(tmp_path):
    path = write_suite(tmp_path, TESTS)
    failure = document(path)[0][1][0]
    assert failure.get("message") == "expected 1 alert of lying, got none"
    assert failure.text == (
        f"{path}:7:14: expected 1 alert of lying, got none\n"
        "    signal lie was never true: its largest value was 1, it needs >= 2"
    )


def test_characters_that_xml_forbids_are_replaced(tmp_path):
    assert document(write_suite(tmp_path, TESTS))[0][1].get("name") == "fails \ufffd[31m <&>"


def test_a_file_with_mistakes_is_an_error(tmp_path):
    (suite,) = document(write_suite(tmp_path, "  - {name: t}\n"))
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    assert "a test has a stream" in suite[0][0].text

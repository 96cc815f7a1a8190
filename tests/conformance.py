"""The conformance page: the points of the device protocol's checklist, each with the tests that carry its number.

``python -m tests.conformance`` prints the page that stands in ``docs/conformance.md``. A test belongs to a point when its name
begins with ``test_check_`` and the point's three-digit number; further numbers may follow (``test_check_046_and_054_...``).
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "conformance.md"
_NUMBERS = re.compile(r"test_check((?:_(?:and_)?\d{3})+)(?=_)")

SECTIONS: dict[str, dict[int, str]] = {
    "OTA and activation": {
        1: "check-version is answered with a JSON object and its length",
        2: "an unreadable body is answered from the headers",
        3: "no credentials without a valid Device-Id",
        4: "the mqtt section fits the device's flash",
        5: "the endpoint is host and port, without a scheme",
        6: "the client id has three parts: group, MAC, Client-Id",
        7: "no version that would crash the device",
        8: "an update is offered only when there is one",
        9: "force is not repeated",
        10: "server time in milliseconds, offset in minutes",
        11: "an unknown device gets code, message and challenge",
        12: "activate: 202 before the code is entered, 200 after, every form of body",
        13: "no activation once it is done",
        14: "the address with and without a slash",
        15: "the proof is recorded; wrong and expired challenges are refused",
        16: "codes do not mix, expire, and cannot be guessed",
        17: "firmware downloads: length, no redirect, no way out of the directory",
    },
    "MQTT": {
        18: "credentials are judged before anything else",
        19: "messages come without SUBSCRIBE",
        20: "SUBSCRIBE is confirmed and changes nothing",
        21: "nobody acts or hears for another device",
        22: "keep-alive is enforced; 0 means none",
        23: "the newest connection of a device wins",
        24: "packets split and joined at will",
        25: "64 KB are taken; beyond the limit only that client is closed",
        26: "unreadable messages do not end the connection",
        27: "QoS 1 and 2 from a client",
        28: "what is no MQTT, and who is slow to begin",
        29: "PUBLISH is QoS 0, not retained, on the usual topic",
        30: "messages to devices are small JSON objects with a type",
    },
    "hello and session": {
        31: "the reply comes within a second and waits for nothing",
        32: "all members of the reply; a session id nobody can guess",
        33: "fresh key and ssrc; the form of the nonce",
        34: "audio comes from the address that was named",
        35: "audio parameters are always told, and kept",
        36: "a second hello replaces the session",
        37: "hello of every shape",
        38: "wrong transport or version opens nothing",
        39: "the device's goodbye frees everything and is not echoed",
        40: "the server's goodbye carries the right id",
        41: "messages of a stale session get a goodbye with that id",
        42: "messages before hello",
        43: "MQTT drops and comes back within a session",
        44: "the session is kept for a grace, then freed",
        45: "a thousand hellos leave nothing behind",
    },
    "turns": {
        46: "auto mode",
        47: "manual mode",
        48: "realtime mode and barge-in",
        49: "wake word: its audio is no request; greeting",
        50: "audio that precedes listen start is not lost",
        51: "messages out of place do no harm",
        52: "abort stops at once",
        53: "nothing stale after an abort",
        54: "order of a turn; one stop for every start",
        55: "nothing heard, nothing said",
        56: "100 ms between tts start and the first audio",
        57: "tts stop follows the end of playback",
        58: "text accompanies its audio",
        59: "emotions are those of the display",
        60: "goodbye comes after the last word",
    },
    "UDP audio": {
        61: "type, length and sequence of every packet",
        62: "never far ahead, nothing dropped in a long answer",
        63: "the pace is exact",
        64: "every packet decodes to the announced duration",
        65: "size of datagrams",
        66: "audio waits for the address",
        67: "downlink follows a rebound port",
        68: "spoofed packets divert nothing",
        69: "a forged sequence number does not block",
        70: "replayed packets are not heard twice, reordered ones are",
        71: "bad datagrams are dropped without an answer",
        72: "DTX, empty packets and what is no Opus",
        73: "one packet in ten lost",
        74: "no counter block of the keystream is used twice",
        75: "flags tell the directions apart",
        76: "timestamps for echo-cancelling devices",
        77: "older clients",
    },
    "tools": {
        78: "handshake with the device's tools",
        79: "pages of tools are followed, and bounded",
        80: "calls reach the device, results reach the answer",
        81: "every failure is told, nothing hangs",
        82: "tools for administrators are not offered",
        83: "names with dots are mapped there and back",
        84: "several calls in a turn, and while speaking",
        85: "late answers and those of other devices",
        86: "things of firmware 1.x",
        87: "camera pictures are received and answered",
        88: "administrator tools need an authorised user",
    },
    "robustness": {
        89: "many devices at once, no cross-talk",
        90: "engines that fail or stall",
        91: "a device that vanishes frees everything",
        92: "restart of the server",
        93: "shutdown says goodbye to all",
        94: "no secret in the log",
        95: "a change of the clock does no harm",
        96: "memory stays the same over many turns",
        97: "IPv4-mapped addresses",
        98: "noise raises nothing",
    },
}

WITHOUT_TEST = {
    87: "There is no vision endpoint yet: `initialize` names none, and the device answers that no address is set.",
    88: "Tools for administrators are never asked for (`withUserTools` is false), so nobody can call them (82).",
}
"""Why a point has no test."""


@dataclass(frozen=True)
class NumberedTest:
    """One test function."""

    path: str
    name: str
    numbers: tuple[int, ...]


def numbered_tests() -> Iterator[NumberedTest]:
    """All tests of the tree that carry a number, by path and place."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (found := _NUMBERS.match(node.name)):
                numbers = tuple(int(number) for number in re.findall(r"\d{3}", found.group(1)))
                yield NumberedTest(path.relative_to(ROOT / "tests").as_posix(), node.name, numbers)


def page() -> str:
    """The whole page in Markdown."""
    by_number: defaultdict[int, list[NumberedTest]] = defaultdict(list)
    for test in numbered_tests():
        for number in test.numbers:
            by_number[number].append(test)
    points = [number for section in SECTIONS.values() for number in section]
    tested = sum(number in by_number for number in points)
    lines = [
        "# Conformance",
        "",
        f"What a server of XiaoZhi devices has to do, in {len(points)} points, and the tests that show each of them:",
        f"{tested} points have tests.",
        "Tests in `e2e/` run the whole bridge against a simulated device or raw packets; the others run one package.",
        "",
        "This page is generated: `python -m tests.conformance > docs/conformance.md`.",
    ]
    for title, section in SECTIONS.items():
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", "| | point | tests |", "|---|---|---|"]
        lines += [f"| {number} | {point} | {_cell(number, by_number[number])} |" for number, point in section.items()]
    return "\n".join(lines) + "\n"


def _cell(number: int, found: list[NumberedTest]) -> str:
    if not found:
        return WITHOUT_TEST[number]
    files: defaultdict[str, list[str]] = defaultdict(list)
    for test in found:
        files[test.path].append(_NUMBERS.sub("", test.name).strip("_").replace("_", " "))
    return "<br>".join(f"`{path}`: {'; '.join(sorted(set(names)))}" for path, names in files.items())


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - this is the command's output

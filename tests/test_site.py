"""The documentation site builds without a warning, has everything once, and needs nothing from elsewhere."""

import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

from qra.front import shipped

ROOT = Path(__file__).parents[1]
PACKAGES = ("attacks", "callbacks", "data", "losses", "models", "modules", "quant", "schedules", "study", "types")
ROOTS = ["qra.load", "qra.quantize", "qra.evaluate"]

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page loads, what it links to, and what can be linked to in it."""

    def __init__(self, text):
        super().__init__()
        self.assets, self.links, self.ids, self.headings = [], [], set(), Counter()
        self._heading = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        if "src" in found:
            self.assets.append(found["src"])
        if tag == "link" and found.get("rel") not in ("canonical", "next", "prev", "index", "search", "author"):
            self.assets.append(found["href"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if re.fullmatch(r"h\d", tag):
            self._heading = ""

    def handle_data(self, data):
        if self._heading is not None:
            self._heading += data

    def handle_endtag(self, tag):
        if re.fullmatch(r"h\d", tag):
            self.headings[self._heading.rstrip("¶#")] += 1
            self._heading = None


class Site(NamedTuple):
    folder: Path
    pages: dict[Path, Page]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = ["sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", f"{folder}/doctrees", "docs", f"{folder}/html"]
    built = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, f"{built.stdout}\n{built.stderr}"
    html = folder / "html"
    return Site(html, {file: Page(file.read_text()) for file in html.rglob("*.html")})


def test_every_public_name_is_documented_once(site):
    defined = Counter(
        name
        for file in site.pages
        for name in re.findall(r'<dt class="sig sig-object py" id="([\w.]+)">', file.read_text())
    )
    public = [f"qra.{part}.{name}" for part in PACKAGES for name in import_module(f"qra.{part}").__all__]
    assert {name: defined[name] for name in [*ROOTS, *public]} == dict.fromkeys([*ROOTS, *public], 1)


def test_every_config_is_shown_once(site):
    shown = sum((page.headings for page in site.pages.values()), Counter())
    assert {name: shown[name] for name in shipped.configs()} == dict.fromkeys(shipped.configs(), 1)


def test_every_command_has_its_options(site):
    page = (site.folder / "generated/commands.html").read_text()
    options = ("--evaluation.gradients", "--model.attack", "--data.fraction", "--jobs", "--budget-kib", "--transfer")
    assert all(option in page for option in options)


def test_internal_links_lead_somewhere(site):
    broken = []
    for file, page in site.pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            there = site.pages.get(target)
            if not target.exists() or (there and parts.fragment and unquote(parts.fragment) not in there.ids):
                broken.append((str(file.relative_to(site.folder)), link))
    assert broken == []


def test_no_page_loads_anything_from_elsewhere(site):
    outside = r"^(https?:)?//"
    loaded = {asset for page in site.pages.values() for asset in page.assets}
    assert loaded
    assert [asset for asset in loaded if re.match(outside, asset)] == []
    for style in site.folder.rglob("*.css"):
        assert not re.findall(r"""(?:url\(|@import )\s*['"]?(?:https?:)?//""", style.read_text()), style


def test_formulas_are_drawn_by_the_browser(site):
    text = (site.folder / "concepts/lsq.html").read_text()
    assert "<math" in text
    assert "mathjax" not in text.lower()


def test_tables_are_tables_and_their_intervals_whole(site):
    notebook = (site.folder / "generated/tutorials/02-reading-a-study.html").read_text()
    assert "| ---" not in notebook
    results = (site.folder / "results.html").read_text()
    assert "[1.1,\N{NO-BREAK SPACE}5.7]" in results


def test_images_say_what_they_show(site):
    said = [each for file in site.pages for each in re.findall(r'<img[^>]* alt="([^"]*)"', file.read_text())]
    assert said
    assert [each for each in said if not each or each.endswith((".png", ".svg"))] == []


def test_it_can_be_searched(site):
    index = (site.folder / "searchindex.js").read_text()
    assert "concepts/masking" in index
    assert "generated/api/qra.attacks" in index

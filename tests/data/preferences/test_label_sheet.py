"""The labelling sheet: what is in the page, and what it does in a browser."""

import base64
import html.parser
import http.server
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.label_sheet import label_sheet, swapped
from skyreels_jax.data.preferences.labels import REASONS, read_judgements
from skyreels_jax.data.preferences.records import Preference

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
EVEN = {"text_alignment": (1.0, 1.0), "visual_quality": (30.0, 30.0)}
# Presses keys as a person would, and sends what is saved, and what is seen, to __ADDRESS__.
SCRIPT = """
<script>
addEventListener("load", () => {
  const press = key => document.body.dispatchEvent(
    new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
  const seen = {places: [], files: []}, make = URL.createObjectURL;
  const look = () => seen.places.push(document.getElementById("place").textContent);
  let blob;
  URL.createObjectURL = b => { blob = b; return make(b); };
  HTMLAnchorElement.prototype.click = function () { seen.files.push(this.download); };
  press("s");  // without a name nothing is saved
  seen.focus = document.activeElement.id;
  const name = document.getElementById("annotator");
  name.value = "Ann B.";
  name.dispatchEvent(new Event("input", {bubbles: true}));
  name.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
  look();
  for (const key of ["ArrowLeft", "ArrowRight", "ArrowDown", "2", "Backspace"]) {
    press(key);
    look();
  }
  document.querySelector("[data-side=right]").click();  // another word on what was discarded
  look();
  press(" ");
  const drawn = setInterval(async () => {  // decoding takes its own time
    const canvas = document.getElementById("left");
    seen.pixels = [...canvas.getContext("2d").getImageData(4, 4, 1, 1).data];
    if (!seen.pixels[3]) return;
    clearInterval(drawn);
    seen.progress = document.getElementById("progress").value;
    press("s");
    seen.saved = await blob.text();
    const form = document.createElement("form"), field = document.createElement("textarea");
    [form.method, form.action, form.enctype] = ["post", "__ADDRESS__", "text/plain"];
    [field.name, field.value] = ["seen", JSON.stringify(seen)];
    form.append(field);
    document.body.append(form);
    form.submit();
  }, 100);
});
</script>
"""


def clip(level, shape=(5, 16, 24)):
    return np.full((*shape, 3), level, np.uint8)


def pair(number, **changes):
    fields = {"id": f"p{number}", "chosen": clip(200), "rejected": clip(40), "label": "better"}
    fields |= {"source": "freeze", "prompt": f"Prompt {number}.", "scores": EVEN}
    return Preference(**fields | changes)


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


class Reader(html.parser.HTMLParser):
    """Collects ids and everything that could be fetched."""

    def __init__(self):
        super().__init__()
        self.ids, self.fetched = set(), []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        self.fetched += [attrs[name] for name in ("src", "href") if name in attrs]


def test_the_page_is_whole_and_fetches_nothing():
    page = label_sheet([pair(i) for i in range(3)], fps=12)
    reader = Reader()
    reader.feed(page)
    assert not reader.fetched and "http://" not in page and "https://" not in page
    assert {"annotator", "save", "progress", "left", "right", "reasons", "data"} <= reader.ids
    assert "default-src 'none'" in page and "__DATA__" not in page
    data = data_of(page)
    assert data["reasons"] == list(REASONS) and data["fps"] == 12 and data["frames"] == 5
    assert len({json.dumps(p) for p in data["pairs"]}) == 3


def test_sides_and_order_hang_on_the_seed_and_are_recorded():
    pairs = [pair(i) for i in range(40)]
    page = label_sheet(pairs, fps=12, seed=3)
    assert page == label_sheet(pairs, fps=12, seed=3)
    data, other = data_of(page), data_of(label_sheet(pairs, fps=12, seed=4))
    assert data["seed"] == 3 and data["sheet"] != other["sheet"]
    assert [p["id"] for p in data["pairs"]] != [p["id"] for p in other["pairs"]]
    flips = {p["id"]: p["swapped"] for p in data["pairs"]}
    assert flips != {p["id"]: p["swapped"] for p in other["pairs"]}
    assert flips == {p.id: swapped(p.id, 3) for p in pairs} and 8 < sum(flips.values()) < 32
    for one in data["pairs"]:
        bright = one["right" if one["swapped"] else "left"]
        assert picture(bright).mean() > 150


def picture(uri):
    head, _, code = uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))


def test_all_frames_are_in_one_picture_and_large_ones_are_made_smaller():
    frames = (np.arange(5, dtype=np.uint8) * 50)[:, None, None, None] + clip(0)
    data = data_of(label_sheet([pair(0, chosen=frames)], fps=24, max_side=12))
    assert (data["height"], data["width"], data["columns"]) == (8, 12, 3)
    one = data["pairs"][0]
    shown = picture(one["right" if one["swapped"] else "left"])
    assert shown.shape == (16, 36, 3)
    for t in range(5):
        y, x = t // 3 * 8, t % 3 * 12
        assert abs(shown[y + 2 : y + 6, x + 3 : x + 9].mean() - 50 * t) < 12
    small = data_of(label_sheet([pair(0)], fps=24))
    assert (small["height"], small["width"]) == (16, 24)


def test_prompts_cannot_break_out():
    prompt = '</script><script>alert("1")</script> & "quoted" ü'
    page = label_sheet([pair(0, prompt=prompt)], fps=12)
    assert data_of(page)["pairs"][0]["prompt"] == prompt and "alert(" in page
    assert page.count("</script>") == 2


@pytest.mark.parametrize(
    ("pairs", "options", "complaint"),
    [
        ([], {}, "needs pairs, and there are none"),
        ([pair(0), pair(0)], {}, "have one id"),
        ([pair(0)], {"fps": 0}, "legal: fps more than 0"),
        (
            [pair(0), pair(1, chosen=clip(1, (5, 8, 8)), rejected=clip(2, (5, 8, 8)))],
            {},
            "'p1' has clips of .5, 8, 8. .* others of .5, 16, 24.; legal: one shape",
        ),
    ],
)
def test_bad_pairs(pairs, options, complaint):
    with pytest.raises(UserError, match=complaint):
        label_sheet(pairs, **{"fps": 12} | options)


class Listener(http.server.BaseHTTPRequestHandler):
    """Keeps what a form sent as `server.said`."""

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.said = self.rfile.read(length).decode().removeprefix("seen=")
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_a_person_labels_pairs_in_a_browser(tmp_path):
    page = label_sheet([pair(i) for i in range(5)], fps=12, seed=2)
    data = data_of(page)
    path = tmp_path / "sheet.html"
    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        server.timeout, server.said = 300, ""
        script = SCRIPT.replace("__ADDRESS__", f"http://127.0.0.1:{server.server_port}")
        path.write_text(page.replace("</body>", script + "</body>"), encoding="utf-8")
        argv = (CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri())
        with (
            open(tmp_path / "browser.log", "w+b") as log,
            subprocess.Popen(argv, stdout=log, stderr=log) as browser,
        ):
            server.handle_request()
            browser.terminate()
        assert server.said, (tmp_path / "browser.log").read_text()[-2000:]
    seen = json.loads(server.said)
    assert seen["focus"] == "annotator"
    assert seen["places"] == [
        "pair 1 of 5, 0 labelled",
        "pair 2 of 5, 1 labelled",
        "pair 3 of 5, 2 labelled",
        "pair 4 of 5, 3 labelled",
        "pair 5 of 5, 4 labelled",
        "pair 4 of 5, 4 labelled",
        "pair 5 of 5, 4 labelled",
    ]
    assert seen["progress"] == 4
    assert seen["files"] == [f"labels-{data['sheet']}-Ann_B_.jsonl"]
    last = data["pairs"][4]
    assert abs(seen["pixels"][0] - (40 if last["swapped"] else 200)) < 8
    # What is saved is what `import-labels` reads, and says how the chosen clip is.
    saved = tmp_path / "saved.jsonl"
    saved.write_text(seen["saved"], encoding="utf-8")
    said = {j.pair: j for j in read_judgements([saved])}
    wanted = ["left", "right", "tie", "right"]
    for one, side in zip(data["pairs"], wanted, strict=False):
        chosen = "right" if one["swapped"] else "left"
        label = "tie" if side == "tie" else "better" if side == chosen else "worse"
        assert (said[one["id"]].label, said[one["id"]].annotator) == (label, "Ann B.")
    assert len(said) == 4
    assert all(json.loads(line)["seed"] == 2 for line in seen["saved"].splitlines())

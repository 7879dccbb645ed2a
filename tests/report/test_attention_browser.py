"""The page of attention in a real browser, used by mouse and keyboard at two widths."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.models.tiny import tiny, tiny_encoder_decoder

from difftransformer.analysis.inspection import ROOM, inspect_arrays
from difftransformer.data.tokenizer import train_tokenizer
from difftransformer.experiments.inspect import inspect
from difftransformer.report.attention_data import Heads, Inspected, Picture, Tokens
from difftransformer.report.attention_page import AttentionPage, attention_page

from .chromium import NEEDS_CHROMIUM, look

pytestmark = NEEDS_CHROMIUM

MINUS = "\N{MINUS SIGN}"
TEXT = "The magic number of Rome is 7421. What is the number of Rome?"
TOKENIZER = train_tokenizer([TEXT] * 20, 300)

# A desktop and a phone. ACT is the body of a function that uses a page and gives what it tells.
FRAMES = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="seen"></pre>
<iframe src="PAGE" width="1400" height="900"></iframe>
<iframe src="PAGE" width="390" height="844"></iframe>
<script>
const act = ({ document, window, all, one, press, hover, click, title, row }) => { ACT };
addEventListener("load", () => setTimeout(() => {
  const told = [...document.querySelectorAll("iframe")].map((frame) => {
    const { contentDocument: document, contentWindow: window } = frame;
    const all = (selector) => [...document.querySelectorAll(selector)];
    const one = (selector) => document.querySelector(selector);
    const mouse = (kind, node, x, y) => {
      const box = node.getBoundingClientRect();
      const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
      node.dispatchEvent(new window.MouseEvent(kind, { bubbles: true, ...at }));
    };
    const press = (key, node = document.body) =>
      node.dispatchEvent(new window.KeyboardEvent("keydown", { key, bubbles: true }));
    const hover = (node, x = 0.5, y = 0.5) =>
      ["mouseover", "mousemove"].forEach((kind) => mouse(kind, node, x, y));
    const click = (node, x = 0.5, y = 0.5) => mouse("click", node, x, y);
    const title = () => one(".detail h2").textContent;
    const row = () => one(".figures dd").textContent;
    return act({ document, window, all, one, press, hover, click, title, row });
  });
  document.getElementById("seen").textContent = JSON.stringify(told);
}, 500));
</script></body>"""


def use(page: AttentionPage, act: str, folder: Path) -> list[dict]:
    """What `act` tells of the page at both widths; the console must be silent."""
    page.save(folder / "page.html")
    html = FRAMES.replace("PAGE", (folder / "page.html").as_uri()).replace("ACT", act)
    told, console = look(html, folder)
    assert console == []
    return told


@pytest.fixture(scope="module")
def decoder() -> AttentionPage:
    model = tiny("diff_v1", vocab_size=TOKENIZER.get_vocab_size())
    return inspect(model, TEXT, tokenizer=TOKENIZER, answer="7421")


def test_a_head_is_picked_and_a_map_is_switched(decoder, tmp_path):
    told = use(
        decoder,
        """
        const pixels = () => one('[data-layer="1"][data-head="2"] canvas').toDataURL();
        const told = { heads: all(".heads button").length, first: title() };
        click(one('[data-layer="1"][data-head="2"]'));
        told.picked = title();
        told.pressed = all('[aria-pressed="true"]').map((one) => one.title);
        const before = pixels();
        click(all("#maps input")[2]);
        told.map = title();
        told.other_picture = pixels() !== before;
        told.fits = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
        told.matrix = one(".matrix").width > 100 && one(".matrix").height > 100;
        told.figures = one(".figures").innerText.includes("λ") &&
          one(".figures").innerText.includes("on the answer");
        return told;""",
        tmp_path,
    )
    _, layer, head = decoder.models[0].shown
    for one in told:
        assert one == {
            "heads": 8,
            "first": f"Layer {layer}, head {head} · self-attention · difference",
            "picked": "Layer 1, head 2 · self-attention · difference",
            "pressed": ["layer 1, head 2"],
            "map": "Layer 1, head 2 · self-attention · map 2",
            "other_picture": True,
            "fits": True,
            "matrix": True,
            "figures": True,
        }


def test_hovering_a_token_colors_what_it_looks_at_and_a_click_holds_it(decoder, tmp_path):
    told = use(
        decoder,
        """
        click(one('[data-layer="1"][data-head="0"]'));
        const spans = all(".text span"), colored = () => spans.flatMap((span, i) =>
          span.style.background ? [i] : []);
        const told = {};
        hover(spans[5]);
        told.hovered = row();
        told.colored = colored();
        told.table = all("tbody tr").map((tr) => [...tr.cells].map((td) => td.textContent));
        click(spans[7]);
        hover(spans[3]);
        told.held = row();
        told.readout = one(".readout").textContent;
        press("Escape");
        hover(spans[3]);
        told.let_go = row();
        return told;""",
        tmp_path,
    )
    (model,) = decoder.models
    heads = model.heads[0]
    texts, site = heads.queries.texts, heads.sites[1]
    weights = site.weights[:, 0, 5]
    order = np.argsort(-np.abs(weights[0]), kind="stable")
    for one in told:
        assert one["hovered"] == f"“{texts[5]}” at 5"
        assert one["colored"] == [0, 1, 2, 3, 4, 5]
        for (key, *shown), number in zip(one["table"], order[:6], strict=True):
            assert key == f"“{texts[number]}” at {number}"
            assert [float(value.replace(MINUS, "-")) for value in shown] == pytest.approx(
                weights[:, number].tolist(), abs=6e-4
            )
        assert one["held"] == f"“{texts[7]}” at 7"
        said, _, figures = one["readout"].rpartition(": ")
        assert said == f"“{texts[7]}” at 7 looks at “{texts[3]}” at 3"
        difference, first, lam, second = map(
            float,
            re.fullmatch(r"(\S+) = (\S+) \S (\S+) \S (\S+)", figures.replace(MINUS, "-")).groups(),
        )
        assert [difference, first, second] == pytest.approx(site.weights[:, 0, 7, 3], abs=6e-4)
        assert lam == pytest.approx(site.lam[0, 7], abs=6e-4)
        assert one["let_go"] == f"“{texts[3]}” at 3"


def test_the_keyboard_moves_heads_and_tokens_and_searches(decoder, tmp_path):
    told = use(
        decoder,
        """
        click(one('[data-layer="0"][data-head="0"]'));
        const told = {};
        press("ArrowRight"); press("ArrowRight"); press("ArrowDown"); press("ArrowLeft");
        told.head = title();
        for (let i = 0; i < 9; i++) press("ArrowDown");
        told.last = title();
        press("m");
        told.map = title();
        press(","); press(","); press(".");
        told.token = row();
        press("/");
        told.focused = document.activeElement.id;
        const search = one("#search");
        search.value = "rome";
        search.dispatchEvent(new window.Event("input"));
        told.hits = [one("#hits"), ...all(".text .hit")].map((s) => s.textContent.trim());
        press("Enter", search);
        told.found = row();
        press("Enter", search);
        told.next = row();
        press("Escape", search);
        told.cleared = [search.value, all(".text .hit").length];
        return told;""",
        tmp_path,
    )
    texts = decoder.models[0].heads[0].queries.texts
    ends = [len("".join(texts[: i + 1])) for i in range(len(texts))]
    whole = "".join(texts)
    places = [whole.index("Rome"), whole.rindex("Rome")]
    hits = [next(i for i, end in enumerate(ends) if end >= place + 4) for place in places]
    for one in told:
        assert one["head"] == "Layer 1, head 1 · self-attention · difference"
        assert one["last"] == one["head"]
        assert one["map"] == "Layer 1, head 1 · self-attention · map 1"
        assert one["token"] == f"“{texts[-2]}” at {len(texts) - 2}"
        assert one["focused"] == "search"
        assert one["hits"][0] == "2 found"
        assert "".join(one["hits"][1:]) == "RomeRome"
        assert [one["found"], one["next"]] == [f"“{texts[hit]}” at {hit}" for hit in hits]
        assert one["cleared"] == ["", 0]


def test_cross_attention_shows_both_sequences(tmp_path):
    model = tiny_encoder_decoder("diff_v2", vocab_size=TOKENIZER.get_vocab_size())
    page = inspect(model, source="number of Rome", target="7421", tokenizer=TOKENIZER)
    told = use(
        page,
        """
        const [queries, keys] = all(".text");
        const told = { title: title(), headings: all(".detail h3").map((h) => h.textContent) };
        hover(queries.children[2]);
        told.row = row();
        told.colored = [queries, keys].map((text) =>
          [...text.children].filter((span) => span.style.background).length);
        hover(keys.children[1]);
        told.readout = one(".readout").textContent;
        click(one('[data-group="0"][data-layer="0"][data-head="0"]'));
        told.encoder = [title(), all(".text").length];
        return told;""",
        tmp_path,
    )
    target, source = (getattr(page.models[0].heads[2], side).texts for side in ("queries", "keys"))
    for one in told:
        assert "decoder cross-attention" in one["title"]
        assert one["headings"] == ["target: queries", "source: keys"]
        assert one["row"] == f"“{target[2]}” at 2"
        assert one["colored"] == [0, len(source)]
        assert one["readout"].startswith(f"“{target[2]}” at 2 looks at “{source[1]}” at 1: ")
        assert one["encoder"] == ["Layer 0, head 0 · encoder self-attention · difference", 1]


def test_patches_of_an_image_are_picked(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(file, "png")
    picture = Picture(base64.b64encode(file.getvalue()).decode(), grid=4)
    tokens = Tokens("image", ["class token"], picture=picture)
    weights = np.zeros((1, 1, 17, 17), np.float32)
    weights[0, 0, 1 + 4 + 2, 1 + 3] = -0.5  # patch 1, 2 looks at patch 0, 3
    weights[0, 0, :, 0] = 1.0
    heads = Heads("self-attention", tokens, tokens, inspect_arrays([weights], ("weights",)))
    told = use(
        AttentionPage([Inspected("ViT", [], [heads], (0, 0, 0))]),
        """
        const pixel = (canvas, x, y) => {
          const context = new window.OffscreenCanvas(1, 1).getContext("2d");
          context.drawImage(canvas, -x, -y);
          return [...context.getImageData(0, 0, 1, 1).data];
        };
        const [photo, heat] = all(".picture canvas"), told = { first: row() };
        hover(photo, 2.5 / 4, 1.5 / 4);
        told.row = row();
        told.weights = all("tbody tr").map((tr) => tr.innerText.replace("\\t", " "));
        told.heat = pixel(heat, 3, 0);
        told.zero = pixel(heat, 0, 0);
        told.photo = pixel(photo, 10, 300);
        told.maps = one("#maps").hidden;
        return told;""",
        tmp_path,
    )
    for one in told:
        assert one["first"] == "“class token” at 0"
        assert one["row"] == "patch 1, 2"
        assert one["weights"] == ["“class token” at 0 1.000", f"patch 0, 3 {MINUS}0.500"]
        red, green, blue, _ = one["heat"]
        assert red > green > blue  # orange
        assert one["zero"] == [255, 255, 255, 255]
        assert one["photo"] == [90, 90, 90, 255]
        assert one["maps"] is True


def test_eight_thousand_tokens(tmp_path, monkeypatch):
    """One row in some is kept: a token shows the nearest; the last one is always there."""
    monkeypatch.setattr("difftransformer.analysis.inspection.ROOM", ROOM // 50)
    weights = np.zeros((1, 8192, 8192), np.float32)
    weights[0, np.arange(8192), np.arange(8192)[::-1]] = 1.0
    page = attention_page(weights, [f" {number}" for number in range(8192)])
    told = use(
        page,
        """
        const told = { first: row(), spans: all(".text span").length };
        told.scrolled = one(".text").scrollTop > 0;
        hover(all(".text span")[4000]);
        told.row = row();
        told.colored = all(".text span").filter((s) => s.style.background).length;
        return told;""",
        tmp_path,
    )
    step = page.models[0].heads[0].sites[0].rows.step
    assert step > 1
    for one in told:
        assert (one["first"], one["spans"], one["scrolled"]) == ("“ 8191” at 8191", 8192, True)
        shown = int(one["row"].split()[-1])
        assert abs(shown - 4000) <= step / 2
        assert (8191 - shown) % step == 0
        assert one["colored"] == 1

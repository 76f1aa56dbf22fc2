"""The report as a person meets it: in a browser without a network, on a phone, names that bite."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from browser import overflow
from conftest import TINY, enter, experiment, pretend_run, stage

from pipeline.base.config import load_experiment

HOSTILE = ["<img src=x onerror=document.title='!'>", "'\"; \\ & </script><b>", "=1+1|%0A", "$x^2$"]
Opener = Callable[..., object]


@pytest.fixture(scope="module")
def report(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the page about a run whose classes have names that are no names."""
    home = tmp_path_factory.mktemp("hostile")
    train = shutil.copytree(drawn, home / "data" / "demo") / "train.csv"
    table = pd.read_csv(train, dtype=str)
    names = dict(zip(sorted(set(table.label)), HOSTILE, strict=True))
    table.assign(label=table.label.map(names)).to_csv(train, index=False)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, home)
        tiny = experiment(home / "tiny.yaml", TINY)
        stage("prepare")(tiny)
        stage("folds")(tiny)
        pretend_run(load_experiment(tiny))
        stage("ensemble")([tiny])
    return (home / "runs" / "tiny" / "report.html").as_uri()


def test_it_loads_without_a_network_and_names_are_text(report: str, open_page: Opener) -> None:
    page = open_page(report)
    assert page.title() == "tiny · demo"
    shown = {cell.inner_text() for cell in page.locator("#class-table td:first-child").all()}
    assert shown == set(HOSTILE)
    sizes = page.eval_on_selector_all(".frame img", "all => all.map((i) => i.naturalWidth)")
    assert len(sizes) > 30 and min(sizes) >= 32, "each picture is there"
    assert page.locator("section svg").count() >= 5


def test_the_table_of_classes_sorts_and_filters(report: str, open_page: Opener) -> None:
    page = open_page(report)
    counts = page.locator("#class-table td:nth-child(2)")
    head = page.get_by_role("button", name="pictures")
    for order in ("descending", "ascending"):
        head.click()
        assert page.locator("#class-table th:nth-child(2)").get_attribute("aria-sort") == order
        found = [int(text) for text in counts.all_inner_texts()]
        assert found == sorted(found, reverse=order == "descending") and len(set(found)) > 1
    by_name = [HOSTILE[i] for i in (1, 0, 2, 3)]
    for expected in (by_name, by_name[::-1]):
        page.get_by_role("button", name="class", exact=True).click()
        assert page.locator("#class-table td:first-child").all_inner_texts() == expected
    page.fill("[data-rows='#class-table']", "ONERROR")
    visible = page.locator("#class-table tbody tr:visible")
    assert [row.locator("td").first.inner_text() for row in visible.all()] == HOSTILE[:1]


def test_a_picture_opens_large_and_closes(report: str, open_page: Opener) -> None:
    page = open_page(report)
    large = page.locator("dialog.large")
    frames = page.locator("#errors .frame")
    frames.first.click()
    assert large.is_visible()
    first = large.locator("code").inner_text()
    assert first == frames.first.get_attribute("data-id")
    assert large.locator("img").bounding_box()["width"] > 300
    page.keyboard.press("ArrowRight")
    assert large.locator("code").inner_text() == frames.nth(1).get_attribute("data-id") != first
    page.keyboard.press("Escape")
    assert not large.is_visible()
    frames.first.click()
    page.mouse.click(5, 400)
    assert not large.is_visible(), "a click beside it closes it, too"


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_in_one_direction(report: str, open_page: Opener, dark: bool) -> None:
    page = open_page(report, width=375, dark=dark)
    assert overflow(page) == 0
    ink, paper = page.evaluate(
        "['color', 'backgroundColor'].map((k) => +getComputedStyle(document.body)[k]"
        ".match(/[0-9]+/)[0])"
    )
    assert (ink > 200 > 60 > paper) if dark else (ink < 60 < 200 < paper)
    page.locator("#errors .frame").first.tap()
    box = page.locator("dialog.large img").first.bounding_box()
    assert 300 < box["width"] <= 375


def test_the_map_shows_the_picture_under_the_pointer(
    run: Callable[..., str], finished: Callable[..., str], space: Path, open_page: Opener
) -> None:
    run("ensemble", f"{space}/{finished()}.yaml", "--no-report")
    assert not (space / "runs/tiny/report.html").exists()
    said = run("report", "tiny")
    assert "report.html" in said and "not shown where the model looks" in said
    page = open_page((space / "runs/tiny/report.html").as_uri())
    canvas, tip = page.locator("#map canvas"), page.locator("#map .tip")
    canvas.scroll_into_view_if_needed()
    seen = page.evaluate("map")
    pairs = zip(seen["label"], seen["answer"], strict=True)
    which = [label not in (-1, answer) for label, answer in pairs].index(True)
    box = canvas.bounding_box()
    x = 14 + seen["x"][which] / 1000 * (box["width"] - 28)
    y = 14 + seen["y"][which] / 1000 * (box["height"] - 28)
    canvas.hover(position={"x": x, "y": y})
    assert tip.is_visible()
    assert tip.locator("img").count() == 1
    label = seen["classes"][seen["label"][which]]
    canvas.click(position={"x": x, "y": y})
    assert page.locator("dialog.large h3").inner_text() == label
    assert page.locator("#views img").count() >= 12 and page.locator(".error .strip").count() > 3

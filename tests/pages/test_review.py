"""The review page as a person uses it: keys, mouse, two tabs, a killed server, hostile names."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import playwright
import pytest
import uvicorn
from browser import overflow
from desks import CLASSES, TEST, make_desk, make_rows_desk
from starlette.testclient import TestClient

from pipeline.analysis.evidence import load_evidence
from pipeline.analysis.whatif import WhatIf
from pipeline.data.decisions import (
    append,
    changes_of,
    decisions_path,
    new_line,
    read_log,
    standing,
)
from pipeline.pages import desk as module
from pipeline.pages.choices import columns
from pipeline.pages.desk import PAGE, Desk, NoDecisionError
from pipeline.pages.export import static_page
from pipeline.pages.server import listening, make_app
from pipeline.review import take_over

TOKEN = "secret"
HOME = Path(__file__).parents[2]
Ask = Callable[..., object]


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABELS_DIR", str(tmp_path))
    return tmp_path / "made-up.csv"


@pytest.fixture
def desk(labels: Path) -> Desk:
    return make_desk()


@pytest.fixture
def client(desk: Desk) -> TestClient:
    return TestClient(make_app(desk, TOKEN), base_url="http://127.0.0.1")


@pytest.fixture
def address(desk: Desk) -> Iterator[str]:
    with serving(desk) as url:
        yield url


class serving:  # noqa: N801 - used like a function
    """A desk on a port of its own, in a thread."""

    def __init__(self, desk: Desk):
        self.place = listening(0)
        config = uvicorn.Config(make_app(desk, TOKEN), log_level="warning")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.place],))

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.place.getsockname()[1]}/{TOKEN}/"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()


def until(page: object, condition: str) -> None:
    """Wait for a condition in the page; its own policy forbids what Playwright has for it."""
    for _ in range(1000):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(20)
    pytest.fail(f"never: {condition}")


def undrawn(address: str, steps: str) -> object:
    """What steps return that are taken on the page without a browser: see undrawn.js.

    Playwright brings Node along, with or without a Chromium to drive.
    """
    node = Path(playwright.__file__).parent / "driver" / "node"
    command = [node, Path(__file__).with_name("undrawn.js"), address, steps]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def decision(row: int, click: str, action: str, new: str = "", note: str = "") -> dict[str, object]:
    return {"row": row, "click": click, "action": action, "new": new, "note": note}


def test_only_who_knows_the_token_by_the_name_of_this_machine(client: TestClient) -> None:
    page = client.get(f"/{TOKEN}/")
    assert page.status_code == 200
    assert page.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' ")
    assert client.get(f"/{TOKEN}/review.js").status_code == 200
    for path in ("/", "/wrong/", "/wrong/list", f"/{TOKEN}x/", "/review.js", f"/{quote('é')}/"):
        assert client.get(path).status_code == 403, path
    assert client.post("/wrong/decide", json=decision(TEST, "1", "keep")).status_code == 403
    assert client.get(f"/{TOKEN}/", headers={"host": "evil.example"}).status_code == 400
    for path in ("desk.py", "..%2fdesk.py", "picture/999", "image/-1.webp", "attention/5/9.webp"):
        assert client.get(f"/{TOKEN}/{path}").status_code == 404, path


def test_a_decision_is_a_line_and_what_is_none_is_refused(client: TestClient, labels: Path) -> None:
    def post(*asked: object) -> object:
        return client.post(f"/{TOKEN}/decide", json=decision(*asked))

    given = client.get(f"/{TOKEN}/picture/{TEST}").json()["label"]
    answer = post(TEST, "c1", "label", CLASSES[1])
    assert answer.json()["now"]["new"] == CLASSES[1]
    assert answer.json()["progress"]["actions"] == {"label": 1}
    post(TEST, "c1", "label", CLASSES[1])
    post(TEST, "c2", "label", CLASSES[2])
    log = read_log(labels)
    assert list(log.click) == ["c1", "c2"] and list(log.old) == [given, CLASSES[1]]
    assert set(log.id) == {'"><script>alert(0)</script>.png'} and set(log.pixel_hash) == {"pixels5"}
    assert post(TEST, "c3", "undo", "", "c2").json()["now"]["click"] == "c1"
    assert post(TEST, "c4", "undo", "", "c1").json()["now"] is None
    bad = [(TEST, "c5", "label", "no class"), (TEST, "c5", "burn"), (0, "c5", "keep")]
    for asked in [*bad, (TEST, "", "keep"), (TEST, "c5", "keep", CLASSES[0])]:
        assert post(*asked).status_code == 422, asked
    for body in ("[]", "nonsense", "{}"):
        assert client.post(f"/{TOKEN}/decide", content=body).status_code == 422
    assert len(read_log(labels)) == 4
    labels.write_text(labels.read_text().replace('"undo"', '"unod"'))
    broken = post(TEST, "c6", "keep")
    assert broken.status_code == 500 and "made-up.csv line 4: action" in broken.json()["error"]


def test_a_key_that_was_pressed_on_another_project_decides_nothing_here(
    client: TestClient, labels: Path
) -> None:
    own = client.get(f"/{TOKEN}/picture/{TEST}").json()["id"]
    sent = [decision(TEST, "c1", "keep") | {"id": name} for name in ("other.png", own)]
    answers = [client.post(f"/{TOKEN}/decide", json=one).status_code for one in sent]
    assert answers == [422, 200] and list(read_log(labels).click) == ["c1"]


def test_of_the_decisions_the_last_state_alone_is_kept(desk: Desk) -> None:
    for click in "abc":
        desk.decide(TEST, click, "keep")
    assert desk.now(TEST)["click"] == "c"
    assert Desk._decisions.cache_info().currsize == 1


def test_lists(client: TestClient, desk: Desk) -> None:
    def rows(query: str) -> list[int]:
        return [item["row"] for item in client.get(f"/{TOKEN}/list?{query}").json()["items"]]

    flipped = {TEST + i for i in range(0, 40, 5)}
    assert set(rows("view=suspects")) == flipped
    kinds = desk.queue.kind.unique()
    found = [row for kind in kinds for row in rows(f"view=suspects&a={quote(kind)}")]
    assert len(kinds) > 1 and sorted(found) == sorted(flipped)
    assert set(rows("view=all")[:8]) == flipped, "the least sure come first"
    labels = desk.evidence.table.set_index("row").label
    chosen = rows(f"view=all&a={quote(CLASSES[2])}")
    assert sorted(chosen) == list(labels.index[labels == CLASSES[2]])
    pair = rows(f"view=pair&a={quote(CLASSES[2])}&b={quote(CLASSES[3])}")
    assert sorted(pair) == list(labels.index[labels.isin(CLASSES[2:])])
    assert rows("view=test") == [3, 1, 0, 2, 4]
    pairs = desk.pairs()
    assert set(pairs[0][:2]) <= set(CLASSES) and sum(n for *_, n in pairs) == len(flipped)


def test_one_picture(client: TestClient) -> None:
    row = TEST + 5  # of class 1, labelled 0
    found = client.get(f"/{TOKEN}/picture/{row}").json()
    assert (found["label"], found["suggested"]) == (CLASSES[0], CLASSES[1])
    assert found["top"][0]["class"] == CLASSES[1] and set(found["top"][0]["members"]) == {
        "one",
        "two",
    }
    assert CLASSES[0] in [one["class"] for one in found["top"]]
    own, other = found["near"]
    assert (own["of"], other["of"]) == (f"of {CLASSES[0]}", f"of {CLASSES[1]}")
    assert row not in [one["row"] for one in own["pictures"]]
    assert other["pictures"][0]["similarity"] > own["pictures"][-1]["similarity"]
    image = client.get(f"/{TOKEN}/image/{row}.webp?small")
    assert image.headers["content-type"] == "image/webp" and image.content[8:12] == b"WEBP"


def test_what_if_counts_what_is_decided(client: TestClient, desk: Desk) -> None:
    assert client.get(f"/{TOKEN}/whatif").json() == {"changed": 0, "dropped": 0, "added": 0}
    for i, row in enumerate((TEST, TEST + 5)):
        right = client.get(f"/{TOKEN}/picture/{row}").json()["suggested"]
        client.post(f"/{TOKEN}/decide", json=decision(row, f"c{i}", "label", right))
    client.post(f"/{TOKEN}/decide", json=decision(TEST + 10, "c9", "drop"))
    client.post(f"/{TOKEN}/decide", json=decision(TEST + 1, "c8", "keep"))
    target, fold = desk.evidence.target, desk.evidence.table.fold.to_numpy()
    others = desk.features[target == 1][:2] + 0.01
    desk.heads = WhatIf(desk.features, target, fold, len(CLASSES), others)
    found = client.get(f"/{TOKEN}/whatif").json()
    counts = {"changed": 2, "dropped": 1, "added": 0}
    assert found == {**counts, **desk.heads.effect([10], {0: 0, 5: 1})}
    more = desk.heads.likely(1, 9)
    assert set(more) == {0, 1}
    asked = {"more": CLASSES[1], "count": 9}
    found = client.get(f"/{TOKEN}/whatif", params=asked).json()
    assert found == {**counts, "added": 2, **desk.heads.effect([10], {0: 0, 5: 1}, more)}
    assert client.get(f"/{TOKEN}/whatif?more=<b>&count=-1").json()["added"] == 0


def test_each_key_writes_one_line(address: str, labels: Path, open_page: Ask) -> None:
    page = open_page(address, allowed=address)
    page.wait_for_selector("#classes button")

    def press(*keys: str) -> list[str]:
        """What is in the log then."""
        before = page.locator("#kind").text_content()
        for key in keys:
            page.keyboard.press(key)
        until(page, "localStorage.getItem(KEPT) === '[]' && shown")
        page.wait_for_timeout(50)
        seen.append(before)
        return list(read_log(labels).action)

    seen: list[str] = []
    page.keyboard.down("k")
    until(page, "shown")
    page.keyboard.down("k")  # as a key that is held repeats
    page.keyboard.up("k")
    assert press() == ["keep"]
    seen.clear()
    assert press("d") == ["keep", "drop"]
    assert press("t") == ["keep", "drop", "twin"]
    assert len(set(seen)) == 2, "each decision leads to the next picture"
    label = page.evaluate("shown.label")
    number = next(i for i in range(4) if page.evaluate(f"shown.top[{i}].class") != label)
    assert press(str(number + 1))[3:] == ["label"]
    assert press("/", *"plain", "Enter")[4:] == ["label"]
    log = read_log(labels)
    assert log.note[2] and log.new[4] == "plain_name"
    assert press("u")[5:] == ["undo"] and read_log(labels).note[5] == log.click[4]
    assert press("j", "ArrowLeft", "?", "Escape", "x", "Control+k")[6:] == []
    looks = [page.locator("#large").get_attribute("src") for _ in range(3) if not press("a")[6:]]
    answer, own = (
        page.evaluate(f"shown.top.find((one) => one.class === {c}).target")
        for c in ("shown.top[0].class", "shown.label")
    )
    row = page.evaluate("shown.row")
    assert looks == [
        f"attention/{row}/{answer}.webp",
        f"attention/{row}/{own}.webp",
        f"image/{row}.webp",
    ]
    page.locator("#actions button", has_text="Keep").click()
    assert press()[6:] == ["keep"]
    assert "6 of 8 suspects" not in page.locator("#progress").text_content()
    page.reload()
    page.wait_for_selector("#classes button")
    assert page.locator("#grid .thumb[data-action=keep]").count() == 2


def test_a_key_decides_nothing_while_the_next_pictures_are_fetched(
    address: str, desk: Desk, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    rows = desk.order("suspects").tolist()
    steps = """
    await until(() => shown);
    press("j");
    await until(() => shown?.row === items[1].row);
    const release = hold("list");
    press("k");
    press("d");
    release();
    await until(() => shown && kept().length === 0);
    return shown.row;"""
    assert undrawn(address, steps) == rows[2]
    log = read_log(labels)
    assert list(log.action) == ["keep"] and list(log.id) == [desk.rows.id[rows[1]]]


def test_a_page_that_is_opened_again_goes_on_where_it_was_left(
    address: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    rows = desk.order("suspects").tolist()
    for i, row in enumerate(rows[:5]):
        desk.decide(row, f"c{i}", "keep")
    assert undrawn(address, "await until(() => shown); return shown.row;") == rows[5]


def test_a_picture_that_cannot_be_had_is_told(address: str) -> None:
    steps = """
    await until(() => shown);
    items[1].row = 999;
    press("j");
    await until(() => $("trouble").textContent);
    return [shown, $("trouble").textContent];"""
    assert undrawn(address, steps) == [None, "answer 404"]


def test_two_tabs_lose_nothing(address: str, labels: Path, open_page: Ask) -> None:
    tabs = [open_page(address, allowed=address) for _ in range(2)]
    for tab in tabs:
        tab.wait_for_selector("#classes button")
    for key in "kdk":
        for tab in tabs:
            until(tab, "shown")
            tab.keyboard.press(key)
    for tab in tabs:
        until(tab, "localStorage.getItem(KEPT) === '[]'")
    assert sorted(read_log(labels).action) == ["drop"] * 2 + ["keep"] * 4


def test_a_server_that_is_killed_between_key_and_answer(labels: Path, browser: object) -> None:
    """Before the line is on the disk, and after: it is sent again, and counts once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def start(*args: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "tests/pages/desks.py", *args]
        environment = {**os.environ, "PORT": port, "PYTHONPATH": str(HOME)}
        process = subprocess.Popen(
            command, cwd=HOME, env=environment, stdout=subprocess.PIPE, text=True
        )
        return process, re.search(r"http://\S+", process.stdout.readline())[0]

    process, address = start("before")
    page = browser.new_page()
    page.goto(address)
    until(page, "shown")
    page.keyboard.press("d")
    assert process.wait(10) == -9
    page.wait_for_selector("#trouble:has-text('does not answer')")
    assert list(read_log(labels).action) == []
    process, address = start("after")
    page.wait_for_selector("#trouble:has-text('started anew')", timeout=10_000)
    page.goto(address)
    assert process.wait(10) == -9
    assert list(read_log(labels).action) == ["drop"]
    process, address = start()
    try:
        page.goto(address)
        until(page, "localStorage.getItem(KEPT) === '[]'")
        assert list(read_log(labels).action) == ["drop"]
        assert page.locator("#grid .thumb[data-action=drop]").count() == 1
    finally:
        page.close()
        process.kill()
        process.wait()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (375, True)])
def test_hostile_names_are_text_at_any_width(
    address: str, open_page: Ask, width: int, dark: bool
) -> None:
    page = open_page(address, width=width, dark=dark, allowed=address)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.wait_for_selector("#classes button")
    assert overflow(page) == 0
    texts = " ".join(page.locator("#classes .class").all_text_contents())
    assert "<img src=x onerror=alert(1)>" in texts and "日本 & co</script>" in texts
    assert "<script>alert(" in page.locator("#kind").text_content()
    assert page.title() == "Review · made <up>"
    for view in ("all", "pair", "test"):
        page.locator(f"#views [data-view={view}]").click()
        page.wait_for_selector("#grid .thumb")
        until(page, "shown")
        assert overflow(page) == 0
    assert not page.locator("#actions").is_visible(), "test pictures get no labels"
    page.keyboard.press("k")
    assert page.evaluate("localStorage.getItem(KEPT)") in (None, "[]")


def test_labels_are_given_and_taken_one_by_one(labels: Path, open_page: Ask) -> None:
    desk = make_rows_desk("multi-label")
    assert list(desk.queue.index) == [0] and desk.queue.suggested[0] == "rust, scab"
    with serving(desk) as address:
        page = open_page(address, allowed=address)
        page.wait_for_selector("#classes button")
        assert page.locator("#title").text_content() == "scab → rust, scab?"
        assert page.locator("#classes .class").all_text_contents() == [
            "1rust97.0 %",
            "2scab is labelled90.0 %",
        ]
        for key in ("1", "2"):
            page.keyboard.press(key)
        until(page, "localStorage.getItem(KEPT) === '[]'")
        assert page.locator("#verdict").text_content().startswith("Decided: rust")
        page.keyboard.press("1")  # it would have none then
        assert "one label at least" in page.locator("#trouble").text_content()
        assert not page.locator("#what-if").is_visible()
    assert list(read_log(labels).new) == ["scab rust", "rust"]
    rows = desk.train
    changes = changes_of(standing(read_log(labels)), rows, labels, desk.evidence.rules.form)
    assert changes.label == {rows.id[TEST]: "rust"}


def test_a_level_is_given_by_its_key_and_a_number_by_typing(labels: Path, open_page: Ask) -> None:
    desk = make_rows_desk("ordinal")
    assert desk.picture(TEST)["reason"].startswith("held out 3.8, label 1; look-alikes 3.7")
    seen = [(one["class"], round(one["prob"], 2)) for one in desk.picture(TEST)["top"]]
    assert seen == [("0", 0), ("1", 0), ("4", 0.8)]
    with serving(desk) as address:
        page = open_page(address, allowed=address)
        page.wait_for_selector("#classes button")
        page.keyboard.press("3")
        until(page, "localStorage.getItem(KEPT) === '[]'")
    assert list(read_log(labels).new) == ["4"]
    number = make_rows_desk("regression")
    with serving(number) as address:
        page = open_page(address, allowed=address)
        page.wait_for_selector("#classes button")
        assert page.locator("#classes .class").text_content() == "label3.8 (+2.8)"
        for key in ("/", "2", ".", "5", "Enter"):
            page.keyboard.press(key)
        until(page, "localStorage.getItem(KEPT) === '[]'")
        for key in ("/", "3", ",", "5", "Enter"):
            page.keyboard.press(key)
        until(page, "localStorage.getItem(KEPT) === '[]' && $('trouble').textContent")
        assert "expected a number in label, not '3,5'" in page.locator("#trouble").text_content()
        assert page.evaluate("items.filter((one) => one.now).map((one) => one.now.new)") == ["2.5"]
    assert list(read_log(labels).new) == ["4", "2.5"]
    with pytest.raises(NoDecisionError, match="expected a number in label, not 'x'"):
        number.decide(TEST, "c1", "label", "x")


def test_how_far_off_a_large_number_is_is_not_rounded() -> None:
    some = SimpleNamespace(target=np.array([[12345.0]]), classes=["price"])
    (line,) = columns(some, 0, False, np.array([12345.6]), {})
    assert line["text"] == "1.235e+04 (+0.6)"


def test_20_000_pictures_scroll(
    labels: Path, open_page: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick(
        train: np.ndarray, query: np.ndarray, k: int, group: object = None
    ) -> tuple[np.ndarray, ...]:
        return np.zeros((len(query), k), int), np.zeros((len(query), k))

    monkeypatch.setattr(module, "neighbours", quick)  # 7 s for so many
    desk = make_desk(20_000)
    with serving(desk) as address:
        page = open_page(address, allowed=address)
        page.wait_for_selector("#classes button")
        page.locator("#views [data-view=all]").click()
        until(page, "total === 20000 && shown")
        for pages in (2, 3, 4):
            page.evaluate("$('list').scrollTo(0, 1e9)")
            until(page, f"items.length >= {pages * PAGE}")
        loaded = page.evaluate("[...document.images].filter((one) => one.complete).length")
        assert loaded < page.locator("#grid img").count()
        page.keyboard.press("k")
        until(page, "localStorage.getItem(KEPT) === '[]'")
        page.close()
    assert list(read_log(labels).action) == ["keep"]


def test_the_page_without_a_server(
    desk: Desk, labels: Path, tmp_path: Path, open_page: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "review.html"
    path.write_text(static_page(desk))
    page = open_page(path.as_uri(), width=375)
    page.wait_for_selector("#classes button")
    page.locator("#who input").fill('Ada, "the expert"')
    page.locator("h1").click()
    until(page, "shown")
    for key in ("k", "d", "d", "u"):
        page.keyboard.press(key)
        until(page, "shown")
    assert overflow(page) == 0
    assert page.evaluate("scrollY") == 0, "a decision does not scroll a phone to the list"
    page.reload()
    page.wait_for_selector("#classes button")
    done = "2 of 8 suspects · 1 kept · 1 dropped"
    until(page, f"$('progress').textContent.trim() === '{done}'")
    page.evaluate("window.made = kept()")
    page.evaluate("keep(window.made.map((one) => ({...one, pixel_hash: 'of before'}))); restore()")
    until(page, "$('progress').textContent.trim() === '0 of 8 suspects'")
    page.evaluate("keep(window.made); restore()")
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "decisions.csv")
    take_over(desk.evidence, tmp_path / "decisions.csv")
    take_over(desk.evidence, tmp_path / "decisions.csv")
    log = read_log(labels)
    assert list(log.action) == ["keep", "drop", "drop", "undo"]
    assert set(log.who) == {'Ada, "the expert"'}
    assert "4 lines of" in (told := capsys.readouterr().out) and "0 lines of" in told
    assert desk.progress()["done"] == 2


def test_the_page_without_a_server_names_a_studys_picture_as_decisions_do(desk: Desk) -> None:
    rows = desk.rows
    rows["study"], rows["id"] = rows.id, rows.id + "/000"
    page = static_page(Desk(desk.evidence, desk.features, desk.test_features))
    items = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])["items"]
    named = set(zip(rows.id, rows.hash, strict=True))
    assert items and {(one["id"], one["hash"]) for one in items} <= named


def test_the_command_exports_takes_over_and_says_what_it_cannot(
    run: Callable[..., str], finished: Callable[..., str], space: Path
) -> None:
    refused = run("review", "mine/nosuch.yaml", expect=2)
    assert "nosuch/test.npz: no predictions; run python -m pipeline.ensemble mine/nos" in refused
    name = finished()
    experiment, page, other = str(space / f"{name}.yaml"), space / "out.html", space / "other.csv"
    run("ensemble", experiment, "--no-report")
    assert "no.csv: no such file" in run("review", name, "--take", "no.csv", expect=2)
    other.write_text("id,label\n1,oak\n")
    assert "no column 'click'" in run("review", name, "--take", str(other), expect=2)
    assert not list(space.glob("labels/*.csv"))
    assert " suspects, " in run("review", name, "--export", str(page))
    row = load_evidence(name).prepared.rows.iloc[0]
    append(decisions_path("other"), [new_line("c1", "keep", row, row.label)])
    told = run("review", name, "--take", str(decisions_path("other")))
    assert "1 lines of" in told and "1 confirmed" in told
    assert "demo.csv: 0 labels changed, 0 pictures left out, 1 confirmed" in run(
        "prepare", experiment
    )

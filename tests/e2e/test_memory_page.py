"""The page of a memory snapshot, in a browser: what it draws, what it says, and that nothing in it is markup."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Keys, MemoryPage, chromium

from rtp_core.memory.arena import Arena
from rtp_core.memory.report.page import memory_page
from rtp_core.memory.snapshot import SavedGrid, SavedMoment, SavedSite, SavedStep, Snapshot
from rtp_core.memory.space import MemorySpace, Region

START = 0x7F00_0000_0000
KIB = 1 << 10
US = 1000  # nanoseconds

LAYERS, MODEL, CLI = (
    ("/src/acme/layers.py", 42, "norm"),
    ("/src/acme/model.py", 7, "Model.forward"),
    ("cli.py", 3, "main"),
)
WEIGHTS = (START, 256 * KIB, 0, 1, "persistent")
KV = (START + 256 * KIB, 256 * KIB, 1, 1, "persistent")
NORM = (START + 512 * KIB, 256 * KIB, 2, 2, "public")
LM_HEAD = (START + 768 * KIB, 128 * KIB, 3, 2, "public")


def story(**changes: Any) -> Snapshot:
    """A region of 1 MiB over 1 ms: weights and KV cache, a prefill with two buffers, a decode with one.

    Request a grows from 2 blocks to 3, b from 1 to 2, c comes for one step and shares block 0 with a.
    """
    events = (
        (100 * US, WEIGHTS[0], WEIGHTS[1], 0),
        (150 * US, KV[0], KV[1], 1),
        (200 * US, NORM[0], NORM[1], 2),
        (300 * US, LM_HEAD[0], LM_HEAD[1], 3),
        (400 * US, NORM[0], 0, 0),
        (400 * US, LM_HEAD[0], 0, 0),
        (500 * US, NORM[0], 64 * KIB, 2),
        (700 * US, NORM[0], 0, 0),
    )
    steps = (
        SavedStep(number=0, phase="open", time_ns=0, blocks={}),
        SavedStep(number=1, phase="load", time_ns=90 * US, blocks={}),
        SavedStep(number=2, phase="prefill", time_ns=200 * US, blocks={"a": (0, (0, 1)), "b": (0, (2,))}),
        SavedStep(
            number=3, phase="decode", time_ns=500 * US, blocks={"a": (2, (3,)), "b": (1, (4,)), "c": (0, (0, 5))}
        ),
        SavedStep(number=4, phase="decode", time_ns=750 * US, blocks={"a": (3, ()), "b": (2, ())}),
    )
    moments = {
        "now": SavedMoment(time_ns=1000 * US, step=4, held=(WEIGHTS, KV)),
        "peak": SavedMoment(time_ns=390 * US, step=2, held=(WEIGHTS, KV, NORM, LM_HEAD)),
        "oom": SavedMoment(time_ns=900 * US, step=4, held=(WEIGHTS, KV), asked=(1 << 30, "too large")),
    }
    told: dict[str, Any] = dict(
        device="acme:0",
        model="acme-7b",
        start=START,
        end=START + 1024 * KIB,
        alignment=64,
        level="stacks",
        frames=(LAYERS, MODEL, CLI),
        traces=(
            SavedSite(tag="weights", frames=(2,)),
            SavedSite(tag="kv_cache", frames=(2,)),
            SavedSite(tag="norm", frames=(0, 1, 2)),
            SavedSite(tag="lm_head", frames=(1, 2)),
        ),
        moments=moments,
        steps=steps,
        events=events,
        kv=SavedGrid(address=KV[0], num_blocks=16, block_nbytes=16 * KIB, block_size=32),
    )
    return Snapshot(**told | changes)


Show = Callable[[Snapshot], MemoryPage]


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def show(driver: Any, tmp_path: Path) -> Show:
    """Opens the page of a snapshot."""

    def open_page(snapshot: Snapshot) -> MemoryPage:
        file = tmp_path / "memory.html"
        file.write_text(memory_page(snapshot), encoding="utf-8")
        return MemoryPage(driver, file)

    return open_page


@pytest.fixture
def page(show: Show) -> MemoryPage:
    return show(story())


# -- the page as a whole ---------------------------------------------------------------------------------------------


def test_it_opens_without_a_complaint_and_asks_nobody_for_anything(page: MemoryPage, tmp_path: Path) -> None:
    page.press("#view-stacked")
    page.press("#at-peak")
    page.search("norm")
    assert page.complaints() == []
    assert page.requested() == [(tmp_path / "memory.html").as_uri()]


@pytest.mark.parametrize(
    ("attempt", "directive"),
    [
        ("fetch('http://127.0.0.1:9/').catch(() => 0)", "connect-src"),
        ("new Image().src = 'http://127.0.0.1:9/a.png'", "img-src"),
        (
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))",
            "script-src",
        ),
        (
            "document.body.append(Object.assign(document.createElement('style'), {textContent: 'h1 {color: red}'}))",
            "style-src",
        ),
    ],
)
def test_its_policy_lets_nothing_in(page: MemoryPage, attempt: str, directive: str) -> None:
    watch = "document.addEventListener('securitypolicyviolation', (e) => arguments[0](e.effectiveDirective));"
    refused = page.driver.execute_async_script(watch + attempt)
    assert refused.startswith(directive)
    assert page.driver.execute_script("return window.ran") is None


def test_the_header_gives_the_figures_of_now(page: MemoryPage) -> None:
    figures = {
        name: page.text(f"#stat-{name}").split(" ")[:2] for name in ("region", "used", "peak", "free", "largest")
    }
    assert figures == {
        "region": ["1", "MiB"], "used": ["512", "KiB"], "peak": ["896", "KiB"], "free": ["512", "KiB"],
        "largest": ["512", "KiB"],
    }  # fmt: skip
    assert (page.text("#stat-fragmented"), page.text("#stat-allocations")) == ("0 B", "2")
    assert page.text("#title") == "acme:0acme-7b"


def test_the_header_says_what_is_held_beside_the_arena_and_by_what(show: Show) -> None:
    page = show(story().model_copy(update={"beside": {"libacme": 3 << 20, "<b>": 7}}))
    assert [page.text(f"#stat-beside-{i}") for i in range(2)] == ["3 MiB", "7 B"]
    assert "libacme, beside it" in page.text("#stats") and "<b>, beside it" in page.text("#stats")
    assert page.complaints() == []


# -- the timeline ----------------------------------------------------------------------------------------------------


def test_a_span_is_drawn_in_the_colour_of_its_tag_and_a_hole_is_not(page: MemoryPage) -> None:
    hole = page.pixel(300 * US, 1000 * KIB)
    assert page.pixel(600 * US, 100 * KIB) == page.tag_colour("weights")
    assert page.pixel(300 * US, 600 * KIB) == page.tag_colour("norm")
    assert page.pixel(350 * US, 800 * KIB) == page.tag_colour("lm_head")
    assert hole not in {page.tag_colour(tag) for tag in ("weights", "kv_cache", "norm", "lm_head")}
    assert page.pixel(450 * US, 600 * KIB) == hole  # between prefill and decode
    assert page.pixel(250 * US, 800 * KIB) == hole  # not allocated yet
    assert page.pixel(600 * US, 600 * KIB) == hole  # the norm of a decode is smaller
    assert page.pixel(600 * US, 540 * KIB) == page.tag_colour("norm")


def test_hovering_tells_all_of_a_span(page: MemoryPage) -> None:
    page.mouse(300 * US, 600 * KIB).perform()
    page.settle()
    assert page["#tooltip"].is_displayed()
    told = page["#tooltip"].text
    for part in (
        "norm",
        "256 KiB (262,144)",
        f"{NORM[0]:#x}",
        "200 µs",
        "2 prefill",
        "a, b",
        "public",
        "layers.py:42",
        "Model.forward",
    ):
        assert part in told
    page.mouse(450 * US, 600 * KIB).perform()
    page.settle()
    assert not page["#tooltip"].is_displayed()


def test_a_long_stack_is_cut_in_the_tooltip_and_whole_in_the_panel(show: Show) -> None:
    frames = tuple((f"deep{i}.py", i, f"level_{i}") for i in range(20))
    traces = tuple(SavedSite(tag=tag, frames=tuple(range(20))) for tag in ("weights", "kv_cache", "norm", "lm_head"))
    page = show(story(frames=frames, traces=traces))
    page.mouse(300 * US, 600 * KIB).click().perform()
    page.settle()
    assert [item.text for item in page.all("#tooltip .stack li")][-2:] == ["level_11 deep11.py:11", "… 8 more"]
    assert len(page.all("#detail .stack li")) == 20
    assert page.data("#detail")["pinned"] == "yes"
    page["body"].send_keys(Keys.ESCAPE)
    page.settle()
    assert page.data("#detail")["pinned"] == "no"
    assert page.all("#detail .stack") == []


def test_the_wheel_zooms_at_the_cursor_and_reset_restores(page: MemoryPage) -> None:
    home = page.range()
    assert home == (100 * US, 1000 * US)
    page.wheel(300 * US, 600 * KIB, -300)
    t0, t1 = page.range()
    assert t1 - t0 < 0.8 * (home[1] - home[0])
    assert (300 * US - t0) / (t1 - t0) == pytest.approx(200 / 900, abs=2e-3)  # what was under the mouse still is
    assert page.pixel(300 * US, 600 * KIB) == page.tag_colour("norm")
    page.wheel(300 * US, 600 * KIB, -300, shift=True)
    data = page.data("#timeline")
    assert float(data["high"]) - float(data["low"]) < 0.8 * 1024 * KIB
    assert page.range() == (t0, t1)
    page.press("#reset")
    assert page.range() == home
    assert float(page.data("#timeline")["high"]) == 1024 * KIB


def test_dragging_pans_and_a_double_click_resets(page: MemoryPage) -> None:
    home = page.range()
    page.press("#zoom-in")
    t0, t1 = page.range()
    page.mouse((t0 + t1) / 2, 300 * KIB).click_and_hold().move_by_offset(100, 0).release().perform()
    page.settle()
    assert page.range()[0] < t0
    assert page.range()[1] - page.range()[0] == pytest.approx(t1 - t0)
    page.mouse(sum(page.range()) / 2, 300 * KIB).double_click().perform()
    page.settle()
    assert page.range() == home


def test_the_work_space_is_where_steps_allocate(page: MemoryPage) -> None:
    page.press("#fit-work")
    data = page.data("#timeline")
    assert 490 * KIB < float(data["low"]) < 512 * KIB
    assert 896 * KIB < float(data["high"]) < 920 * KIB
    assert page.range() == (200 * US, 700 * US)


def test_the_stacked_view_adds_up_what_is_held(page: MemoryPage) -> None:
    background = page.pixel(300 * US, 1000 * KIB)
    page.press("#view-stacked")
    assert page.data("#timeline")["view"] == "stacked"
    assert page.pixel(350 * US, 880 * KIB) in {page.tag_colour("norm"), page.tag_colour("lm_head")}
    assert page.pixel(350 * US, 900 * KIB) == background  # above the peak
    assert page.pixel(450 * US, 520 * KIB) == background  # only what stays is held
    assert page.pixel(450 * US, 500 * KIB) in {page.tag_colour("weights"), page.tag_colour("kv_cache")}
    page.mouse(350 * US, 600 * KIB).perform()
    page.settle()
    assert "896 KiB (917,504)" in page["#tooltip"].text  # of all tags
    page.press("#view-address")
    assert page.pixel(300 * US, 600 * KIB) == page.tag_colour("norm")


def test_short_peaks_are_seen_however_much_time_is_shown(show: Show) -> None:
    spike = ((1_000_000 * US, NORM[0], 512 * KIB, 2), (1_000_000 * US + 5, NORM[0], 0, 0))
    late = SavedMoment(time_ns=2_000_000 * US, step=4, held=(WEIGHTS, KV))
    page = show(story(events=(*story().events, *spike), moments={"now": late}))
    t0, t1 = page.range()
    column = (t1 - t0) / float(page.data("#timeline")["plot"].split()[2])
    times = [1_000_000 * US + n * column for n in (-1, 0, 1)]  # it lies in one of these columns
    assert page.tag_colour("norm") in [page.pixel(time, 900 * KIB) for time in times]
    page.press("#view-stacked")
    assert page.tag_colour("norm") in [page.pixel(time, 1000 * KIB) for time in times]


# -- the moment ------------------------------------------------------------------------------------------------------


def test_the_moment_decides_about_table_map_and_totals(page: MemoryPage) -> None:
    assert page.data("#layout")["moment"] == "now"
    assert [row[4] for row in page.rows()] == ["weights", "kv_cache", ""]
    page.press("#at-peak")
    assert page.rows() == [
        (f"{START:#x}", "262144 (40000)", "USED", "0", "weights"),
        (f"{KV[0]:#x}", "262144 (40000)", "USED", "1", "kv_cache"),
        (f"{NORM[0]:#x}", "262144 (40000)", "USED", "2", "norm"),
        (f"{LM_HEAD[0]:#x}", "131072 (20000)", "USED", "3", "lm_head"),
        (f"{LM_HEAD[0] + 128 * KIB:#x}", "131072 (20000)", "FREE", "", ""),
    ]
    totals = [row.text.split() for row in page.all("#tags tbody tr")]
    assert ["norm", "256", "KiB", "256", "KiB", "1"] in totals
    page.press("#at-oom")
    assert page.data("#table")["rows"] == "3"
    assert "no room for 1 GiB of too large" in page.text("#moment-note")


def test_a_click_sets_the_cursor_and_the_table_shows_that_time(page: MemoryPage) -> None:
    page.mouse(600 * US, 100 * KIB).click().perform()
    page.settle()
    assert page.data("#layout")["moment"] == "cursor"
    assert [row[1:] for row in page.rows()][2:] == [
        ("65536 (10000)", "USED", "2", "norm"),
        ("458752 (70000)", "FREE", "", ""),
    ]


def test_columns_sort_and_the_keyboard_reaches_every_row(page: MemoryPage) -> None:
    page.press("#at-peak")
    page.press('[data-sort="tag"]')
    assert [row[4] for row in page.rows()] == ["", "kv_cache", "lm_head", "norm", "weights"]
    page.press('[data-sort="bytes"]')
    assert page.rows()[0][1] == "262144 (40000)"
    page.press('[data-sort="bytes"]')
    assert page.rows()[0][1] == "131072 (20000)"
    page['#table tr[tabindex="0"]'].send_keys(Keys.END)
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.settle()
    assert page.rows()[-1][4] in page["#detail"].text


def test_the_table_is_that_of_the_arena(show: Show) -> None:
    arena = Arena(Region(MemorySpace("acme:0", False), START, 64 * KIB), name="acme:0")
    arena.trace("tags")
    held = [arena.allocate(1000 + 64 * i, f"tag{i % 3}") for i in range(9)]
    del held[1], held[3], held[5]
    lines = [line.split("|")[1:-1] for line in arena.table().splitlines() if line.startswith("| 0x")]
    rows = show(Snapshot.of(arena)).rows()
    assert [" ".join("".join(row).split()) for row in rows] == [
        " ".join(f"{cells[0].strip()}{' '.join(cells[1].replace('( ', '(').split())}".replace("( ", "(").split())
        + "".join(cell.strip() for cell in cells[2:])
        for cells in lines
    ]


# -- KV blocks -------------------------------------------------------------------------------------------------------


def block_told(page: MemoryPage, block: int) -> str:
    data = page.data("#kv")
    cell, columns = float(data["cell"]), int(data["columns"])
    page.mouse_over("#kv", (block % columns + 0.5) * cell, (block // columns + 0.5) * cell).perform()
    page.settle()
    return page["#tooltip"].text


def test_each_block_tells_whose_it_was_at_the_cursor(page: MemoryPage) -> None:
    page.mouse(600 * US, 1000 * KIB).click().perform()  # step 3
    page.settle()
    data = page.data("#kv")
    assert (data["blocks"], data["held"], data["shared"]) == ("16", "6", "1")
    assert page.data("#blocks")["step"] == "3"
    assert "request b, its block 1" in " ".join(block_told(page, 4).split())
    assert f"{KV[0] + 4 * 16 * KIB:#x}" in block_told(page, 4)
    shared = " ".join(block_told(page, 0).split())
    assert "shared by a, its block 0" in shared and "shared by c, its block 0" in shared
    assert "free" in block_told(page, 9)
    page.mouse(300 * US, 1000 * KIB).click().perform()  # step 2: back in time
    page.settle()
    assert page.data("#kv")["held"] == "3"
    assert "free" in block_told(page, 4)


def test_a_request_that_is_gone_has_given_its_blocks_back(page: MemoryPage) -> None:
    assert page.data("#blocks")["step"] == "4"
    assert page.data("#kv")["held"] == "5"
    assert "free" in block_told(page, 5)
    page["#timeline"].send_keys(Keys.SHIFT, Keys.ARROW_LEFT)  # one step back
    page.settle()
    assert page.data("#blocks")["step"] == "3"
    assert "request c, its block 1" in " ".join(block_told(page, 5).split())


# -- search ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [("norm", 2), ("LAYERS.py", 2), ("Model.forward", 3), ("main", 5), ("tag:norm", 2), ("tag:nor", 0), ("trace:3", 1)],
)
def test_search_counts_what_it_finds(page: MemoryPage, words: str, found: int) -> None:
    assert page.data("#count") == {"matches": "5", "all": "5"}
    page.search(words)
    assert page.data("#count")["matches"] == str(found)
    assert page["#count"].text == f"{found} of 5 allocations"


def test_search_finds_by_the_number_of_a_trace_and_by_request(show: Show) -> None:
    steps = [
        *story().steps[:2],
        *(step.model_copy(update={"blocks": {"chat-x": (0, ())}}) for step in story().steps[3:]),
    ]
    page = show(story(steps=tuple(steps)))
    page.search("chat-x")
    assert page.data("#count")["matches"] == "1"  # the norm of the decode
    page.search("3")
    assert page.data("#count")["matches"] == "1"  # lm_head: 42 and 7 are lines, and nobody's name has a 3


def test_what_does_not_match_is_dimmed_and_dropped_and_comes_back(page: MemoryPage) -> None:
    page.press("#at-peak")
    weights, norm = page.tag_colour("weights"), page.tag_colour("norm")
    page.search("norm")
    assert page.pixel(600 * US, 100 * KIB) != weights
    assert page.pixel(300 * US, 600 * KIB) == norm
    assert [row[4] for row in page.rows()] == ["norm"]
    page.press("#view-stacked")
    assert page.pixel(600 * US, 100 * KIB) not in {weights, page.tag_colour("kv_cache")}
    page.press("#view-address")
    page.search("")
    assert page.pixel(600 * US, 100 * KIB) == weights
    assert page.data("#table")["rows"] == "5"
    page.press('#tags [data-tag="2"]')
    assert page["#search"].get_attribute("value") == "tag:norm"
    assert page.data("#count")["matches"] == "2"


# -- snapshots that are not as usual ---------------------------------------------------------------------------------

HOSTILE = "</script><img src=x onerror=\"window.ran=1;document.title='x';alert(1)\"><b>&amp;\u2028'\"</title>"
SHOWN = HOSTILE.replace("\u2028", "\\u2028") + "\\u202e\\x1b[31m"


def test_text_of_a_snapshot_is_never_markup(show: Show) -> None:
    bad = HOSTILE + "\u202e\x1b[31m"
    page = show(
        story(
            device=bad,
            model=bad,
            frames=((bad, 42, bad), MODEL, CLI),
            traces=tuple(SavedSite(tag=f"{bad}{i}", frames=(0, 1)) for i in range(4)),
            steps=tuple(
                SavedStep(number=i, phase=bad, time_ns=i * 100 * US, blocks={bad: (0, (i,)), "__proto__": (0, (9,))})
                for i in range(5)
            ),
            moments={
                **story().moments,
                "now": SavedMoment(time_ns=1000 * US, step=4, held=(WEIGHTS, KV), asked=(5, bad)),
            },
        )
    )
    page.mouse(300 * US, 600 * KIB).click().perform()
    page.settle()
    assert f"{SHOWN}2" in page.text("#tooltip")
    assert f"{SHOWN}:42" in page.text("#detail")
    page.press("#at-now")
    assert page.rows()[0][4] == f"{SHOWN}0"
    assert f"of {SHOWN}" in page.text("#moment-note")
    assert SHOWN in page.text("#owners") and "__proto__ · 1" in page.text("#owners")
    assert SHOWN in block_told(page, 4).replace("\n", " ")
    page.search("<img")
    assert page.text("#title") == SHOWN * 2
    assert page.driver.title == f"Memory of {SHOWN} ({SHOWN})"
    assert page.all("img, b, iframe, link, body script:not(#data) ~ script") == []
    assert len(page.all("script")) == 2
    assert page.driver.execute_script("return window.ran") is None
    assert page.complaints() == []


def test_without_events_there_are_still_the_moments_and_the_blocks(show: Show) -> None:
    page = show(story(events=(), level="off"))
    assert "not recorded" in page["#notice"].text
    assert [row[4] for row in page.rows()] == ["weights", "kv_cache", ""]
    page.press("#at-peak")
    assert page.data("#table")["rows"] == "5"
    assert page["#count"].text == "2 allocations" or page.data("#count")["all"] == "4"
    page.mouse_over("#map", 5, 40).perform()
    page.settle()
    assert "weights" in page["#tooltip"].text
    assert ["norm", "256", "KiB", "256", "KiB", "1"] in [row.text.split() for row in page.all("#tags tbody tr")]
    page.mouse(600 * US, 500 * KIB).click().perform()
    page.settle()
    assert page.data("#kv")["held"] == "6"
    assert page.complaints() == []


def test_an_empty_snapshot_opens(show: Show) -> None:
    page = show(story(events=(), moments={}, steps=(), kv=None, traces=(), frames=(), model=None))
    page.press("#view-stacked")
    page.press("#reset")
    assert page.data("#table")["rows"] == "1"
    assert page.complaints() == []


def test_a_hundred_thousand_spans(show: Show) -> None:
    events: list[tuple[int, int, int, int]] = []
    for i in range(100_000):
        address = START + 512 * KIB + (i % 4) * 64 * KIB
        events += [(i * 10 * US, address, 48 * KIB, 2 + i % 2), (i * 10 * US + 4 * US, address, 0, 0)]
    page = show(story(events=tuple(events), moments={}))
    assert page.data("#timeline")["spans"] == "100000"
    assert page.complaints() == []
    colours = {page.tag_colour("norm"), page.tag_colour("lm_head")}
    assert page.pixel(500_000 * US, 520 * KIB) in colours
    assert page.pixel(500_000 * US, 800 * KIB) not in colours
    page.press("#view-stacked")
    assert page.pixel(500_000 * US, 20 * KIB) in colours
    page.search("lm_head")
    assert page.data("#count")["matches"] == "50000"


def test_it_fits_the_window_its_pixels_and_the_dark(page: MemoryPage) -> None:
    light = page.pixel(300 * US, 1000 * KIB)
    page.resize(900, 800, ratio=2)
    size = "const c = document.getElementById('timeline'); return [c.width, 2 * c.clientWidth, c.clientWidth < 900]"
    page.until(lambda: (page.settle(), page.driver.execute_script(size))[1][0] < 1800)
    width, expected, is_narrow = page.driver.execute_script(size)
    assert width == expected and is_narrow
    assert page.pixel(300 * US, 600 * KIB) == page.tag_colour("norm")
    assert page.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    page.settle()
    assert sum(page.pixel(300 * US, 1000 * KIB)) < 100 < 600 < sum(light)

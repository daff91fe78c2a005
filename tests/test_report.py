"""The report: what is collected of runs and sweeps, and the page in a real browser, without a network."""

import contextlib
import fcntl
import json
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import report

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
SPACE = {
    "learning_rate": {"distribution": "log_normal", "min": 0.001, "max": 0.9, "mean": 0.01},
    "gamma": {"distribution": "logit_normal", "min": 0.8, "max": 0.999, "mean": 0.95},
    "width": {"distribution": "uniform_pow2", "min": 8, "max": 128, "mean": 32},
    "nothing": {"distribution": "uniform", "min": 0, "max": 1, "mean": 0.5},
}


def lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_run(folder: Path, ended: bool = True, score: float | None = 1.0, **args: object) -> Path:
    folder.mkdir(parents=True)
    args = {"env": "pong", "run_dir": str(folder), "env_config": {"frameskip": 4}} | args
    (folder / "config.json").write_text(json.dumps({"args": args, "versions": {}, "machine": {}}))
    records = [
        {"step": 1000 * i, "seconds": 0.5 * i, "score": score and score * i, "entropy": 1 / i, "episodes": i}
        for i in range(1, 21)
    ]
    lines(folder / "metrics.jsonl", records)
    if ended:
        last = {"status": "ok", "score": score and 20 * score, "cost": 10.0, "steps": 20000}
        (folder / "summary.json").write_text(json.dumps(last))
    return folder


def write_sweep(folder: Path, trials: int = 24, every_failed: int = 6, command: str = "true") -> Path:
    """Scores depend on the learning rate above all, and rise to the edge of its range."""
    folder.mkdir(parents=True)
    config = {"command": command.split(), "fixed": [["env", "toy"]], "space": SPACE, "constraints": []}
    config |= {"constants": {}, "objective": "score", "rule": None, "sampler": "bayesian", "seed": 1}
    (folder / "sweep.json").write_text(json.dumps(config | {"workers": 1, "cwd": str(folder)}))
    lines(
        folder / "trials.jsonl", [r for n in range(1, trials + 1) for r in records(n, n % every_failed == 0)]
    )
    (folder / "trials/0001/run").mkdir(parents=True)
    return folder


def records(n: int, failed: bool) -> list[dict]:
    """The two lines of a trial."""
    spread = [(n * step) % 1 for step in (0.618, 0.414, 0.732, 0.236)]
    rate, gamma, width = (
        10 ** (-3 + 3 * spread[0]),
        1 - 0.2 * 0.005 ** spread[1],
        2 ** (3 + int(5 * spread[2])),
    )
    params = {"learning_rate": rate, "gamma": gamma, "width": width, "nothing": spread[3]}
    score = 3 + math.log10(rate) + 0.02 * spread[2]
    result = {"status": "failed", "reason": "exit code 3: it <b>broke</b>", "score": None, "cost": 0.1}
    if not failed:
        result = {"status": "ok", "reason": None, "score": score, "cost": 1 + width / 10, "seconds": 2.0}
    first = {"trial": n, "status": "running", "params": params, "seed": n, "elapsed": 2 * n - 1}
    return [first, {"trial": n, "elapsed": 2 * n} | result]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, with what it logs and what it asks of the network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not chromium or not driver:
        pytest.skip("there is no chromium with chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


def show(browser, *paths: Path, theme: str = "light", width: int = 1400) -> Path:
    """Makes the page and opens it; nothing may be said on the console or asked of the network."""
    page = paths[0].parent / "page.html"
    assert report.main([*map(str, paths), "--out", str(page)]) == 0
    set_theme(browser, theme)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    open_page(browser, page)
    return page


def set_theme(browser, theme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def open_page(browser, page: Path) -> None:
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    clean(browser)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # The browser's own page of new tabs may still be loading its parts.
    asked = [m["request"]["url"] for m in sent if not m["documentURL"].startswith("chrome:")]
    assert page.as_uri() in asked
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))], asked


def clean(browser) -> None:
    assert browser.get_log("browser") == []


def count(browser, plot: str) -> int:
    """Points that are drawn in a plot."""
    return browser.execute_script(f"return document.querySelectorAll('[id=\"{plot}\"] .point').length")


def text(browser, name: str) -> str:
    return browser.execute_script(f"return document.getElementById('{name}').innerText")


def change(browser, name: str, value: object, event: str) -> None:
    script = """const [name, value, event] = arguments, element = document.getElementById(name);
        element.value = value; element.dispatchEvent(new Event(event));"""
    browser.execute_script(script, name, value, event)
    next_frame(browser)


def next_frame(browser) -> None:
    """Waits until what was changed is drawn."""
    script = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    browser.execute_async_script(script)


@pytest.mark.parametrize(("theme", "width"), [("light", 1400), ("dark", 390)])
def test_a_sweep_in_both_themes_on_a_wide_screen_and_on_a_phone(browser, tmp_path, theme, width):
    show(browser, write_sweep(tmp_path / "s"), theme=theme, width=width)
    plots = ["front", "scores", "costs", *(f"parameter-{name}" for name in SPACE)]
    assert {name: count(browser, name) for name in plots} == dict.fromkeys(plots, 24)
    assert count(browser, "predicted-score") == count(browser, "predicted-cost") == 20
    assert count(browser, "importance") == len(SPACE)
    assert "4 of 24 failed" in text(browser, "found")
    assert "learning_rate at the edge of its range, max 0.9: widen it" in text(browser, "found")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    script = "return getComputedStyle(document.body).backgroundColor"
    light = sum(map(int, re.findall(r"\d+", browser.execute_script(script))[:3])) > 3 * 128
    assert light == (theme == "light")
    ink = "return getComputedStyle(document.querySelector('#front .xtick text')).fill"
    before = browser.execute_script(ink)
    set_theme(browser, "dark" if light else "light")  # plots follow while the page is open
    next_frame(browser)
    assert browser.execute_script(ink) != before
    clean(browser)


def test_the_filter_and_the_view_update_all_plots(browser, tmp_path):
    show(browser, write_sweep(tmp_path / "s"))
    change(browser, "limit", 400, "input")
    some = count(browser, "front")
    assert 0 < some < 24
    assert f"{some} of 24 trials" in text(browser, "limit-text")
    plots = ["scores", "costs", *(f"parameter-{name}" for name in SPACE)]
    assert {name: count(browser, name) for name in plots} == dict.fromkeys(plots, some)
    assert 0 < count(browser, "predicted-score") < 20
    change(browser, "view", "trial", "change")
    assert "trials" in text(browser, "parameter-nothing")
    assert count(browser, "parameter-nothing") == some
    clean(browser)


def test_a_click_on_a_point_shows_its_settings_and_the_command(browser, tmp_path):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    (tmp_path / "mine.py").write_text("import sys; print(sys.argv[1:])")
    command = f"{sys.executable} {tmp_path / 'mine.py'}"
    sweep = write_sweep(tmp_path / "a sweep", trials=1, command=command)
    show(browser, sweep)
    assert text(browser, "details") == ""
    point = browser.find_element(By.CSS_SELECTOR, "#front .point")
    ActionChains(browser).move_to_element(point).pause(0.2).click().perform()
    time.sleep(0.3)
    details = text(browser, "details")
    assert "trial 1" in details and all(name in details for name in SPACE)
    link = browser.find_element(By.CSS_SELECTOR, "#details a").get_attribute("href")
    assert link == (sweep / "trials/0001/run").as_uri() + "/"
    again = browser.find_element(By.CSS_SELECTOR, "#details pre").text
    told = subprocess.run(again, shell=True, capture_output=True, text=True, check=True).stdout
    assert "'--env', 'toy', '--learning_rate'" in told and "'--seed', '1', '--run-dir'" in told
    clean(browser)


def test_two_sweeps_are_overlaid_each_in_a_colour(browser, tmp_path):
    show(browser, write_sweep(tmp_path / "adam", trials=5), write_sweep(tmp_path / "muon", trials=3))
    script = "return [...document.querySelectorAll('#front .point')].map(p => p.style.fill)"
    assert count(browser, "front") == 8 and len({*browser.execute_script(script)}) == 2
    browser.execute_script("document.querySelector('#sets button').click()")
    assert count(browser, "front") == 3
    clean(browser)


@pytest.mark.parametrize(("trials", "every_failed"), [(0, 1), (1, 9), (3, 1)])
def test_sweeps_of_no_trial_of_one_and_of_failures_only(browser, tmp_path, trials, every_failed):
    show(browser, write_sweep(tmp_path / "s", trials, every_failed))
    assert count(browser, "front") == trials
    assert ("no trial has worked" in text(browser, "found")) == (trials != 1)
    assert "predictions need" in text(browser, "belief-note")


def test_a_damaged_last_line_is_left_out_and_said(browser, tmp_path):
    sweep, run = write_sweep(tmp_path / "s", trials=2), write_run(tmp_path / "r")
    for path in (sweep / "trials.jsonl", run / "metrics.jsonl"):
        with path.open("a") as file:
            file.write('{"trial": 3, "sta')
    show(browser, sweep, run)
    assert count(browser, "front") == 2
    assert text(browser, "notes").count("is damaged and left out") == 1
    assert "1 damaged line(s) left out" in text(browser, "notes")


def test_runs_that_differ_in_the_seed_are_a_band_and_others_are_overlaid(browser, tmp_path):
    runs = tmp_path / "runs"
    for rate in (0.01, 0.03):
        for seed in (1, 2, 3):
            write_run(runs / f"{rate}-{seed}", score=rate * seed, seed=seed, learning_rate=rate)
    show(browser, runs)
    drawn = "return document.querySelectorAll('#by-step .js-line').length"
    assert browser.execute_script(drawn) == 4  # two bands, two medians
    assert text(browser, "groups").splitlines() == ["learning_rate 0.01", "learning_rate 0.03"]
    medians = "return document.getElementById('by-step').data.filter(t => t.name).map(t => t.y.at(-1))"
    assert browser.execute_script(medians) == pytest.approx([0.4, 1.2])
    change(browser, "metric", "entropy", "change")
    assert browser.execute_script(medians) == pytest.approx([0.05, 0.05])
    browser.execute_script("document.querySelector('#run-table tr[tabindex]').click()")
    assert "env_config.frameskip" in text(browser, "details")
    clean(browser)


def test_a_run_that_goes_on_and_one_without_a_finished_episode(browser, tmp_path):
    run = write_run(tmp_path / "r", ended=False, score=None)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        show(browser, run)
    assert "going on" in text(browser, "subtitle") and "going on" in text(browser, "run-table")
    assert text(browser, "notes") == ""
    assert "entropy" in text(browser, "by-step")  # as there is no score
    show(browser, run)
    assert "stopped without a summary" in text(browser, "run-table")


def test_watch_rewrites_the_page_while_the_sweep_goes_on(browser, tmp_path):
    sweep, page = write_sweep(tmp_path / "s", trials=2), tmp_path / "s" / "report.html"
    script = f"import report; report.EVERY = 0.5, 0.5; report.main([{str(sweep)!r}, '--watch'])"
    with (sweep / "trials.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
        try:
            deadline = time.monotonic() + 20
            while not page.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            open_page(browser, page)
            assert count(browser, "front") == 2
            file.write("".join(json.dumps(record) + "\n" for record in records(3, False)))
            file.flush()
            drawn = 0
            while drawn != 3 and time.monotonic() < deadline:
                time.sleep(0.2)
                with contextlib.suppress(Exception):  # it is loading
                    drawn = count(browser, "front")
            assert drawn == 3
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
            try:
                assert process.wait(10) == 0
            finally:
                process.kill()
    browser.get(page.as_uri())
    browser.execute_script("window.mark = 1")
    time.sleep(1)
    assert browser.execute_script("return window.mark") == 1  # it does not load itself any more


def test_folders_stand_for_what_is_in_them(tmp_path):
    for name in ("before", "after"):  # the same settings, so that only the folder tells them apart
        for seed in (1, 2):
            write_run(tmp_path / name / str(seed), seed=seed)
    page, both = tmp_path / "page.html", [str(tmp_path / "before"), str(tmp_path / "after")]
    groups = report.collect(both, page, {})["groups"]
    assert [(one["label"], len(one["runs"])) for one in groups] == [(path, 2) for path in both]
    assert report.collect([str(tmp_path / "before" / "1")], page, {})["groups"][0]["label"] == "pong"
    write_sweep(tmp_path / "sweeps" / "a", trials=1)
    write_sweep(tmp_path / "sweeps" / "b", trials=1)
    found = report.collect([str(tmp_path / "sweeps")], page, {})
    assert [one["label"] for one in found["sweeps"]] == ["a", "b"] and not found["groups"]


def test_where_least_time_counts_scores_count_up_to_the_target(tmp_path):
    sweep = write_sweep(tmp_path / "s", trials=5)
    config = json.loads((sweep / "sweep.json").read_text())
    config |= {"objective": "time", "fixed": [["stop_score", "1.5"]]}
    (sweep / "sweep.json").write_text(json.dumps(config))
    found = report.read_sweep(sweep, tmp_path / "page.html", {})
    assert found["target"] == 1.5
    assert any(trial["score"] > 1.5 for trial in found["trials"])
    assert all(trial["counted"] == min(trial["score"], 1.5) for trial in found["trials"])


def test_beliefs_predict_and_tell_what_matters(tmp_path):
    found = report.read_sweep(write_sweep(tmp_path / "s"), tmp_path / "page.html", {})
    worked = [trial for trial in found["trials"] if trial["status"] == "ok"]
    for trial in worked:  # scores lie between 0 and 3
        assert trial["predicted"][0] == pytest.approx(trial["score"], abs=0.3)
        assert trial["predicted"][1] == pytest.approx(trial["cost"], rel=0.5)
    importance = found["importance"]
    assert max(importance, key=importance.get) == "learning_rate"
    assert importance["learning_rate"] > 0.8 and importance["nothing"] < 0.05
    assert found["explained"] > 0.9


def test_bad_input_gets_one_line(tmp_path, monkeypatch, capsys):
    broken = write_sweep(tmp_path / "broken", trials=2)
    (broken / "trials.jsonl").write_text("{}\n" + (broken / "trials.jsonl").read_text())
    other = write_run(tmp_path / "other")
    (other / "config.json").write_text("{")
    (tmp_path / "empty").mkdir()

    def check_refused(words: str, *given: object) -> None:
        assert report.main([*map(str, given)]) == 2
        out, error = capsys.readouterr()
        assert not out and words in error
        assert error.startswith("report.py: error: ") and error.count("\n") == 1

    check_refused("RUN_OR_SWEEP")
    check_refused("there is no folder", tmp_path / "nowhere")
    check_refused("holds no run and no sweep", tmp_path / "empty")
    check_refused("line 1 is damaged", broken)
    check_refused("config.json is damaged", other)
    check_refused("--out: there is no folder", run := write_run(tmp_path / "run"), "--out", "nowhere/a.html")
    check_refused("is a folder", run, "--out", tmp_path)
    check_refused("unrecognized arguments: --what", broken, "--what")
    monkeypatch.setitem(sys.modules, "plotly.offline", None)  # as where it is not installed
    check_refused("pip install -e '.[report]'", run)
    assert not [*tmp_path.rglob("*.html*")]

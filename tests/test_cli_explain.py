"""``gpubp explain``: its text, its pictures, its refusals, and its page in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdriver
from cli_harness import blobs, enter, refuse, run, succeed

import gpubp
from gpubp import explain
from gpubp.explain import page

NO_BROWSER = webdriver.missing()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.safetensors, trained a little on blobs."""
    folder = tmp_path_factory.mktemp("explain")
    net = gpubp.Network([5, 6, 4, 3], rng=0, activation=["tanh", "sigmoid", "sigmoid"])
    net.fit(*blobs(60), epochs=3, batch_size=6, learning_rate=2.0, progress=False)
    net.save(folder / "net.safetensors")
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(folder, monkeypatch)


CALL = "explain net.safetensors --data t.npz"


def example(i: int = 0) -> tuple[gpubp.Network, Any, Any]:
    x, y = blobs(24, seed=1)  # the test part
    return gpubp.load("net.safetensors"), x[i : i + 1], y[i : i + 1]


def test_text_is_the_librarys() -> None:
    out = "\n".join(succeed(run(CALL, "--example 4 --weight 3,2,5")))
    net, x, y = example(4)
    assert repr(net.trace(x, y)) in out
    assert repr(net.health(*blobs(24, seed=1))) in out
    assert repr(explain.paths(net, x, y, 3, 2, 5)) in out
    assert out.splitlines()[0].startswith("data: t.npz")
    assert f"example 4, class {y[0]}, taken for {net.predict(x)[0]}" in out
    assert "example 0" not in out


def test_default_weight_has_the_largest_gradient_of_layer_2() -> None:
    out = "\n".join(succeed(run(CALL, "--show paths")))
    net, x, y = example()
    nabla = np.abs(net.backprop(x, y).nabla_w[0])
    j, k = np.argwhere(nabla == nabla.max())[0]
    assert f"Paths of w^2_{j},{k}: 12 paths" in out
    assert "Health" not in out
    assert "BP1" not in out


def test_many_paths_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.explain_command.MAX_PATHS", 10)
    assert any("added up by matrix products" in line for line in succeed(run(CALL)))


def test_pictures(folder: Path) -> None:
    succeed(run(CALL, "--show trace --plot one.png"))
    lines = succeed(run(CALL, "--show health,paths --plot two.png"))
    assert "health drawn to two-health.png" in lines
    for name in ("one.png", "two-health.png", "two-paths.png"):
        assert Path(name).read_bytes().startswith(b"\x89PNG")
    assert not Path("two.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--show traces", "did you mean 'trace'"),
        ("--example 24", "examples 0 to 23"),
        ("--example -1", "at least 0"),
        ("--part tests", "did you mean 'test'"),
        ("--weight 2,3", "must be l,j,k such as 2,0,5"),
        ("--weight 9,0,0", "layer=9 has no weighted inputs"),
        ("--weight 2,6,0", "j=6 is not in layer 2"),
        ("--plot p.xyz", "end its name in .png"),
        ("--plot none/p.png", "there is no folder .*none"),
        ("--html t.npz", "cannot write t.npz"),
        ("--html none/p.html", "there is no folder .*none"),
        ("--examples 0", "at least 1"),
        ("--pages 3", "did you mean '--part'|unknown option"),
        ("--backend cup", "did you mean"),
    ],
)
def test_refusals(options: str, words: str) -> None:
    result = run(CALL, options)
    assert result[1] == ""
    assert re.search(words, refuse(result))


def test_page_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_NUMBERS", 100)
    assert "fewer examples" in refuse(run(CALL, "--html big.html"))
    assert not Path("big.html").exists()


def test_page_is_one_file_that_loads_nothing() -> None:
    out = succeed(run(CALL, "--html page.html --examples 3"))
    assert len(out) == 5  # data, network, example and where the page is: it shows the rest
    text = Path("page.html").read_text(encoding="utf-8")
    assert "__DATA__" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|src=|@import|url\(", text)
    # text of the data cannot end the script element it stands in
    net, x, y = example()
    evil = explain.explain_page(net, x, y, title="</script><b>")
    assert "</script><b>" not in evil


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with webdriver.Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.skipif(NO_BROWSER is not None, reason=str(NO_BROWSER))
def test_a_person_clicks_through(browser: webdriver.Browser) -> None:
    succeed(run(CALL, "--html page.html --examples 3"))
    browser.open(Path("page.html").resolve())
    net, x, y = gpubp.load("net.safetensors"), *blobs(24, seed=1)
    t = net.trace(x[:3], y[:3])
    assert browser.text("#title") == "net.safetensors on t.npz, test part"
    assert len(browser.find("#examples button")) == 3
    assert [len(browser.find(f'[data-neuron^="{l}-"]')) for l in (1, 2, 3, 4)] == [5, 6, 4, 3]

    browser.click('[data-pick="example-2"]')
    browser.click('[data-pick="quantity-delta"]')
    browser.click('[data-neuron="2-4"]')
    words = browser.text("#neuron")
    layer = t[2]
    for value in (layer.z, layer.a, layer.sigma_prime, layer.delta):
        assert shown(value[2, 4]) in words, words
    assert "BP2: delta^2 = ((w^3)^T delta^3) (x) sigma'(z^2)" in words
    assert shown(layer.nabla_w[2, 4].max()) in words
    assert browser.text("#paths") == ""

    browser.click('[data-weight="3"]')
    found = explain.paths(net, x[2:3], y[2:3], 2, 4, 3)
    words = browser.text("#paths")
    assert "12 paths add up to " + shown(found.total) in words
    for path in found.strongest[:3]:
        assert shown(path.rate) in words
        assert "\u2192 ".join(["w^2_4,3 ", *(f"{n} " for n in path.neurons), "C"]) in words
    assert "selected" in browser.run(
        "return document.querySelector('[data-weight=\"3\"]').outerHTML"
    )

    browser.click('[data-neuron="4-1"]')  # the output: BP1
    assert "BP1: delta^4 = grad_a C (x) sigma'(z^4)" in browser.text("#neuron")
    assert f"= {shown(t[4].delta[2, 1])}" in browser.text("#neuron")
    assert browser.text("#paths") == ""
    browser.click('[data-neuron="1-0"]')  # an input: its weight to layer 2
    assert "w^2_0,0" in browser.text("#paths")

    browser.click('[data-pick="view-health"]')
    words = browser.text("#health")
    health = net.health(x, y)
    assert f"Health on {health.examples} examples" in words
    for s in health.layers:
        assert f"{100 * s.saturated:.1f}%" in words
    for advice in health.advice:
        assert advice in words
    assert browser.text("#neuron") == ""  # hidden
    assert browser.complaints() == []


@pytest.mark.skipif(NO_BROWSER is not None, reason=str(NO_BROWSER))
def test_page_of_softmax_and_of_one_output(browser: webdriver.Browser, tmp_path: Path) -> None:
    x, y = blobs(6)
    for activation, cost, last in (
        (["relu", "softmax"], "log_likelihood", 3),
        (["tanh", "sigmoid"], "cross_entropy", 1),
    ):
        net = gpubp.Network([5, 4, last], activation=activation, cost=cost, rng=0)
        targets = y if last == 3 else y % 2
        file = tmp_path / "page.html"
        file.write_text(explain.explain_page(net, x, targets), encoding="utf-8")
        browser.open(file)
        browser.click('[data-pick="quantity-sigma_prime"]')
        assert ("not elementwise" in browser.text("#layers")) == (last == 3)
        browser.click('[data-neuron="2-1"]')
        browser.click('[data-weight="2"]')
        found = explain.paths(net, x[:1], targets[:1], 2, 1, 2)
        assert f"add up to {shown(found.total)}" in browser.text("#paths").replace("adds", "add")
        assert browser.complaints() == []


def shown(value: Any) -> str:
    """A number as the page writes it: JavaScript's toPrecision(4)."""
    value = float(value)
    exponent = 0 if value == 0 else int(f"{value:.3e}".split("e")[1])
    if -7 < exponent < 4:
        return f"{value:+.{3 - exponent}f}"
    digits, power = f"{value:+.3e}".split("e")
    return f"{digits}e{int(power):+d}"

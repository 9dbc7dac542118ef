"""What files and users named is printed so that no terminal obeys it, and in bounded length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_harness import enter, run

import gpubp
from gpubp.output import complain, say
from gpubp.printable import LONGEST, brief, printable
from gpubp.tensorfile import read_tensors, write_tensors

ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egnp.exe\u2028\x7f"


def test_printable() -> None:
    assert printable("gr\u00fc\u00dfe \u2713 \U0001f600") == "gr\u00fc\u00dfe \u2713 \U0001f600"
    assert printable("a\x1b[31m\tb\u202e") == r"a\x1b[31m\tb\u202e"
    assert printable(printable(ESCAPES)) == printable(ESCAPES)
    assert printable("a" * 50 + "b" * 50, 20) == "aaaaaaaaaaa...bbbbbb"
    assert printable("a" * 20, 20) == "a" * 20


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, ESCAPES * 99, [[[[[["x" * 99] * 99] * 99]]]], 10**4000, np.arange(10**6),
     {"state": {"key": list(range(624))}}, "z*" * 999 + "z"],
    ids=["long", "escapes", "deep", "number", "array", "state", "formula"],
)  # fmt: skip
def test_brief(value: object) -> None:
    assert brief(value).isprintable()
    assert len(brief(value)) <= LONGEST


def test_brief_shows_what_is_short() -> None:
    for value in ("sigmoid", ["relu", 3], None, "z/(1 + abs(z)) + 0.5*z*erfc(-0.7*z)"):
        assert brief(value) == repr(value)


def test_nothing_that_is_said_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{ESCAPES}\nnext")
    complain(ESCAPES + "x" * 10**5)
    told = capsys.readouterr()
    assert told.out == f"{printable(ESCAPES)}\nnext\n"
    assert told.err.removesuffix("\n").isprintable()
    assert len(told.err) <= 2100


def test_errors_of_files(tmp_path: Path) -> None:
    error = gpubp.DataFormatError(tmp_path / ESCAPES, expected=ESCAPES, found=ESCAPES)
    assert str(error).isprintable()
    assert error.file == str(tmp_path / ESCAPES)  # the name itself
    assert (error.expected, error.found) == (printable(ESCAPES), printable(ESCAPES))


def named(name: str) -> gpubp.Network:
    """A network whose activation and cost have that name."""
    own, cost = gpubp.define_activation(name, "tanh(z)"), gpubp.define_cost(name, "(a - y)**2")
    return gpubp.Network([5, 4, 3], activation=own, cost=cost, backend="reference", rng=0)


def test_names_of_activations_and_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    net = named(ESCAPES)
    net.save("t.net")
    said = [repr(net), repr(net.trace(np.ones((2, 5)), np.array([0, 1])))]
    said.append(repr(net.health(np.ones((2, 5)))))
    fleet = gpubp.Fleet([net, named("plain")])
    said.append(repr(fleet.fit(np.ones((2, 5)), [0, 1], epochs=1, batch_size=2, learning_rate=0.1)))
    for command in ("evaluate t.net --data t.npz", "explain t.net --data t.npz"):
        code, out, err = run(f"{command} --backend reference")
        assert (code, err) == (0, "")
        said.append(out)
    for text in said:
        assert all(line.isprintable() for line in text.split("\n")), text
    assert printable("\x1b]0;owned") in said[0]
    with pytest.raises(ValueError, match="predict_proba needs outputs") as caught:
        net.predict_proba(np.ones((2, 5)))
    assert str(caught.value).isprintable()


def test_sentences_quote_no_whole_formula() -> None:
    long = "+".join([f"0.{'0' * 55}1*z"] * 28) + "+tanh(z)"
    net = gpubp.Network([5, 4, 3], activation=long, rng=0, backend="reference")
    assert len(repr(net)) < 300
    for words in (
        {"activation": [long, "softmax"], "cost": "quadratic"},
        {"activation": long, "cost": "cross_entropy"},
        {"activation": "x" * 2000},
        {"activation": "x" * 2000 + "(z)"},
        {"cost": "1+" * 900 + "1"},
        {"dtype": "x" * 2000},
        {"backend": "x" * 2000},
        {"init": "x" * 2000},
    ):
        with pytest.raises(ValueError, match=r"\w") as caught:
            gpubp.Network([5, 4, 3], **{"rng": 0, **words})  # type: ignore[arg-type]
        assert len(str(caught.value)) < 500, words


def test_names_of_files_and_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    name = "a\x1b[31m\rb"
    Path(f"{name}.csv").write_text(f"{ESCAPES.encode().decode()!s:.9},y\n1,a\n2,b\nx,a\n")
    Path(f"{name}.net").write_bytes(b"damaged")
    for words in (
        ["data", "--data", f"{name}.csv"],
        ["data", "--data", f"{name}.csv", "--target", name],
        ["train", "--data", f"{name}.csv", "--target", "y"],
        ["train", "--data", f"{name}.npz"],
        ["train", "--data", "t.npz", "--save", f"nowhere/{name}"],
        ["train", "--data", "t.npz", "--plot", f"{name}.odd"],
        ["evaluate", f"{name}.net"],
        ["evaluate", f"{name}.none"],
        ["train", "--data", "t.npz", "--activation", name],
        ["train", f"--{name}"],
        ["train", name],
        [name],
    ):
        code, out, err = run_words(words)
        assert code == 2, words
        assert all(line.isprintable() for line in (out + err).split("\n")), words
    for path in (f"{name}.net", f"{name}.none"):
        with pytest.raises((ValueError, OSError)) as caught:
            gpubp.load(path)
        assert str(caught.value).isprintable()


def run_words(words: list[str]) -> tuple[int, str, str]:
    import shlex

    return run(shlex.join(words))


def test_optimizers_of_checkpoints(tmp_path: Path) -> None:
    """The name, formulas and settings of an optimizer of one's own, where a run is not resumed."""
    x, y = np.ones((4, 5)), [0, 1, 2, 0]
    how = {"epochs": 2, "batch_size": 2, "learning_rate": 0.1}
    net = named("own")
    net.fit(x, y, optimizer=gpubp.define_optimizer("o", {"w": "w - eta*k*g"}, k=1.0), **how)
    net.save(tmp_path / "t.net")
    tensors, header = read_tensors(tmp_path / "t.net")
    mine = header["training"]["optimizer"]
    asked = gpubp.define_optimizer("o", {"w": "w - eta*k*g"}, k=1.0)
    for change in ({"name": ESCAPES}, {"formulas": ESCAPES * 500}, {"settings": {ESCAPES: 1}}):
        header["training"]["optimizer"] = mine | change
        write_tensors(tmp_path / "t.net", tensors, header)
        with pytest.raises(ValueError, match="resume=True continues a run with") as caught:
            gpubp.load(tmp_path / "t.net", "reference").fit(
                x, y, optimizer=asked, resume=True, **how
            )
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500

import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure
from PIL import Image

from common import contact_sheet
from common.contact_sheet import write_sheet
from fusion.plots import plot_confusion, plot_curves

HOSTILE = ["跳跃", "Übung 1", "$x^", "a$b$c", r"\alpha_{", "v" * 300, "x\ny", "\udcff", "%s {0}"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    return figures


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def random_matrix(count, seed=0):
    random_numbers = np.random.default_rng(seed)
    return np.diag(random_numbers.integers(10, 40, count)) + random_numbers.poisson(0.3, (count, count))


# ---- confusion matrix ----


@pytest.mark.parametrize("count", [1, 35])
def test_confusion_shows_names_and_values(tmp_path, drawn, count):
    classes, matrix = [f"Class{i}" for i in range(count)], random_matrix(count)
    plot_confusion(matrix, classes, tmp_path / "conf_matrix.png", "A title")
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()[:count]] == classes
    assert [label.get_text() for label in axes.get_yticklabels()[:count]] == [
        f"{name} ({row.sum()})" for name, row in zip(classes, matrix, strict=True)
    ]
    values = {text.get_position(): text.get_text() for text in axes.texts}
    for row, column in np.argwhere(matrix):
        percent = 100 * matrix[row, column] / matrix[row].sum()
        assert abs(float(values.pop((column, row)).replace("<1", "0")) - percent) <= 1
    assert not values, "zeros are not drawn"
    assert "A title" in axes.get_title() and f"{100 * np.trace(matrix) / matrix.sum():.2f}" in axes.get_title()
    drawn[0].canvas.draw()
    cell = axes.get_window_extent().width / count
    for text in axes.texts:  # at least 7 pixels high, and inside its cell
        box = text.get_window_extent()
        assert box.height >= 7 and box.width < cell and box.height < cell


def test_confusion_colors_tell_rows_from_columns(tmp_path):
    """Class 0 is always taken for class 1: the dark cell is above the diagonal, in row 0 and column 1."""
    plot_confusion(np.array([[0, 9], [0, 0]]), ["a", "b"], tmp_path / "c.png")
    dark = np.argwhere(np.abs(pixels(tmp_path / "c.png") - (8, 48, 107)).max(2) < 3)
    light = np.argwhere(np.abs(pixels(tmp_path / "c.png") - (247, 251, 255)).max(2) < 3)
    assert dark[:, 1].mean() > light[:, 1].mean() and dark[:, 0].mean() < light[:, 0].mean()


def test_hostile_names_are_drawn_in_silence(tmp_path, drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(random_matrix(len(HOSTILE)), HOSTILE, tmp_path / "c.png", "$title")
        write_sheet(tmp_path / "m.png", [(name, [None]) for name in HOSTILE])
    assert "Übung 1 " in " ".join(texts(drawn[0])) and r"\$x^" in texts(drawn[0])
    assert all(len(text) < 60 for text in texts(drawn[0]) if text.startswith("v"))


# ---- curves ----


def records(epochs):
    """Records of training and of the tests, whose best epoch is 5 if there is one."""
    epoch = np.arange(epochs)
    train = {"Epoch": epoch, "Loss": 2 / (epoch + 1), "Prec@1": 50 + epoch, "lr": 0.01 * 0.1 ** (epoch // 4)}
    test = {"Epoch": epoch, "Loss": 3 / (epoch + 1), "Prec@1": np.where(epoch == 5, 70, 40 + epoch)}
    return pd.DataFrame(train), pd.DataFrame(test)


@pytest.mark.parametrize(("epochs", "best", "prec1"), [(1, 0, "40.00"), (8, 5, "70.00")])
def test_curves_show_the_records(tmp_path, drawn, epochs, best, prec1):
    train, test = records(epochs)
    plot_curves(train, test, "test", tmp_path / "curves.png", "spatial stream, resnet18\nselected on the test list")
    loss, accuracy, rate = drawn[0].axes
    for axes, column in ((loss, "Loss"), (accuracy, "Prec@1")):
        for line, name, record in zip(axes.lines, ("train", "test"), (train, test), strict=False):
            assert line.get_label() == name
            np.testing.assert_array_equal(line.get_xydata(), record[["Epoch", column]])
    np.testing.assert_allclose(rate.lines[0].get_ydata(), train["lr"])
    assert rate.get_yscale() == ("log" if epochs > 4 else "linear")
    assert accuracy.get_title(loc="right") == f"best test Prec@1: {prec1} % in epoch {best}"
    assert [list(axes.lines[-1].get_xdata()) for axes in (loss, rate)] == [[best, best]] * 2
    assert drawn[0].get_suptitle() == "spatial stream, resnet18\nselected on the test list"
    assert pixels(tmp_path / "curves.png").shape > (600, 600)


@pytest.mark.parametrize(
    ("rates", "scale"),
    [([0.05 * (1 + np.cos(np.pi * e / 300)) for e in range(300)], "linear"), ([0.005, 0.005, 0.0005], "log")],
)
def test_rates_that_fall_in_steps_have_a_logarithmic_axis(tmp_path, drawn, rates, scale):
    train, test = records(len(rates))
    plot_curves(train.assign(lr=rates), test, "test", tmp_path / "curves.png", "Training")
    assert drawn[0].axes[2].get_yscale() == scale


def test_odd_records_and_equally_good_epochs(tmp_path, drawn):
    train, test = records(4)
    test["Prec@1"] = [50, 70, 60, 70]
    for latest, epoch in ((False, 1), (True, 3)):
        plot_curves(train, test, "test", tmp_path / "curves.png", "Training", latest)
        assert drawn[-1].axes[1].get_title(loc="right").endswith(f"70.00 % in epoch {epoch}")
    plot_curves(train.assign(Loss=[1, np.nan, np.inf, 2], lr=0), test[:0], "test", tmp_path / "odd.png", "Training")
    assert pixels(tmp_path / "odd.png").shape > (600, 600)


# ---- sheets ----


@pytest.mark.parametrize("count", [0, 1, 5])
def test_sheets_show_texts_and_pictures_in_the_shape_of_the_first(tmp_path, monkeypatch, count):
    """Beside a frame of 96x54 stand a square picture and a missing one."""
    written, fit = [], contact_sheet.fit
    monkeypatch.setattr(contact_sheet, "fit", lambda text, *rest: (written.append(text), fit(text, *rest))[1])
    red, green = np.full((96, 54, 3), (250, 10, 10), np.uint8), np.full((40, 40, 3), (10, 250, 10), np.uint8)
    cells = [(f"video{i}\n✗ wrong\n✓ right", [red, green, None]) for i in range(count)]
    write_sheet(tmp_path / "sheet.png", cells, "note")
    assert written == [line for text, _ in cells for line in text.splitlines()] + ["note"]
    image = pixels(tmp_path / "sheet.png")
    for color in ((250, 10, 10), (10, 250, 10), (225, 225, 225)):
        assert (np.abs(image - color).max(2) < 3).sum() == pytest.approx(count * 180 * 101, rel=0.02, abs=20)
    for color in ((27, 120, 55), (178, 24, 43)):
        assert (np.abs(image - color).max(2) < 3).any() == (count > 0)


# ---- files ----


def test_pictures_leave_no_trace_in_pyplot_and_are_whole(tmp_path, monkeypatch):
    path = tmp_path / "new" / "c.png"
    plot_confusion(random_matrix(3), ["a", "b", "c"], path)
    before = path.read_bytes()
    assert not _pylab_helpers.Gcf.figs

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        plot_confusion(random_matrix(2), ["a", "b"], path)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1

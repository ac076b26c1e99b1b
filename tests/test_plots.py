import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib import _pylab_helpers
from matplotlib.figure import Figure
from PIL import Image

from common.cli import UserError
from fusion.plots import Answer, Mistake, plot_confusion, plot_curves, plot_misclassified

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


@pytest.mark.parametrize("count", [1, 2, 15, 101])
def test_confusion_shows_names_and_values(tmp_path, drawn, count):
    classes, matrix = [f"Class{i}" for i in range(count)], random_matrix(count)
    plot_confusion(matrix, classes, tmp_path / "conf_matrix.png", "A title")
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()[:count]] == classes
    assert [label.get_text() for label in axes.get_yticklabels()[:count]] == [
        f"{name} ({row.sum()})" for name, row in zip(classes, matrix, strict=True)
    ]
    values = {text.get_position(): text.get_text() for text in axes.texts}
    for row in range(count):
        for column in range(count):
            percent = 100 * matrix[row, column] / matrix[row].sum()
            if matrix[row, column]:
                assert abs(float(values.pop((column, row)).replace("<1", "0")) - percent) <= 1
    assert not values, "zeros are not drawn"
    assert "A title" in axes.get_title() and f"{100 * np.trace(matrix) / matrix.sum():.2f}" in axes.get_title()
    height, width = pixels(tmp_path / "conf_matrix.png").shape[:2]
    assert min(height, width) > {1: 200, 2: 200, 15: 900, 101: 3400}[count] and max(height, width) < 7000
    drawn[0].canvas.draw()
    cell = axes.get_window_extent().width / count
    for text in axes.texts:  # at least 7 pixels high, and inside its cell
        box = text.get_window_extent()
        assert box.height >= 7 and box.width < cell and box.height < cell


def test_confusion_colors_tell_rows_from_columns(tmp_path):
    """Class 0 is always taken for class 1: the dark cell is above the diagonal, in row 0 and column 1."""
    plot_confusion(np.array([[0, 9], [0, 0]]), ["a", "b"], tmp_path / "c.png")
    dark = np.argwhere(pixels(tmp_path / "c.png")[:, :, 0] < 20)
    light = np.argwhere(np.abs(pixels(tmp_path / "c.png") - (247, 251, 255)).max(2) < 3)
    assert dark[:, 1].mean() > light[:, 1].mean() and dark[:, 0].mean() < light[:, 0].mean()


def test_classes_without_videos(tmp_path):
    plot_confusion(np.zeros((3, 3), int), ["a", "b", "c"], tmp_path / "empty.png")
    assert (tmp_path / "empty.png").exists()


def test_hostile_names_are_drawn_in_silence(tmp_path, drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(random_matrix(len(HOSTILE)), HOSTILE, tmp_path / "c.png", "$title")
        plot_misclassified(
            [Mistake(name, name, [Answer(name, name, 0.5)], [None]) for name in HOSTILE], tmp_path / "m.png"
        )
    assert "Übung 1 " in " ".join(texts(drawn[0])) and r"\$x^" in texts(drawn[0])
    assert all(len(text) < 60 for text in texts(drawn[0]) if text.startswith("v"))


# ---- curves ----


def write_records(folder, epochs, second="rgb_test.csv"):
    train = [f"{e},0.1,0.01,{2 / (e + 1)},{50 + e},{80 + e},{0.01 * 0.1 ** (e // 4)}" for e in range(epochs)]
    test = [f"{e},0.1,{3 / (e + 1)},{40 + (e if e != 5 else 30)},{70 + e}" for e in range(epochs)]
    (folder / "rgb_train.csv").write_text(
        "\n".join(["Epoch,Batch Time,Data Time,Loss,Prec@1,Prec@3,lr", *train]) + "\n"
    )
    (folder / second).write_text("\n".join(["Epoch,Batch Time,Loss,Prec@1,Prec@3", *test]) + "\n")
    return folder / "rgb_train.csv", folder / second


@pytest.mark.parametrize("epochs", [1, 2, 8, 60])
def test_curves_show_the_records(tmp_path, drawn, epochs):
    title = "spatial stream, resnet18\nselected on the test list"
    plot_curves(*write_records(tmp_path, epochs), tmp_path / "curves.png", title)
    loss, accuracy, rate = drawn[0].axes
    for axes, values in (
        (loss, (lambda e: 2 / (e + 1), lambda e: 3 / (e + 1))),
        (accuracy, (lambda e: 50 + e, lambda e: 40 + (e if e != 5 else 30))),
    ):
        for line, name, value in zip(axes.lines, ("train", "test"), values, strict=False):
            assert line.get_label() == name
            np.testing.assert_allclose(line.get_ydata(), [value(e) for e in range(epochs)])
            np.testing.assert_array_equal(line.get_xdata(), range(epochs))
    np.testing.assert_allclose(rate.lines[0].get_ydata(), [0.01 * 0.1 ** (e // 4) for e in range(epochs)])
    assert rate.get_yscale() == ("log" if epochs > 4 else "linear")
    best, prec1 = {1: (0, "40.00"), 2: (1, "41.00"), 8: (5, "70.00"), 60: (59, "99.00")}[epochs]
    assert accuracy.get_title(loc="right") == f"best test Prec@1: {prec1} % in epoch {best}"
    assert [list(axes.lines[-1].get_xdata()) for axes in (loss, rate)] == [[best, best]] * 2
    assert (best, float(prec1)) in [tuple(np.ravel(line.get_data())) for line in accuracy.lines]
    assert drawn[0].get_suptitle() == "spatial stream, resnet18\nselected on the test list"
    for axes in drawn[0].axes:  # the one legend lies above its lines
        assert axes.get_ylabel()
        box = axes.get_legend() and axes.get_legend().get_window_extent()
        assert not box or box.y0 >= axes.get_window_extent().y1
    assert pixels(tmp_path / "curves.png").shape > (600, 600)


@pytest.mark.parametrize(
    ("rates", "scale"),
    [
        ([0.05 * (1 + np.cos(np.pi * e / 300)) for e in range(300)], "linear"),  # 1e-6 at the end
        ([5e-4 * 0.1 ** (e // 150) for e in range(500)], "log"),
        ([0.005, 0.005, 0.0005], "log"),
        ([1e-5], "linear"),
        ([0.0] * 3, "linear"),
    ],
)
def test_learning_rates_can_be_read(tmp_path, drawn, rates, scale):
    train, test = write_records(tmp_path, len(rates))
    table = pd.read_csv(train)
    table.assign(lr=rates).to_csv(train, index=False)
    plot_curves(train, test, tmp_path / "curves.png")
    axes = drawn[0].axes[2]
    drawn[0].canvas.draw()
    low, high = axes.get_ylim()
    ticks = [(at, text.get_text()) for at, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)]
    ticks = [(at, text) for at, text in ticks if low <= at <= high]
    assert axes.get_yscale() == scale and low <= min(rates) and max(rates) <= high and 2 <= len(ticks) <= 7
    assert all(float(text) == pytest.approx(at) and len(text) <= 7 for at, text in ticks)  # each label is its value
    assert not axes.yaxis.get_offset_text().get_text()
    assert axes.lines[0].get_markersize() == (0 if len(rates) > 30 else 4)


def test_of_equally_good_epochs_the_first_or_the_latest_is_marked(tmp_path, drawn):
    train, test = write_records(tmp_path, 4)
    pd.read_csv(test).assign(**{"Prec@1": [50, 70, 60, 70]}).to_csv(test, index=False)
    for latest, epoch in ((False, 1), (True, 3)):
        plot_curves(train, test, tmp_path / "curves.png", latest=latest)
        assert drawn[-1].axes[1].get_title(loc="right").endswith(f"70.00 % in epoch {epoch}")


def test_the_validation_record_is_called_so(tmp_path, drawn):
    plot_curves(*write_records(tmp_path, 3, "rgb_val.csv"), tmp_path / "curves.png")
    assert "validation" in texts(drawn[0]) and "test" not in texts(drawn[0])


@pytest.mark.parametrize("epochs", [("0", "1"), ("", "1"), ("", "")])
def test_curves_of_odd_records(tmp_path, epochs):
    train, test = write_records(tmp_path, 3)
    header = "Epoch,Batch Time,Data Time,Loss,Prec@1,Prec@3,lr"
    train.write_text(f"{header}\n{epochs[0]},1,1,nan,,5,0\n{epochs[1]},1,1,inf,5,5,0\n")
    test.write_text("Epoch,Batch Time,Loss,Prec@1,Prec@3\n")
    plot_curves(train, test, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("", "not a record of a training run"),
        ("Epoch,Loss\n0,1\n", "Prec@1"),
        ("Epoch,Loss,Prec@1\n0,one,1\n", "one"),
        (b"\xff\xfe\x00", ""),
        ("Epoch,Loss,Prec@1\n0\n", ""),
    ],
)
def test_curves_of_bad_records(tmp_path, content, words):
    train, test = write_records(tmp_path, 2)
    test.unlink()
    if content == "Epoch,Loss,Prec@1\n0\n":  # a line that was cut off counts as not finite
        test.write_text(content)
        plot_curves(train, test, tmp_path / "curves.png")
        return
    if content is not None:
        test.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        plot_curves(train, test, tmp_path / "curves.png")
    assert str(test) in str(caught.value) and words in str(caught.value)
    assert not (tmp_path / "curves.png").exists()


# ---- mistakes ----


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_mistakes_show_their_pictures_and_classes(tmp_path, drawn, count):
    colors = [(250, 10, 10), (10, 250, 10)]
    for i, color in enumerate(colors):
        Image.new("RGB", (64, 48), color).save(tmp_path / f"{i}.png")
    mistakes = [
        Mistake(
            f"video{i}",
            f"true{i}",
            [Answer("fused", f"wrong{i}", 0.9 - i / 100), Answer("spatial", f"true{i}", 0.4)],
            [tmp_path / "0.png", tmp_path / "1.png"],
        )
        for i in range(count)
    ]
    plot_misclassified(mistakes, tmp_path / "m.png")
    image = pixels(tmp_path / "m.png")
    for color in colors:
        assert ((np.abs(image - color).max(2) < 3).sum() > 5000) == (count > 0)
    shown = " ".join(texts(drawn[0]))
    for i in range(count):
        lines = f"video{i}", f"true: true{i}", f"✗ fused: wrong{i} ({0.9 - i / 100:.0%})", f"✓ spatial: true{i} (40%)"
        assert all(line in shown for line in lines)
    assert ("no mistakes" in shown) == (count == 0)


@pytest.mark.parametrize(("frame", "known"), [((96, 54), None), ((48, 64), None), (None, (48, 64))])
def test_poses_are_shown_in_the_shape_of_the_frames(tmp_path, drawn, frame, known):
    """A square pose image beside a frame, or alone with keypoints that tell the frame's size."""
    Image.new("RGB", (224, 224), (250, 10, 10)).save(tmp_path / "pose.png")
    if frame:
        Image.new("RGB", frame[::-1], (10, 250, 10)).save(tmp_path / "frame.png")
    images = [tmp_path / "frame.png", tmp_path / "pose.png"]
    plot_misclassified([Mistake("a", "b", [Answer("fused", "c", 1.0)], images, known)], tmp_path / "m.png")
    image, (height, width) = pixels(tmp_path / "m.png"), frame or known
    for color in [(250, 10, 10), *[(10, 250, 10)] * bool(frame)]:
        ys, xs = np.nonzero(np.abs(image - color).max(2) < 3)
        assert np.ptp(xs) / np.ptp(ys) == pytest.approx(width / height, rel=0.03) and np.ptp(ys) > 100
    with Image.open(tmp_path / "m.png") as picture:  # nothing shines through where a page is dark
        assert np.asarray(picture.convert("RGBA"))[..., 3].min() == 255 and image[0, 0].min() == 255


def test_missing_and_broken_pictures_leave_a_tile(tmp_path, drawn):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    (tmp_path / "empty.jpg").touch()
    Image.new("CMYK", (30, 30)).save(tmp_path / "cmyk.jpg")
    images = [None, tmp_path / "broken.jpg", tmp_path / "empty.jpg", tmp_path / "none.jpg", tmp_path / "cmyk.jpg"]
    plot_misclassified([Mistake("a", "b", [Answer("fused", "c", 1.0)], images)], tmp_path / "m.png")
    assert texts(drawn[0]).count("no picture") == 4


# ---- files ----


def test_pictures_leave_no_trace_in_pyplot_and_are_whole(tmp_path, monkeypatch):
    path = tmp_path / "new" / "c.png"
    plot_confusion(random_matrix(3), ["a", "b", "c"], path)
    before = path.read_bytes()
    plot_confusion(random_matrix(3), ["a", "b", "c"], path)
    assert path.read_bytes() == before and [child.name for child in path.parent.iterdir()] == ["c.png"]
    assert not _pylab_helpers.Gcf.figs

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        plot_confusion(random_matrix(2), ["a", "b"], path)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1

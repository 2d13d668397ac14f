"""Panels and predictions: driven as a front end would, by the values of their widgets."""

from __future__ import annotations

import base64
import os
import threading

import ipywidgets
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from metis_nb.notebook import frontend, panels
from metis_nb.notebook.panels import panel, predict


def line(figure, slope=0.5, sign=1):
    figure.subplots().plot([0, 1], [0, sign * slope])


class Page:
    """What a notebook shows: one bundle for each output, and the widgets."""

    def __init__(self):
        self.outputs, self.widgets = [], []

    def show(self, *shown):
        self.outputs += [one._repr_mimebundle_()[0] for one in shown]

    def text(self):
        return "\n".join(output["text/plain"] for output in self.outputs)

    def handle(self):
        page = self

        class Handle:
            def display(self, shown):
                self.place = len(page.outputs)
                page.show(shown)

            def update(self, shown):
                page.outputs[self.place] = shown._repr_mimebundle_()[0]

        return Handle()


@pytest.fixture
def page(monkeypatch):
    page = Page()
    monkeypatch.setattr(panels, "display", page.show)
    monkeypatch.setattr(panels, "DisplayHandle", page.handle)
    monkeypatch.setattr(frontend, "show_widget", lambda widget, text: page.widgets.append(widget))
    panels.tally.clear()
    return page


@pytest.fixture
def live(page, monkeypatch):
    monkeypatch.setattr(frontend, "is_live", lambda: True)
    return page


# --- panels -----------------------------------------------------------------------------------


def test_a_slider_draws_the_picture_anew_in_its_place(live):
    panel(line, slope=(0.05, 0.5), sign=[1, -1])
    slope, sign = live.widgets[0].children
    assert (slope.description, slope.value, slope.step) == ("slope", 0.5, 0.01)
    before = dict(live.outputs[0])
    slope.value = 0.2
    sign.value = -1
    assert len(live.outputs) == 2
    assert live.outputs[0]["image/png"] != before["image/png"]
    assert live.outputs[0]["text/plain"] == "line (slope = 0.2, sign = -1)"
    assert live.text().endswith("slope = 0.2, sign = -1")


def test_what_draw_returns_stands_below(live):
    panel(lambda figure, many_steps: f"so **{many_steps}**", many_steps=(2_000, 4_000))
    assert live.outputs[1]["text/markdown"] == "many steps = 3,000: so **3000**"
    assert live.outputs[1]["text/plain"] == "many steps = 3,000: so 3000"


def test_an_error_is_shown_and_the_slider_keeps_working(live):
    def draw(figure, x=1):
        figure.subplots().plot([0, 1 / x])

    panel(draw, x=(0, 3))
    (x,) = live.widgets[0].children
    before = live.outputs[0]
    x.value = 0
    assert live.outputs[0] is before
    assert "No picture of x = 0: `ZeroDivisionError: division by zero`" in live.text()
    x.value = 2
    assert "ZeroDivisionError" not in live.text()
    assert "x = 2" in live.outputs[0]["text/plain"]
    with pytest.raises(ZeroDivisionError):
        panel(draw, x=0)  # at the first values the cell fails, with all of its traceback


def test_of_what_is_asked_while_it_draws_the_newest_alone_is_drawn(live):
    drawn, threads = [], set()
    drawing, go_on = threading.Event(), threading.Event()

    def slow(figure, x=0):
        drawn.append(x)
        threads.add(threading.get_ident())
        if x == 1:
            drawing.set()
            assert go_on.wait(60)

    panel(slow, x=(0, 9))
    (x,) = live.widgets[0].children
    first = threading.Thread(target=lambda: setattr(x, "value", 1))
    first.start()
    assert drawing.wait(60)
    for value in (2, 3, 4):
        x.value = value  # returns at once
    go_on.set()
    first.join(60)
    assert drawn == [0, 1, 4]
    assert threads == {threading.get_ident(), first.ident}
    assert "x = 4" in live.text()


@pytest.mark.parametrize(
    ("kind", "widget", "value"),
    [
        ((1, 5), ipywidgets.IntSlider, 2),
        ((0.0, 5.0, 0.5), ipywidgets.FloatSlider, 2),
        ([1, 2], ipywidgets.Dropdown, 2),
        ({"one": 1, "two": 2}, ipywidgets.Dropdown, 2),
        (True, ipywidgets.Checkbox, True),
        (7, ipywidgets.IntSlider, 7),
        ("text", ipywidgets.Text, "text"),
        (ipywidgets.ToggleButtons(options=[3, 4]), ipywidgets.ToggleButtons, 3),
    ],
)
def test_every_kind_of_control(live, kind, widget, value):
    seen = []
    panel(lambda figure, number=2: seen.append(number), number=kind)
    (control,) = live.widgets[0].children
    assert isinstance(control, widget)
    assert control.description == "number"
    assert seen == [value]


@pytest.mark.parametrize(
    ("still", "titles"),
    [
        (None, "line (slope = 0.5, sign = 1)"),
        (
            [dict(slope=0.1), dict(slope=0.3)],
            "line (slope = 0.1, sign = 1; slope = 0.3, sign = 1)",
        ),
    ],
)
def test_a_still_picture_has_no_widget_and_always_the_same_bytes(page, still, titles):
    for _ in range(2):
        panel(line, slope=(0.0, 1.0), sign=[1, -1], still=still, figsize=(2, 1.5))
    assert page.widgets == []
    half = len(page.outputs) // 2
    assert page.outputs[:half] == page.outputs[half:]
    picture, *caption = page.outputs[:half]
    assert len(caption) == (0 if still else 1)  # several have their values above them
    assert picture["text/plain"] == titles
    png = base64.b64decode(picture["image/png"])
    assert int.from_bytes(png[16:20], "big") == 180 * (2 if still else 1)
    assert b"Software" not in png


def test_live_there_is_one_picture_of_the_first_values(live):
    panel(line, slope=(0.0, 1.0), still=[dict(slope=0.1), dict(slope=0.3)])
    assert live.outputs[0]["text/plain"] == "line (slope = 0.5)"


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (dict(), TypeError, "no controls"),
        (dict(width=(0, 1)), TypeError, r"\['width'\] are no parameters.*\['slope', 'sign'\]"),
        (dict(slope=(0.6, 0.9)), ValueError, r"slope=\(0.6, 0.9\).*default, 0.5"),
        (dict(slope=(1.0, 0.0)), ValueError, r"slope=\(1.0, 0.0\); expected \(min, max\)"),
        (dict(slope=(0.0, 0.0)), ValueError, r"slope=\(0.0, 0.0\); expected \(min, max\)"),
        (dict(slope=(1, 2, 3, 4)), ValueError, "expected .min, max"),
        (dict(slope=None), ValueError, "slope=None; expected"),
        (dict(sign=[]), ValueError, r"sign=\[\]; expected"),
        (dict(slope=0.5, figsize=3), ValueError, "figsize=3; expected"),
        (dict(slope=0.5, still=[dict(sign=1)]), ValueError, r"still has .*\['slope'\]"),
    ],
)
def test_arguments_of_a_panel(page, arguments, error, match):
    with pytest.raises(error, match=match):
        panel(line, **arguments)
    assert page.outputs == []


def test_draw_must_be_a_function_whose_parameters_are_known(page):
    with pytest.raises(TypeError, match="draw=3; expected a function"):
        panel(3, x=1)
    with pytest.raises(TypeError, match=r"draw needs \['y'\]"):
        panel(lambda figure, x, y: None, x=1)
    with pytest.raises(TypeError, match="draw has no parameter for the figure"):
        panel(lambda: None, x=1)


# --- predictions ------------------------------------------------------------------------------


def parts(page):
    control, below = page.widgets[-1].children
    return control, *below.children


def test_a_guess_by_slider(live):
    guess = predict("How many?", low=0, high=80_000, step=1_000, unit="steps")
    assert live.text() == "Your guess: How many? (0 to 80,000 steps)"
    slider, button, said = parts(live)
    assert guess.value is None
    slider.value = 37_000
    assert guess.value == 37_000
    assert said.value == "Your guess: 37,000 steps."
    button.click()
    assert slider.disabled
    assert button.disabled
    assert said.value == "Your guess: 37,000 steps, locked in."
    with pytest.raises(RuntimeError, match="locked in: 37,000 steps"):
        guess.value = 1
    guess.reveal(np.int64(34_816))
    assert guess.error == 2_184
    assert "You guessed 37,000 steps: 2,184 too high, close." in live.text()
    assert "1 of 1. Blind guessing would get 0.2" in live.text()
    assert "image/png" in live.outputs[-1]
    assert live.outputs[-1]["text/plain"] == "number line: guess 37,000 steps, answer 34,816 steps"


def test_the_button_takes_the_slider_where_it_stands(live):
    guess = predict("How many?", low=0.0, high=1.0)
    parts(live)[1].click()
    assert guess.value == 0.5


def test_a_guess_by_buttons(live):
    guess = predict("What will it do?", choices=["rise", "fall", "stay"])
    assert live.text() == "Your guess: What will it do? (rise, fall or stay)"
    buttons, button, said = parts(live)
    button.click()
    assert guess.value is None
    assert said.value == "Choose one first."
    assert not button.disabled
    buttons.value = "fall"
    guess.reveal("fall")
    assert "You guessed fall: right." in live.text()
    assert guess.error is None
    assert buttons.disabled


def test_a_typed_guess(live):
    guess = predict("How long?", unit="seconds")
    text, button, said = parts(live)
    for nonsense in ("four", "nan", ""):
        text.value = nonsense
        button.click()
        assert said.value == "Type a number first."
        assert guess.value is None
    text.value = "1,234,567.25"
    assert guess.value == 1_234_567.25
    text.value = "2e4"
    assert guess.value == 20_000
    guess.reveal(torch.tensor(0.0))
    assert "You guessed 20,000 seconds: 20,000 too high." in live.text()


def test_a_guess_without_widgets(live):
    guess = predict("How many?", low=0, high=10)
    guess.value = np.float32(4)
    assert guess.value == 4
    assert parts(live)[0].value == 4
    assert repr(guess) == "<Prediction 'How many?': guess 4>"


def test_without_a_guess(page):
    guess = predict("How many?", low=0, high=10)
    guess.reveal(3)
    assert page.widgets == []
    assert page.text().endswith("How many? Answer: 3. No guess was made.")
    assert panels.tally == {}
    assert guess.error is None
    with pytest.raises(RuntimeError, match="locked in: none"):
        guess.value = 3


def test_what_is_close_and_how_probable_blindly(page):
    def ask(question, guess, answer, **arguments):
        prediction = predict(question, **arguments)
        prediction.value = guess
        prediction.reveal(answer)
        return panels.tally[question]

    assert ask("edge", 0.3, 0.4, low=0.0, high=1.0) == (True, pytest.approx(0.2))
    assert ask("beyond", 0.3, 0.41, low=0.0, high=1.0) == (False, pytest.approx(0.2))
    assert ask("corner", 0.0, 0.0, low=0.0, high=1.0) == (True, pytest.approx(0.1))
    assert ask("outside", 1.0, 3.0, low=0.0, high=1.0) == (False, 0.0)
    assert ask("choice", "b", "a", choices=["a", "b"]) == (False, 0.5)
    assert ask("free", 90, 100) == (True, 0.0)
    assert ask("below zero", -90, -101) == (False, 0.0)
    assert "3 of 7. Blind guessing would get 1.0" in page.text()
    assert ask("choice", "a", "a", choices=["a", "b"]) == (False, 0.5)  # the first one counts


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (dict(question=" "), "question=' '"),
        (dict(low=0), "low=0, high=None; expected two numbers"),
        (dict(low=2, high=1), "low below high"),
        (dict(low=0, high=1, step=2), "step=2; expected"),
        (dict(step=2), "step=2; it needs low and high"),
        (dict(choices=["a"]), "at least two"),
        (dict(choices="ab"), "choices='ab'"),
        (dict(choices=["a", "a"]), "all different"),
        (dict(choices=["a", "b"], unit="m"), "choices go without"),
    ],
)
def test_arguments_of_a_prediction(page, arguments, match):
    with pytest.raises(ValueError, match=match):
        predict(**{"question": "What?", **arguments})
    assert page.outputs == []


def test_guesses_and_answers_are_checked(page):
    number = predict("How many?", low=0, high=10)
    for wrong in (11, "3", True, None, np.nan, np.arange(3)):
        with pytest.raises(ValueError, match=r"value=.*expected a number from 0 to 10"):
            number.value = wrong
    with pytest.raises(ValueError, match=r"answer='many'; expected a number\."):
        number.reveal("many")
    assert not number.locked
    with pytest.raises(ValueError, match=r"value='c'; expected one of \['a', 'b'\]"):
        predict("Which?", choices=["a", "b"]).value = "c"


# --- in a kernel ------------------------------------------------------------------------------


def outputs_of(source, static):
    os.environ["METIS_NB_STATIC"] = "1" if static else "0"
    cell = nbformat.v4.new_code_cell(source)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(notebook, kernel_name="python3", store_widget_state=False).execute()
    return cell.outputs


SOURCE = """
import ipywidgets
from metis_nb.notebook.panels import panel, predict

def line(figure, slope=0.5):
    figure.subplots().plot([0, slope])

slope = ipywidgets.FloatSlider(0.5, min=0, max=1)
panel(line, slope=slope)
slope.value = 0.25
guess = predict("How many?", low=0, high=10)
guess.value = 3
guess.reveal(4)
"""
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def _same_environment(monkeypatch):
    monkeypatch.setenv("METIS_NB_STATIC", "0")  # put back afterwards


@pytest.mark.usefixtures("_same_environment")
def test_in_a_live_kernel_the_last_picture_is_what_is_saved():
    outputs = outputs_of(SOURCE, static=False)
    assert all(output.output_type == "display_data" for output in outputs)
    style, slider, picture, caption, question, _, buttons, reveal, number_line = outputs
    model = slider.data[WIDGET]["model_id"]
    assert f'class="mnb-widget-{model}"' in style.data["text/html"]
    assert slider.data["text/plain"] == "Run this cell to change slope."
    assert picture.data["text/plain"] == "line (slope = 0.25)"
    assert picture.metadata["image/png"] == {"width": 495, "height": 288}
    assert caption.data["text/markdown"] == "slope = 0.25"
    assert buttons.data["text/plain"] == "Run this cell to make a guess."
    assert "You guessed 3: 1 too low, close." in reveal.data["text/markdown"]
    assert "image/png" in number_line.data


@pytest.mark.usefixtures("_same_environment")
def test_in_a_static_kernel_there_are_no_widgets_and_no_scripts():
    outputs = outputs_of(SOURCE, static=True)
    kinds = [set(output.data) - {"text/plain"} for output in outputs]
    assert kinds == [{"image/png"}, *[{"text/markdown"}] * 3, {"image/png"}]
    assert outputs[0].data["text/plain"] == "line (slope = 0.5)"


def test_a_text_for_a_dead_widget_cannot_end_its_style():
    assert frontend._css_string('a "b" \\ </style>\n') == (r'"a \22 b\22  \5c  \3c /style>\a "')

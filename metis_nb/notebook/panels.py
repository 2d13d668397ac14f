"""Pictures with sliders, and questions to answer before a cell does.

panel(draw, clip_range=(0.05, 0.5))
guess = predict("How many steps will it take?", low=0, high=80_000, unit="steps")
guess.reveal(34_816)

Both leave something to read in a saved notebook: the last picture, the question and the answer.
"""

from __future__ import annotations

import base64
import contextlib
import inspect
import io
import math
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ipywidgets
from IPython.display import DisplayHandle, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metis_nb.notebook import frontend, plots

_DPI = 90
# A widget may call back on a thread of its own, and matplotlib draws in one thread at a time.
_drawing = threading.RLock()


# --- a picture with sliders ----------------------------------------------------------------


def panel(
    draw: Callable[..., str | None],
    *,
    figsize: tuple[float, float] = (5.5, 3.2),
    still: Sequence[Mapping[str, Any]] | None = None,
    **controls: Any,
) -> None:
    """Display what `draw` draws, and a control for each of its parameters: move it, see it anew.

        def gain(figure, clip_range=0.2, advantage=1.0):
            ax = figure.subplots()
            ...

        panel(gain, clip_range=(0.05, 0.5), advantage=[1.0, -1.0])

    The last picture stays in the saved notebook. In static mode and without a kernel there is only
    the picture of the first values.

    Args:
        draw: `draw(figure, **values)` draws into a matplotlib figure, never with pyplot. A string
            that it returns stands below the picture.
        figsize: width and height of the picture in inches.
        still: settings such as `[dict(clip_range=0.1), dict(clip_range=0.3)]`; where nobody can
            move a slider they are drawn side by side. Each `figure` is a part of one then.
        controls: for a parameter of `draw` what it may be, in the abbreviations of ipywidgets:
            (min, max) or (min, max, step), a list of choices, a dict from names to choices, True or
            False, a number, a text, or a widget. It starts from the parameter's default, or else
            in the middle.

    Raises:
        TypeError, ValueError: an argument cannot be used; what `draw` raises at the first values.
            What it raises later stands below the picture.
    """
    pair = isinstance(figsize, tuple | list) and len(figsize) == 2
    if not pair or not all(_is_number(x) and x > 0 for x in figsize):
        raise ValueError(f"figsize={figsize!r}; expected (width, height) in inches, above 0.")
    widgets = _widgets(draw, controls)
    first = {name: widget.value for name, widget in widgets.items()}
    settings = [first]
    for each in still or ():
        if not isinstance(each, Mapping) or not each.keys() <= first.keys():
            raise ValueError(f"still has {each!r}; expected dicts with some of {list(first)}.")
    live = frontend.is_live()
    if still and not live:
        settings = [first | dict(each) for each in still]
    picture, caption = _picture(draw, settings, figsize)
    if not live:
        display(*[output for output in (picture, caption) if str(output)])
        return
    names = ", ".join(widget.description for widget in widgets.values())
    frontend.show_widget(
        ipywidgets.VBox(list(widgets.values())), f"Run this cell to change {names}."
    )
    handles = DisplayHandle(), DisplayHandle()
    handles[0].display(picture)
    handles[1].display(caption)

    def show(values: dict[str, Any]) -> None:
        try:
            picture, caption = _picture(draw, [values], figsize)
            handles[0].update(picture)
        except Exception as error:
            problem = f"**No picture** of {_in_words(values)}: `{type(error).__name__}: {error}`"
            caption = _text(problem)
        handles[1].update(caption)

    latest = _Latest(show)
    for widget in widgets.values():
        widget.observe(lambda _: latest({n: w.value for n, w in widgets.items()}), "value")


class _Latest:
    """Calls a slow function one at a time; of what is asked meanwhile, the last alone counts."""

    def __init__(self, function: Callable[[Any], None]):
        self.function = function
        self.waiting: deque[Any] = deque(maxlen=1)
        self.busy = threading.Lock()

    def __call__(self, argument: Any) -> None:
        self.waiting.append(argument)
        # Whoever is busy looks again afterwards, so nothing is left waiting when all have returned.
        while self.waiting and self.busy.acquire(blocking=False):
            try:
                if self.waiting:
                    self.function(self.waiting.pop())
            finally:
                self.busy.release()


def _picture(
    draw: Callable[..., str | None],
    settings: Sequence[Mapping[str, Any]],
    figsize: tuple[float, float],
) -> tuple[_Output, _Output]:
    """The picture of one or several settings, side by side, and the text below it."""
    with _drawing:
        figure = Figure(figsize=(figsize[0] * len(settings), figsize[1]), layout="constrained")
        parts = figure.subfigures(1, len(settings), squeeze=False)[0]
        several = len(settings) > 1
        lines = []
        for values, part in zip(settings, parts if several else [figure]):
            said = draw(part, **values)
            if several:
                part.suptitle(_in_words(values))
            if said or not several:  # each of several has its values above it
                lines.append(_in_words(values) + (f": {said}" if said else ""))
        name = getattr(draw, "__name__", "picture").replace("_", " ").strip()
        picture = _png(figure, f"{name} ({'; '.join(map(_in_words, settings))})")
    return picture, _text("\n\n".join(lines))


def _widgets(draw: Callable[..., Any], controls: Mapping[str, Any]) -> dict[str, Any]:
    """A labelled widget for each control, at the default of the parameter of `draw`."""
    if not callable(draw):
        raise TypeError(f"draw={draw!r}; expected a function draw(figure, ...).")
    if not inspect.signature(draw).parameters:
        raise TypeError("draw has no parameter for the figure; expected draw(figure, ...).")
    if not controls:
        raise TypeError("panel has no controls; give some, such as clip_range=(0.05, 0.5).")
    parameters = list(inspect.signature(draw).parameters.values())[1:]  # the first is the figure
    known = {p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD}
    if len(known) == len(parameters) and (unknown := controls.keys() - known.keys()):
        raise TypeError(f"{sorted(unknown)} are no parameters of draw; it has {list(known)}.")
    missing = [p.name for p in known.values() if p.default is p.empty and p.name not in controls]
    if missing:
        raise TypeError(f"draw needs {missing}; give each a control or a default.")
    empty = inspect.Parameter.empty
    widgets = {
        name: _widget(name, kind, known[name].default if name in known else empty)
        for name, kind in controls.items()
    }
    width = f"{max(len(widget.description) for widget in widgets.values()) + 1}ch"
    for widget in widgets.values():
        widget.style.description_width = width
    return widgets


def _widget(name: str, kind: Any, default: Any) -> Any:
    """The widget for an abbreviation; see `panel`."""
    given = default is not inspect.Parameter.empty
    widget: Any = None
    problem: Exception | None = None
    try:
        widget = ipywidgets.interactive.widget_from_abbrev(kind, default)
        two = isinstance(kind, tuple) and len(kind) == 2
        if two and isinstance(widget, ipywidgets.FloatSlider):
            # ipywidgets always steps by 0.1, which may be half of the range.
            widget.step, widget.readout_format = _step(*kind)
    except Exception as error:
        problem = error
    if problem or getattr(widget, "value", None) is None or not hasattr(widget, "style"):
        raise ValueError(
            f"{name}={kind!r}; expected (min, max), (min, max, step), a list or dict of choices, "
            "True or False, a number, a text, or a widget with a label."
        ) from problem
    if given and isinstance(kind, tuple | list | Mapping) and widget.value != default:
        raise ValueError(f"{name}={kind!r} does not allow draw's own default, {default!r}.")
    widget.description = widget.description or name.replace("_", " ")
    return widget


def _step(low: float, high: float) -> tuple[float, str]:
    """A round step that divides a range into 20 to 200, and the format that shows it."""
    power = math.floor(math.log10((high - low) / 20))
    return 10.0**power, f",.{max(0, -power)}f"


def _in_words(values: Mapping[str, Any]) -> str:
    def word(value: Any) -> str:
        return _number(value) if _is_number(value) else str(value)

    return ", ".join(f"{name.replace('_', ' ')} = {word(value)}" for name, value in values.items())


# --- a question to answer first ------------------------------------------------------------

# question -> (was the guess close?, the probability that a blind guess is). The first guess at a
# question counts: after the answer it is none any more. `tally.clear()` starts anew.
tally: dict[str, tuple[bool, float]] = {}

_CLOSE = 0.1  # of the range


class Prediction:
    """A question, and the reader's guess; what `predict` returns.

    Attributes:
        question: as it was asked.
        answer: what `reveal` was told; None before.
    """

    def __init__(
        self,
        question: str,
        low: float | None,
        high: float | None,
        step: float | None,
        unit: str,
        choices: Sequence[Hashable],
    ):
        self.question, self.unit = question, unit
        self.low, self.high, self.step, self.choices = low, high, step, list(choices)
        self.answer: Any = None
        self.locked = False
        self._value: Any = None
        self._control: Any = None

    def __repr__(self) -> str:
        guess = "no guess yet" if self.value is None else f"guess {self._in_words(self.value)}"
        return f"<Prediction {self.question!r}: {guess}>"

    @property
    def value(self) -> Any:
        """The guess: a number or a choice; None until there is one. May be assigned."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        value = self._checked("value", value)
        if self.locked and value != self._value:
            guess = "none" if self._value is None else self._in_words(self._value)
            raise RuntimeError(f"The guess is locked in: {guess}. Ask again to make another.")
        self._value = value
        if self._control is not None:
            self._control.show()

    @property
    def error(self) -> float | None:
        """Guess minus answer, of numbers; None while one of them is missing."""
        known = not self.choices and self.answer is not None and self.value is not None
        return self.value - self.answer if known else None

    def lock(self) -> None:
        """Let the guess be changed no more."""
        self.locked = True
        if self._control is not None:
            self._control.show()

    def reveal(self, answer: Any) -> None:
        """Lock the guess and display it beside the answer.

        A guess counts as close if it is at most a tenth of the range from low to high away from the
        answer, which a blind guess is one time in five at most; without a range, if it is off by at
        most a tenth of the answer. A choice has to be right. `tally` counts.

        Args:
            answer: a number, or one of the choices; None says that it did not come to that.
        """
        if answer is None:
            self.lock()
            display(_text(f"**{self.question}** It did not come to that this time."))
            return
        answer = self.answer = self._checked("answer", answer, within=False)
        self.lock()
        said = f"**{self.question}** Answer: **{self._in_words(answer)}**."
        if self.value is None:
            display(_text(f"{said} No guess was made."))
            return
        said += f" You guessed {self._in_words(self.value)}: "
        if self.choices:
            close, probability = self.value == answer, 1 / len(self.choices)
            said += "right." if close else "not this time."
        else:
            away = abs(self.value - answer)
            scale = abs(answer) if self.low is None or self.high is None else self.high - self.low
            # The last digit of a float must not decide.
            close, probability = away <= _CLOSE * scale * (1 + 1e-9), self._probability(answer)
            side = "low" if self.value < answer else "high"
            said += f"{_number(away)} too {side}" if away else "exactly right"
            said += ", close." if away and close else "."
        tally.setdefault(self.question, (bool(close), probability))
        hits, blind = (sum(column) for column in zip(*tally.values()))
        said += f"\n\n*Right or close (within a tenth) so far: {hits} of {len(tally)}. "
        said += f"Blind guessing would get {blind:.1f} on average.*"
        display(_text(said))
        if not self.choices and self.low is not None:
            display(self._number_line())

    def _probability(self, answer: float) -> float:
        """How probable it is that a guess drawn blindly from the range is close."""
        if self.low is None or self.high is None:
            return 0.0
        reach = _CLOSE * (self.high - self.low)
        inside = min(answer + reach, self.high) - max(answer - reach, self.low)
        return max(0.0, inside / (self.high - self.low))

    def _checked(self, name: str, value: Any, within: bool = True) -> Any:
        """A guess or an answer as a plain number or one of the choices."""
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"{name}={value!r}; expected one of {self.choices}.")
            return value
        number = _as_number(value)
        limited = within and self.low is not None and self.high is not None
        if number is None or (limited and not self.low <= number <= self.high):
            where = f" from {self.low} to {self.high}" if limited else ""
            raise ValueError(f"{name}={value!r}; expected a number{where}.")
        return number

    def _in_words(self, value: Any) -> str:
        if self.choices:
            return str(value)
        return f"{_number(value)} {self.unit}".strip()

    def _number_line(self) -> _Output:
        """The guess and the answer on the line from low to high."""
        assert self.low is not None
        assert self.high is not None
        with _drawing:
            figure = Figure(figsize=(6, 1.3), layout="constrained")
            ax = figure.subplots()
            ax.axhline(0, color=plots.GREY, linewidth=1, zorder=0)
            marks = (
                (self.value, "your guess", plots.ORANGE, "o", 12, "bottom"),
                (self.answer, "answer", plots.BLUE, "D", -12, "top"),
            )
            left, right = min(self.low, self.answer), max(self.high, self.answer)
            for number, word, color, marker, offset, side in marks:
                ax.plot(number, 0, marker, color=color, markersize=9)
                # Text beside the end of the line grows towards the middle.
                share = (number - left) / (right - left)
                align = "left" if share < 0.2 else "right" if share > 0.8 else "center"
                ax.annotate(
                    f"{word}: {self._in_words(number)}",
                    (number, 0),
                    (0, offset),
                    textcoords="offset points",
                    horizontalalignment=align,
                    verticalalignment=side,
                )
            margin = 0.02 * (right - left)
            ax.set(xlim=(left - margin, right + margin), ylim=(-1, 1), yticks=[], xlabel=self.unit)
            ax.xaxis.set_major_formatter(lambda x, _: _number(x))
            ax.locator_params(axis="x", nbins=5)
            ax.spines[["top", "right", "left"]].set_visible(False)
            guess, answer = self._in_words(self.value), self._in_words(self.answer)
            return _png(figure, f"number line: guess {guess}, answer {answer}")


def predict(
    question: str,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    unit: str = "",
    choices: Sequence[Hashable] | None = None,
) -> Prediction:
    """Ask the reader for a guess. Nothing waits for it: a later cell reveals the answer.

        guess = predict("At which step will it reach 475?", low=0, high=80_000, unit="steps")
        guess.reveal(34_816)    # in a later cell

    Without widgets a cell with `guess.value = 20_000` does the same.

    Args:
        question: one sentence; Markdown.
        low, high: the range of a number, for a slider. Without them it is typed.
        step: of the slider; None takes a round one.
        unit: of the number, such as "steps".
        choices: at least two, in place of a number.

    Raises:
        ValueError: an argument cannot be used.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"question={question!r}; expected a text.")
    if choices is not None:
        if isinstance(choices, str) or len(choices) < 2 or len(set(choices)) < len(choices):
            raise ValueError(
                f"choices={choices!r}; expected a list of at least two, all different."
            )
        if (low, high, step, unit) != (None, None, None, ""):
            raise ValueError("choices go without low, high, step and unit, which are for numbers.")
    elif low is None and high is None:
        if step is not None:
            raise ValueError(f"step={step!r}; it needs low and high.")
    else:
        ends = low, high
        if not all(map(_is_number, ends)) or not low < high:  # type: ignore[operator]
            raise ValueError(f"low={low!r}, high={high!r}; expected two numbers, low below high.")
        if step is not None and not (_is_number(step) and 0 < step <= high - low):  # type: ignore[operator]
            raise ValueError(f"step={step!r}; expected a number above 0, at most high - low.")
    prediction = Prediction(question.strip(), low, high, step, unit, choices or ())
    hint = ""
    if choices is not None:
        *most, last = map(str, choices)
        hint = f" ({', '.join(most)} or {last})"
    elif low is not None:
        hint = f" ({_number(low)} to {prediction._in_words(high)})"
    elif unit:
        hint = f" (in {unit})"
    display(_text(f"**Your guess:** {prediction.question}{hint}"))
    if frontend.is_live():
        prediction._control = _Control(prediction)
    return prediction


class _Control:
    """The widgets of a prediction: what to move, a button, and what the guess is so far."""

    def __init__(self, prediction: Prediction):
        self.prediction = prediction
        self.input = self._input()
        self.button = ipywidgets.Button(
            description="Lock in my guess", layout=ipywidgets.Layout(width="max-content")
        )
        self.said = ipywidgets.Label("No guess yet.")
        self.input.observe(self._moved, "value")
        self.button.on_click(self._lock)
        below = ipywidgets.HBox([self.button, self.said])
        text = "Run this cell to make a guess."
        frontend.show_widget(ipywidgets.VBox([self.input, below]), text)

    def _input(self) -> Any:
        asked = self.prediction
        wide = ipywidgets.Layout(width="32em", max_width="98%")
        common = {"description": "my guess", "layout": wide}
        if asked.choices:
            options = [(str(choice), choice) for choice in asked.choices]
            # Not RadioButtons: JupyterLab takes the arrow keys for itself.
            common["layout"], common["style"] = {"width": "auto"}, {"button_width": "auto"}
            return ipywidgets.ToggleButtons(options=options, value=None, **common)
        if asked.low is None or asked.high is None:
            empty = {"placeholder": "a number", "continuous_update": False}
            return ipywidgets.Text(**empty, **common)
        step, shown = _step(asked.low, asked.high)
        if asked.step is not None:
            step, shown = asked.step, f",.{_decimals(asked.step)}f"
        middle = asked.low + step * round((asked.high - asked.low) / 2 / step)
        ends = {"min": asked.low, "max": asked.high, "step": step, "value": middle}
        return ipywidgets.FloatSlider(**ends, readout_format=shown, **common)

    def _moved(self, _: Any = None) -> None:
        value = self.input.value
        try:
            if not self.prediction.choices:
                # 20,000 and 2e4 are numbers too; Python itself reads 20_000
                value = float(value.replace(",", "")) if isinstance(value, str) else value
                value = int(value) if value.is_integer() else value
            self.prediction.value = value
        except ValueError:
            some = "Choose one" if self.prediction.choices else "Type a number"
            self.said.value = f"{some} first."

    def _lock(self, _: Any) -> None:
        if self.prediction.locked:
            return
        self._moved()  # who is content with where the slider stands has not moved it
        if self.prediction.value is not None:
            self.prediction.lock()

    def show(self) -> None:
        """What the prediction is now."""
        asked = self.prediction
        if asked.value is not None:
            typed = isinstance(self.input, ipywidgets.Text)
            self.input.value = f"{asked.value:,}" if typed else asked.value
        self.input.disabled = self.button.disabled = asked.locked
        if asked.value is not None:
            locked = ", locked in." if asked.locked else "."
            self.said.value = f"Your guess: {asked._in_words(asked.value)}{locked}"
        elif asked.locked:
            self.said.value = "No guess was made. Run this cell again to make one."


# --- both ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Output:
    """What `display` shows in a notebook; outside of one it prints the text."""

    bundle: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.bundle["text/plain"]

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.bundle, self.metadata


def _png(figure: Figure, text: str) -> _Output:
    """A figure as a picture, the same bytes at every run."""
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(file, dpi=_DPI, metadata={"Software": None})
    bundle = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": text}
    width, height = (round(inches * _DPI) for inches in figure.get_size_inches())
    # With its size the page keeps the place while one picture follows another.
    return _Output(bundle, {"image/png": {"width": width, "height": height}})


def _text(markdown: str) -> _Output:
    return _Output({"text/markdown": markdown, "text/plain": markdown.replace("*", "")})


def _as_number(value: Any) -> Any:
    """A finite plain number, from one of numpy or torch too; None if it is none."""
    if hasattr(value, "item"):
        with contextlib.suppress(ValueError, RuntimeError):  # an array of several
            value = value.item()
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number and math.isfinite(value) else None


def _is_number(value: Any) -> bool:
    return _as_number(value) is not None


def _number(value: float) -> str:
    """20,000 and 0.25: no more digits than there are, and than tell anything."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}"


def _decimals(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))

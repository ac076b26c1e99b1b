"""How the page of app.py shows an answer: bars in HTML that fit a phone, in the colours of the page's theme."""

from collections.abc import Sequence
from html import escape

from common.contact_sheet import clean
from prediction.overlay import Bars

CSS = """
.bars { --good: #2e9d63; --other: #6f8fc4; --stream: #9a9a9a; }
.bars h2 { margin: 0 0 .6rem; font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
.bars .row { display: grid; grid-template-columns: 1fr auto; column-gap: .7rem; margin: .55rem 0 .2rem; }
.bars .row span { overflow-wrap: anywhere; }
.bars .track { height: .75rem; border-radius: .3rem; background: var(--border-color-primary); overflow: hidden; }
.bars .track i { display: block; height: 100%; background: var(--other); }
.bars .best i { background: var(--good); }
.bars .stream { display: grid; grid-template-columns: 6.5rem 1fr 4rem; column-gap: .7rem; align-items: center;
  font-size: .85rem; opacity: .75; }
.bars .stream .track { height: .4rem; }
.bars .stream i { background: var(--stream); }
.bars .percent { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bars ul { margin: .9rem 0 0; padding-left: 1.2rem; }
.bars .facts { margin-top: .9rem; }
.bars .facts div { margin-top: .2rem; font-size: .85rem; opacity: .75; }
.timeline img { padding-top: 2.2rem; }
@media (max-width: 700px) {
  .timeline .image-frame { overflow-x: auto; justify-content: flex-start; }
  .timeline img { min-width: 900px; }
}
"""


def bars_html(bars: Bars, facts: Sequence[str] = (), heading: str | None = None) -> str:
    """The answer, or `heading`, a bar for each of `bars.top`, lower ones for the streams, notes, and lines of facts.

    All text is escaped, for names of classes and files may hold anything.
    """
    if heading is None:
        heading = bars.top[0][0] if bars.answered else "None of these" if bars.top else "Nobody in view"
    parts = [f"<h2>{_text(heading)}</h2>"]
    for i, (name, probability) in enumerate(bars.top):
        best = " best" if bars.answered and i == 0 else ""
        percent = f'<span class="percent">{100 * probability:.1f} %</span>'
        parts.append(f'<div class="row"><span>{_text(name)}</span>{percent}</div>{_track(probability, best)}')
        for stream, values in bars.streams.items():
            percent = f'<span class="percent">{100 * values[i]:.1f} %</span>'
            parts.append(f'<div class="stream"><span>{_text(stream)}</span>{_track(values[i])}{percent}</div>')
    if bars.notes:
        parts.append(f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in bars.notes)}</ul>")
    parts.append(f'<div class="facts">{"".join(f"<div>{_text(fact)}</div>" for fact in facts)}</div>')
    return f'<div class="bars">{"".join(parts)}</div>'


def _track(probability: float, more: str = "") -> str:
    return f'<div class="track{more}"><i style="width:{100 * probability:.2f}%"></i></div>'


def _text(text: str) -> str:
    return escape(clean(text))

"""What the page has to fill in and to look at, and what its fields mean as flags of `sspir restore`."""

from dataclasses import dataclass
from typing import Any, Self

import gradio as gr

from sspir.app.restorer import MOST_SAMPLES
from sspir.config.compose import choices
from sspir.images.names import FORMATS
from sspir.restoring.peer import PeerPipeline

AS_TRAINED = "as trained"
RULES = {"times as large": "scale", "to fit into": "size", "long side": "long-side", "short side": "short-side"}
MEANT = {"scale": "Times", "size": "Width x height", "long-side": "Pixels", "short-side": "Pixels"}
FIRST = {"scale": "", "size": "1920x1080", "long-side": "2048", "short-side": "1080"}
RESULT, TRUST = "the result", "where samples differ"


@dataclass(frozen=True)
class Model:
    """Which fields mean something to a model.

    Attributes:
        scale: that it was trained for.
        is_peer: whether it has neither words nor noise.
        many_steps: whether it restores in steps, by a sampler.
        noised: whether its samples differ.
        fidelity: that it has where none is asked for.
    """

    scale: float
    is_peer: bool
    many_steps: bool
    noised: bool
    fidelity: float = 0.0

    @classmethod
    def of(cls, pipeline: Any) -> Self:
        """Of a pipeline, or a peer."""
        if isinstance(pipeline, PeerPipeline):
            return cls(pipeline.peer.scale, True, False, False)
        config = pipeline.config
        return cls(config.scale, False, not config.one_step, config.noised, pipeline.sampler.fidelity)


def words_of(model: Model) -> list[Any]:
    """Fields for one caption, and for those of several photos."""
    caption = gr.Textbox(
        "", label="What the photo shows, in your words", lines=3, visible=not model.is_peer, elem_id="caption"
    )
    captions = gr.Dataframe(
        [["", ""]], headers=["photo", "what it shows"], column_count=2, static_columns=[0], type="array", wrap=True,
        interactive=True, visible=False, elem_id="captions",
    )  # fmt: skip
    return [caption, captions]


def settings_of(model: Model) -> list[Any]:
    """The first fields that `flags` takes, in its order."""
    rule = gr.Radio(list(RULES), value="times as large", label="Size of the result", elem_id="rule")
    size = gr.Textbox(f"{model.scale:g}", label=MEANT["scale"], elem_id="size")
    fidelity = gr.Slider(
        0, 1, model.fidelity, step=0.05, label="Fidelity", info="0: as realistic as it can; 1: as faithful as it can",
        visible=not model.is_peer, elem_id="fidelity",
    )  # fmt: skip
    return [rule, size, fidelity]


def more_settings_of(model: Model) -> list[Any]:
    """The other fields that `flags` takes, folded."""
    with gr.Accordion("More settings", open=False, elem_id="more"):
        most = gr.Textbox("", label="Pixels of the longer side at most", elem_id="max-side")
        samples = gr.Slider(
            1, MOST_SAMPLES, 1, step=1, label="Samples", info="several show where the model invents",
            visible=model.noised, elem_id="samples",
        )  # fmt: skip
        seed = gr.Textbox("0", label="Seed", visible=not model.is_peer, elem_id="seed")
        sampler = gr.Dropdown(
            [AS_TRAINED, *choices("sampler")], value=AS_TRAINED, label="Sampler", visible=model.many_steps
        )
        steps = gr.Textbox("", label="Steps", placeholder=AS_TRAINED, visible=model.many_steps, elem_id="steps")
        guidance = gr.Textbox("", label="Guidance by the words", placeholder=AS_TRAINED, visible=model.many_steps)
        negative = gr.Textbox("", label="What it shall not look like", visible=model.many_steps)
        form = gr.Dropdown(list(FORMATS), value="png", label="Format", elem_id="format")
    return [most, samples, seed, sampler, steps, guidance, negative, form]


def results_of() -> list[Any]:
    """What is shown of results: two downloads, before and after, what is on the right, all results, the command."""
    slider = gr.ImageSlider(
        label="Before and after", type="filepath", format="png",
        max_height=720, visible=False, interactive=False, buttons=["fullscreen"], elem_id="slider",
    )  # fmt: skip
    shown = gr.Radio([RESULT, TRUST], value=RESULT, label="On the right", visible=False, elem_id="shown")
    gallery = gr.Gallery(
        label="Results", columns=4, height=180, visible=False, interactive=False, allow_preview=False, elem_id="gallery"
    )
    with gr.Row():
        download = gr.DownloadButton("Download", visible=False, elem_id="download")
        archive = gr.DownloadButton("Download everything (zip)", visible=False, elem_id="archive")
    command = gr.Code(
        label="The same as a command", language="shell", lines=1, wrap_lines=True, visible=False, interactive=False,
        elem_id="command",
    )  # fmt: skip
    return [download, archive, slider, shown, gallery, command]


def flags(
    model: Model, rule: str, size: str, fidelity: float, most: str, samples: int, seed: str, sampler: str, steps: str,
    guidance: str, negative: str, form: str,
) -> dict[str, str]:  # fmt: skip
    """The fields as long flags without their dashes -> values; those that change nothing are left out."""
    asked = {
        RULES[rule]: size,
        "fidelity": f"{fidelity:g}",
        "max-side": most,
        "samples": str(samples),
        "seed": seed,
        "sampler": sampler,
        "steps": steps,
        "guidance": guidance,
        "negative": negative,
        "format": form,
    }
    usual = {"scale": f"{model.scale:g}", "fidelity": f"{model.fidelity:g}", "samples": "1", "seed": "0"}
    usual |= {"sampler": AS_TRAINED, "format": "png"}
    given = {name: value.strip() for name, value in asked.items()}
    return {name: value for name, value in given.items() if value and value != usual.get(name)}

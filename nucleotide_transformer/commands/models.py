"""The commands that use a trained model as it is: `nt export`, `embed`, `fill-mask`."""

from nucleotide_transformer.console import PlainConsole, say
from nucleotide_transformer.files import check_place
from nucleotide_transformer.inference import likelihoods
from nucleotide_transformer.inference.embedding_files import EmbedConfig, check_files, embed_file
from nucleotide_transformer.inference.likelihoods import FillMaskConfig
from nucleotide_transformer.pretrained import ExportConfig, export_model, load_pretrained
from nucleotide_transformer.training.devices import find_devices


def export(config: ExportConfig) -> int:
    """`nt export`."""
    check_place(config.folder)
    find_devices(None)
    fields = {name: value for name, value in vars(config).items() if name != "source"}
    export_model(config.source, **fields)
    say(f"wrote {config.folder} in the {config.layout} layout")
    return 0


def embed(config: EmbedConfig) -> int:
    """`nt embed`."""
    totals = check_files(config)  # before the model: a typo should not cost a download
    find_devices(None)
    model = load_pretrained(config.model, compute=config.compute)
    written = embed_file(model, config, totals=totals, progress=True)
    say(f"wrote {written}")
    return 0


def fill_mask(config: FillMaskConfig) -> int:
    """`nt fill-mask`."""
    find_devices(None)
    model = load_pretrained(config.model, compute=config.compute)
    masks = likelihoods.fill_mask(model, config.sequence, top_k=config.top_k)
    console = PlainConsole()
    for number, tokens in enumerate(masks, start=1):
        console.print(f"<mask> {number}")
        for token, probability in tokens:
            console.print(f"  {token:10} {probability:.4f}")
    return 0

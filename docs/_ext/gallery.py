"""Runs the examples and stores their pictures, small enough to commit: `make gallery`.

    python docs/_ext/gallery.py [NAME ...]

Without names, all examples run, which takes about half an hour on 2 cores.
"""

import runpy
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "docs" / "gallery"
WIDTH = 900  # pixels
# The pictures of each example that the gallery shows, without the suffix.
PICTURES = {
    "two_moons": ["two_moons"],
    "tabular": ["picture"],
    "conditional": ["conditional"],
    "photometric_redshifts": ["photometric_redshifts"],
    "simulation_based_inference": ["epidemic_posterior", "epidemic_prediction", "epidemic_calibration"],
    "variational_inference": ["variational_inference"],
    "neutra_hmc": ["neutra_hmc"],
    "images": ["images"],
}


def store(picture: Path, name: str) -> None:
    """Stores a picture with at most 256 colours and `WIDTH` pixels of width."""
    image = Image.open(picture).convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    image.quantize(256, dither=Image.Dither.NONE).save(GALLERY / f"{name}.png", optimize=True)


def run(example: str) -> None:
    """Runs an example with its default options."""
    out = ROOT / "demo" / "gallery" / example
    subprocess.run([sys.executable, ROOT / "examples" / f"{example}.py", "--out", out], check=True)
    for name in PICTURES[example]:
        store(out / f"{name}.png", example if name == "picture" else name)


def draw_quick_start() -> None:
    """Draws data and density of the first Python code of the README."""
    from matplotlib import pyplot as plt

    import tfp_realnvp as nvp

    code = ROOT / "demo" / "gallery" / "quick_start.py"
    code.parent.mkdir(parents=True, exist_ok=True)
    printed = subprocess.run([sys.executable, ROOT / "tests" / "quick_start.py"], capture_output=True, check=True)
    code.write_bytes(printed.stdout)
    found = runpy.run_path(str(code))
    plt.rcParams.update(nvp.plots.STYLE)
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(10.5, 3.4), layout="constrained", sharex=True, sharey=True
    )
    samples = found["flow"].sample(len(found["x"]), seed=0).numpy()
    for ax, rows, colour, title in (
        (left, found["x"], nvp.plots.DATA, "data"),
        (right, samples, nvp.plots.MODEL, "samples of the flow"),
    ):
        ax.scatter(*rows.T, s=2, linewidths=0, color=colour)
        ax.set(title=title, aspect="equal")
    nvp.plots.density(found["flow"], levels=(), num_points=400, ax=middle)
    middle.set(title="density of the flow", aspect="equal")
    figure.savefig(code.with_suffix(".png"))
    store(code.with_suffix(".png"), "quick_start")


if __name__ == "__main__":
    GALLERY.mkdir(exist_ok=True)
    for name in sys.argv[1:] or ["quick_start", *PICTURES]:
        print(f"{name} ...", flush=True)
        draw_quick_start() if name == "quick_start" else run(name)

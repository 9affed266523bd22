"""Writes `llms.txt`, a list of all pages for language models, beside the site."""

from pathlib import Path
from typing import Any

SUMMARY = "Real NVP normalizing flows for TensorFlow Probability and Keras 3."
FOLDERS = {
    "tutorials": "Tutorials",
    "how-to": "How-to guides",
    "explanations": "Explanations",
    "migration": "Migration",
    "api": "API",
    ".": "More",
}


def _write(app: Any, exception: Exception | None) -> None:
    if exception or app.builder.name != "html":
        return
    lines = [f"# {app.config.project}", "", f"> {SUMMARY}"]
    pages = sorted(app.env.found_docs)
    for folder, title in FOLDERS.items():
        lines += ["", f"## {title}", ""]
        for page in pages:
            if str(Path(page).parent) == folder and page not in ("index", f"{folder}/index"):
                lines.append(f"- [{app.env.titles[page].astext()}]({page}.html)")
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True}

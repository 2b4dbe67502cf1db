"""What the tests share: a small random model, random models of several architectures, and where real data is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

# The models of the tests are too small to share out: more threads only wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"

SENTENCES = [
    "The old farmer carried a basket of maize to the market before sunrise.",
    "Mkulima mzee alibeba kikapu cha mahindi kwenda sokoni kabla ya jua kuchomoza.",
    "Why did the teacher close the window? Because the rain was coming in.",
    "P: Q: A: B: C: D: Answer: A B C D",
    "El perro duerme en la cocina, y la niña lee un libro.",
]


@pytest.fixture(autouse=True)
def own_service_of_wandb() -> Iterator[None]:
    """Commands that a later test starts must not look for the W&B process of this one, which may be gone by then."""
    yield
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real benchmarks in the hub's layout, where this checkout has them beside it."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return folder


@pytest.fixture(scope="session")
def real_models() -> Path:
    """Two small pretrained models, where the environment variable REAL_MODELS names their folder."""
    folder = os.environ.get("REAL_MODELS")
    if folder is None or not (Path(folder) / "gemma3-270m").is_dir():
        pytest.skip("REAL_MODELS names no folder of real models; tests/real_models/make.py writes one")
    return Path(folder).resolve()


def tokenizer(vocabulary: int = 400) -> Any:
    """A byte-level BPE tokenizer that adds BOS, as Llama's does, and has no pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def random_model(architecture: str = "llama", **changes: Any) -> Any:
    """A random causal LM of four narrow layers whose activations are far from zero."""
    import transformers as t

    shape: dict[str, Any] = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    configs: dict[str, tuple[Any, dict[str, Any]]] = {
        "llama": (t.LlamaConfig, {}),
        "mistral": (t.MistralConfig, {"sliding_window": None}),
        "mistral-sliding": (t.MistralConfig, {"sliding_window": 16}),
        "gemma2": (t.Gemma2Config, {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}),
        "gemma3": (
            t.Gemma3TextConfig,
            {
                "head_dim": 8,
                "sliding_window": 16,
                "query_pre_attn_scalar": 8,
                "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            },
        ),
        "qwen2": (t.Qwen2Config, {}),
        "qwen2-sliding": (
            t.Qwen2Config,
            {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
        ),
        "phi3-sliding": (t.Phi3Config, {"sliding_window": 16, "pad_token_id": 0}),
        "phi3-longrope": (
            t.Phi3Config,
            {
                "pad_token_id": 0,
                "original_max_position_embeddings": 30,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "original_max_position_embeddings": 30,
                    "short_factor": [1.0, 1.1, 1.2, 1.3],
                    "long_factor": [1.0, 2.0, 3.0, 4.0],
                },
            },
        ),
        "cohere2": (t.Cohere2Config, {"sliding_window": 16, "logit_scale": 0.5}),
        "cohere": (t.CohereConfig, {"logit_scale": 0.5}),
        "llama4": (
            t.Llama4TextConfig,
            {
                "head_dim": 8,
                "num_local_experts": 2,
                "intermediate_size_mlp": 64,
                "attention_chunk_size": 16,
                "layer_types": ["chunked_attention", "full_attention", "chunked_attention", "full_attention"],
            },
        ),
        "opt": (
            t.OPTConfig,
            {"ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 0, "init_std": 0.3},
        ),
        "bloom": (
            t.BloomConfig,
            {"n_layer": 4, "n_head": 4, "vocab_size": 400, "hidden_size": 32, "initializer_range": 0.3},
        ),
    }
    if architecture == "gemma3-vision":  # its tower for images is as deep as its language model
        tower = dict.fromkeys(("hidden_size", "intermediate_size"), 32)
        tower |= {"num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
        text = {**shape, **configs["gemma3"][1], "vocab_size": 410}
        whole = t.Gemma3Config(text_config=text, vision_config=tower, image_token_id=405, mm_tokens_per_image=4)
        torch.manual_seed(0)
        return t.AutoModelForCausalLM.from_config(whole, attn_implementation="sdpa").eval()
    kind, own = configs[architecture]
    config = kind(**{**({} if architecture == "bloom" else shape), **own, **changes})
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager" if architecture in ("gemma2", "bloom") else "sdpa"
    )
    return model.eval()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with its tokenizer, as a folder that `model.path` takes."""
    folder = tmp_path_factory.mktemp("model")
    random_model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


Rows = list[dict[str, Any]]


def write_hub(folder: Path, dataset: str, configs: dict[str, dict[str, Rows]]) -> Path:
    """A data set in the hub's layout: config -> split -> rows; returns its folder."""
    base = folder / dataset
    card = ["---", "configs:"]
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = base / config / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            card += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
    (base / "README.md").write_text("\n".join([*card, "---", ""]))
    return base


def belebele_rows(language: str, count: int = 8) -> Rows:
    """Well-formed Belebele rows."""
    return [
        {
            "link": f"passage-{index // 2}",
            "question_number": index % 2 + 1,
            "flores_passage": f"{language}: passage number {index // 2}.",
            "question": f"{language}: question {index}?",
            **{f"mc_answer{k}": f"{language} answer {index} {k}" for k in (1, 2, 3, 4)},
            "correct_answer_num": str(index % 4 + 1),
            "dialect": language,
            "ds": "2023-05-03",
        }
        for index in range(count)
    ]


def random_job(model_folder: Path, data: Path, *overrides: str) -> list[str]:
    """Overrides for a job of the random model on some data, with two examples."""
    model = ["model=custom", "model.name=random", f"model.path={model_folder}", "model.dtype=float32"]
    return [*model, f"data={data}", "task.num_fewshot=2", *overrides]


def compose(*overrides: str) -> Any:
    """The typed config of a command line."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from align_pipeline.config import from_hydra, register
    from align_pipeline.config.paths import CONF

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return from_hydra(hydra_compose("config", overrides=list(overrides)), overrides, multirun=False)


def compose_tuning(*overrides: str) -> Any:
    """The typed config of a command line of `align_pipeline.tune`."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from align_pipeline.config import register, tuning_from_hydra
    from align_pipeline.config.paths import CONF

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return tuning_from_hydra(hydra_compose("tuning", overrides=list(overrides)))


def _sets(default: str, overrides: Sequence[str]) -> bool:
    return any(override.startswith(default.split("=")[0] + "=") for override in overrides)


def run_job(folder: Path, *overrides: str) -> Any:
    """Run a job in this process, W&B off unless asked for; returns its summary's content."""
    from align_pipeline.pipeline import run

    folder.mkdir(parents=True, exist_ok=True)
    given = [default for default in ("wandb.mode=disabled", "cache=null") if not _sets(default, overrides)]
    given += overrides
    summary = run(compose(*given), folder, {"overrides": list(overrides)})
    assert summary is not None
    return summary.content

"""The recipe: ``python -m align_pipeline.embedded.train`` rebuilds the embedded data, tokenizer and checkpoint.

Config: ``conf/embedded.yaml``; any key can be given as ``key=value``, such as ``training.tokens=1000000``. Takes about
three quarters of an hour on two CPU cores; a GPU is used if there is one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from align_pipeline.embedded import benchmark
from align_pipeline.embedded.corpus import Author, CorpusConfig

HERE = Path(__file__).parent
CONFIGS = (HERE.parents[1] / "conf" / "embedded.yaml", HERE.parent / "conf" / "embedded.yaml")
BOS, EOS = "<s>", "</s>"
# Words keep their punctuation: the last token of a sentence then says something, as it does in SentencePiece models
# with large vocabularies. White space stands before a word, so prompts and continuations part at token boundaries.
WORDS = r" ?\S+|\s+"


def settings(overrides: list[str]) -> dict[str, Any]:
    """The recipe's config with command-line overrides."""
    path = next(path for path in CONFIGS if path.is_file())
    merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(overrides))
    return dict(OmegaConf.to_container(merged, resolve=True))  # type: ignore[arg-type]


def build_tokenizer(corpus: CorpusConfig, seed: int, vocabulary: int, documents: int) -> Any:
    """A byte-level BPE tokenizer that adds BOS, trained on the beginning of the training text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    written = Author(corpus, seed).documents()
    bpe.train_from_iterator((next(written)[1] for _ in range(documents)), trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BOS, eos_token=EOS)


def sequences(corpus: CorpusConfig, seed: int, tokenizer: Any, length: int) -> Iterator[torch.Tensor]:
    """Training sequences of `length` tokens: documents after one another, each after its BOS."""
    written = Author(corpus, seed).documents()
    rest: list[int] = []
    while True:
        for tokens in tokenizer([next(written)[1] for _ in range(500)])["input_ids"]:
            rest += tokens
        while len(rest) >= length:
            yield torch.tensor(rest[:length])
            rest = rest[length:]


def build_model(shape: dict[str, Any], vocabulary: int) -> Any:
    """An untrained Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "default", "rope_theta": shape["rope_theta"]}
    rest = {key: value for key, value in shape.items() if key != "rope_theta"}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, bos_token_id=0, eos_token_id=1, rope_parameters=rope, **rest)
    )


def train(config: dict[str, Any], model: Any, tokenizer: Any) -> dict[str, float]:
    """Next-token prediction over the corpus; AdamW, a linear warm-up and a cosine down to a tenth."""
    from accelerate import Accelerator
    from transformers import get_cosine_with_min_lr_schedule_with_warmup

    options = config["training"]
    accelerator = Accelerator()
    steps = options["tokens"] // (options["length"] * options["batch"])
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": options["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
        lr=options["learning_rate"],
        betas=(0.9, 0.98),
    )
    schedule = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, int(steps * options["warmup"]), steps, min_lr_rate=0.1
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    corpus = sequences(CorpusConfig(**config["corpus"]), config["seed"], tokenizer, options["length"])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    loss_mean, started = 0.0, time.monotonic()
    model.train()
    with Progress(*columns, refresh_per_second=1) as progress:
        bar = progress.add_task("training", total=steps)
        for step in range(steps):
            batch = torch.stack([next(corpus) for _ in range(options["batch"])]).to(accelerator.device)
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss_mean += (loss.item() - loss_mean) * (0.02 if step else 1.0)
            progress.update(bar, advance=1, description=f"training, loss {loss_mean:.3f}")
            if not sys.stdout.isatty() and step % 50 == 0:
                print(f"step {step}/{steps} loss {loss_mean:.3f} {time.monotonic() - started:.0f}s", flush=True)
    accelerator.unwrap_model(model).eval()
    return {"loss": loss_mean, "tokens": steps * options["length"] * options["batch"]}


def save(folder: Path, model: Any, tokenizer: Any) -> None:
    """The checkpoint in half precision, with its tokenizer."""
    model.to("cpu", torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: list[str]) -> None:
    """Rebuild everything."""
    config = settings(arguments)
    out = Path(config.get("out") or HERE)
    torch.set_num_threads(config["training"]["threads"])
    torch.manual_seed(config["seed"])
    started = time.monotonic()
    benchmark.write(out / "data")
    corpus = CorpusConfig(**config["corpus"])
    tokenizer = build_tokenizer(corpus, config["seed"], **config["tokenizer"])
    model = build_model(config["model"], len(tokenizer))
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary")
    found = train(config, model, tokenizer)
    save(out / "tiny", model, tokenizer)
    print(found, f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])

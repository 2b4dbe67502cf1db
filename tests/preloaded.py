"""What a job imports, sooner or later: imported once by the server of `processes`, which forks the jobs."""

import accelerate
import datasets
import datasets.packaged_modules.json.json
import hydra
import matplotlib.pyplot
import scipy.stats
import threadpoolctl
import transformers
import transformers.generation
import transformers.models.auto.modeling_auto
import transformers.models.auto.tokenization_auto
import transformers.models.llama.modeling_llama
import transformers.tokenization_utils_tokenizers

import align_pipeline.pipeline
import align_pipeline.report.report

__all__ = ["accelerate", "align_pipeline", "datasets", "hydra", "matplotlib", "scipy", "threadpoolctl", "transformers"]

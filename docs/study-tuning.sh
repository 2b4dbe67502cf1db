#!/usr/bin/env bash
# The study of docs/study-tuning.md: two alignment trainings and their placebos, two seeds each. Started again, it goes on
# where it stopped: trainings have checkpoints, and the cache has what was evaluated.
#
#   MODELS   folder with gemma3-270m, as `make real-models` writes it; without it, the hub
#   DATA     a folder laid out like the hub; without it, the hub
#   STUDY    where everything goes (default outputs/studies/gemma3-270m-tuning)
#
# Arguments: overrides of the trainings.
set -euo pipefail
study=${STUDY:-outputs/studies/gemma3-270m-tuning}
data=(data="${DATA:-hub}") gemma=(model=gemma3-270m model.dtype=float32)
if [ -n "${MODELS:-}" ]; then gemma+=(model.path="$MODELS/gemma3-270m"); fi
task=(task=xstorycloze task.num_fewshot=0 task.limit=250 lang='[ind,swh]')
python=("${PYTHON:-python}" -m)

few=(tune.micro_batch=16 tune.accumulation=2 tune.pairs.split=devtest)

evaluate() { # <part>: all trainings of a part, and a report of them beside the base model
  local tuned=("$study/$1"/*seed*)
  "${python[@]}" align_pipeline.run -m model=tuned model.tuned="$(IFS=,; echo "${tuned[*]}")" "${data[@]}" "${task[@]}" \
    hydra.sweep.dir="$study/$1-evaluated"
  "${python[@]}" align_pipeline.report out="$study/$1-report" runs="$study/base" runs="$study/$1-evaluated"
}

"${python[@]}" align_pipeline.run -m "${gemma[@]}" "${data[@]}" "${task[@]}" hydra.sweep.dir="$study/base"

"${python[@]}" align_pipeline.tune -m tune=centred_task,shuffled_centred_task seed=0,1 "${gemma[@]}" "${data[@]}" "${task[@]}" \
  "${few[@]}" tune.steps=80 tune.scheduler=linear tune.evaluate_every=40 tune.save_every=20 \
  hydra.sweep.dir="$study/centred" "$@"
evaluate centred

"${python[@]}" align_pipeline.tune -m tune=midalign_task,shuffled_task seed=0,1 "${gemma[@]}" "${data[@]}" "${task[@]}" \
  "${few[@]}" tune.steps=40 tune.evaluate_every=20 tune.save_every=10 hydra.sweep.dir="$study/midalign" "$@"
evaluate midalign

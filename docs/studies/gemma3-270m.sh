#!/usr/bin/env bash
# The study of docs/studies/gemma3-270m.md. Started again, it goes on where it stopped: the cache has what is done.
#
#   MODELS   folder with gemma3-270m and smollm2-135m-instruct, as `make real-models` writes it; without it, the hub
#   DATA     a folder laid out like the hub; without it, the hub
#   STUDY    where everything goes (default outputs/studies/gemma3-270m)
#
# Arguments: `quick` for few languages and items, then overrides for all runs.
set -euo pipefail
study=${STUDY:-outputs/studies/gemma3-270m}
every=(data="${DATA:-hub}")
gemma=() smollm=()
if [ -n "${MODELS:-}" ]; then
  gemma=(model.path="$MODELS/gemma3-270m") smollm=(model.path="$MODELS/smollm2-135m-instruct")
fi
choices=study_gemma3_270m_xcopa,study_gemma3_270m_xstorycloze
few=() fewest=() layers=() two=()
if [ "${1:-}" = quick ]; then
  shift
  study=${STUDY:-outputs/studies/gemma3-270m-quick}
  two=('lang=[ind,swh]') few=(task.limit=24) fewest=(task.limit=10) layers=('patch.layers=[4,10]')
fi
run() { "${PYTHON:-python}" -m align_pipeline.run -m "$@" "${every[@]}" "${overrides[@]}"; }
overrides=("$@")

run experiment=$choices task.num_fewshot=0 "${gemma[@]}" "${two[@]}" "${few[@]}" hydra.sweep.dir="$study/zero-shot"
run experiment=study_gemma3_270m_patching "${gemma[@]}" "${two[@]}" "${few[@]}" "${layers[@]}" \
  hydra.sweep.dir="$study/patching"
run experiment=study_gemma3_270m_flores "${gemma[@]}" "${two[@]}" "${fewest[@]}" hydra.sweep.dir="$study/flores"
run experiment=study_smollm2_135m "${smollm[@]}" "${two[@]}" "${few[@]}" hydra.sweep.dir="$study/smollm2"
run experiment=study_smollm2_135m model.name=smollm2-135m-chat model.chat_template=true \
  "${smollm[@]}" "${two[@]}" "${few[@]}" hydra.sweep.dir="$study/smollm2-chat"
run experiment=study_gemma3_270m_belebele "${gemma[@]}" "${two[@]}" "${few[@]}" hydra.sweep.dir="$study/belebele"
"${PYTHON:-python}" -m align_pipeline.report out="$study/report" runs="$study/zero-shot" runs="$study/patching" \
  runs="$study/flores" runs="$study/smollm2" runs="$study/belebele"

run experiment=$choices task.num_fewshot=5 task.limit=100 "${gemma[@]}" "${two[@]}" "${few[@]}" hydra.sweep.dir="$study/five-shot"

"""`hydra/launcher=slurm`: the launcher of hydra-submitit-launcher, which waits for every job whatever became of it.

The original waits for results that a killed job never writes, raises at the first job that failed, and forgets the
others. Hydra looks for launchers in this package alone, and imports it before every command.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf, open_dict

from align_pipeline import distributed
from align_pipeline.errors import InputError
from align_pipeline.sweep import jobs as sweep
from align_pipeline.sweep import slurm

log = logging.getLogger(__name__)

SUBMITTED = ".hydra/slurm.json"
"""In a job's folder: its number in SLURM."""


if find_spec("hydra_plugins.hydra_submitit_launcher") is not None:  # the extra `slurm`
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Original

    class SlurmLauncher(Original):  # type: ignore[misc]
        """A sweep's jobs as an array of SLURM jobs."""

        def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
            """What a job's process does."""
            if slurm.set_process_group() == 0:
                return self._job(*args, **kwargs)
            with tempfile.TemporaryDirectory() as scratch:  # what Hydra writes is the main process's to write
                own = [f"hydra.sweep.dir={scratch}", "hydra.output_subdir=null", "hydra/job_logging=none"]
                with open_dict(self.config):
                    self.config.hydra.overrides.hydra.extend(own)
                return self._job(*args, **kwargs)

        def _job(self, *args: Any, **kwargs: Any) -> JobReturn:
            with distributed.leaving_at_exit():
                done: JobReturn = super().__call__(*args, **kwargs)
            return done

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Submit what the sweep's folder has no result of, and wait until all of it is over.

            Raises:
                InputError: SLURM is not there, or does not take the jobs.
            """
            planned = [self._plan(initial_job_idx + k, list(line)) for k, line in enumerate(job_overrides)]
            missing = [job for job in planned if not job.is_finished()]
            if len(missing) < len(planned):
                log.info("%d of %d jobs are finished and do not run again.", len(planned) - len(missing), len(planned))
            if missing:
                self._run(missing)
            return [job.outcome() for job in planned]

        def _plan(self, number: int, overrides: list[str]) -> sweep.Planned:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
            with open_dict(config):
                config.hydra.job.num = number
                folder = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
                del config["hydra"]
            return sweep.Planned(
                number, overrides, folder, OmegaConf.to_container(config, resolve=True, enum_to_str=True)
            )

        def _run(self, missing: Sequence[sweep.Planned]) -> None:
            waiting = self._still_running(missing)
            if waiting:
                log.info("Already in the queue: %s", ", ".join(waiting))
            there = [job.folder for job, _ in waiting.values()]
            new = [job for job in missing if job.folder not in there]
            for job in new:
                sweep.refuse_others(job)
            for job in new:
                sweep.begin(job)
            if new:
                submitted = self._submit(new)
                log.info("Submitted %d jobs: %s", len(submitted), ", ".join(submitted))
                waiting |= submitted
            try:
                for number in slurm.as_over(list(waiting)):
                    job, errors = waiting[number]
                    if not sweep.has_ended(job.folder):
                        sweep.note_reason(slurm.how_it_ended(number, errors), job.folder)
                    log.info("Job %s has ended: %s", job.folder.name, sweep.noted_ending(job.folder) or "done")
            except KeyboardInterrupt:
                slurm.cancel(list(waiting))
                for job, _ in waiting.values():
                    if not sweep.has_ended(job.folder):
                        sweep.note_reason("the sweep was stopped", job.folder)
                raise

        def _still_running(self, missing: Sequence[sweep.Planned]) -> dict[str, tuple[sweep.Planned, Path]]:
            """Jobs of an earlier command, which lost its connection say, that the queue still has; as `_submit`."""
            queued = slurm.queue() or set()
            found = {}
            for job in missing:
                note = job.folder / SUBMITTED
                if note.exists():
                    told = json.loads(note.read_text(encoding="utf-8"))
                    if told["job"] in queued and told["overrides"] == job.overrides:
                        found[told["job"]] = (job, Path(told["errors"]))
            return found

        def _submit(self, missing: Sequence[sweep.Planned]) -> dict[str, tuple[sweep.Planned, Path]]:
            """The jobs and their error streams, by SLURM's number."""
            import submitit

            if shutil.which("sbatch") is None or shutil.which("srun") is None:
                raise InputError("hydra/launcher=slurm needs SLURM's sbatch, which this machine does not have.")
            common = {field.name for field in fields(BaseQueueConf)}
            asked = {key if key in common else f"slurm_{key}": value for key, value in self.params.items()}
            folder = asked.pop("submitit_folder")
            retries = asked.pop("slurm_max_num_timeout")
            executor = submitit.AutoExecutor(
                folder, cluster="slurm", slurm_max_num_timeout=retries, slurm_python=slurm.PYTHON
            )
            columns = [(job.overrides, "hydra.sweep.dir", job.number, "", Singleton.get_state()) for job in missing]
            try:
                # A task that dies ends the others, which would wait for it.
                executor.update_parameters(**asked, slurm_srun_args=["--kill-on-bad-exit=1"])
                jobs = executor.map_array(self, *zip(*columns, strict=True))
            except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
                raise InputError(f"SLURM refuses the jobs: {' '.join(str(error).split())}") from error
            submitted = {}
            for job, plan in zip(jobs, missing, strict=True):
                errors = Path(job.task(0).paths.stderr)
                told = {"job": job.job_id, "errors": str(errors), "overrides": plan.overrides}
                (plan.folder / SUBMITTED).write_text(json.dumps(told) + "\n", encoding="utf-8")
                submitted[job.job_id] = (plan, errors)
            return submitted

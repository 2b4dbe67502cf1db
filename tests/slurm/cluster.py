"""A SLURM cluster of this one machine, with everything it owns in one folder: for tests, as root or not.

    python tests/slurm/cluster.py start <folder>    prints the environment variables that its commands need
    python tests/slurm/cluster.py stop <folder>

It has two partitions on its one node: `main`, and `urgent`, whose jobs preempt those of `main`.
"""

from __future__ import annotations

import getpass
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
PATH = f"{Path(__file__).parent}:{os.environ['PATH']}:/usr/sbin"
"""Where its commands are: this folder's sacct, and daemons that are not on every user's path."""
CPUS, GIGABYTES, GPUS = 16, 16, 2
"""What the node says it has; more than the machine may have, so that a sweep's jobs start at once."""
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until its former credentials have expired: by default two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# submitit reads a former sweep's results where job numbers begin anew.
FirstJobId={first_job}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=2
EnforcePartLimits=ALL
KillWait=3
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 Gres=gpu:{gpus} CPUs={cpus} RealMemory={megabytes}
PartitionName=main Nodes={host} Default=YES PriorityTier=1 GraceTime=15
PartitionName=urgent Nodes={host} PriorityTier=2 PreemptMode=OFF
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs.

    Attributes:
        folder: its configuration, state, logs and pid files.
    """

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment, with what makes SLURM's commands speak to this cluster."""
        return {
            **os.environ,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "SLURM_JOBCOMP": str(self.folder / "jobcomp.txt"),
            "PATH": PATH,
        }

    def command(self, *arguments: str) -> str:
        """What a command prints.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        return subprocess.run(
            arguments, env=self.environment, check=True, text=True, stdout=subprocess.PIPE
        ).stdout.strip()

    def stop(self) -> None:
        """End its daemons, and with them its jobs."""
        subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=self.environment, check=False)
        for name in ("slurmd", "slurmctld", "munged"):
            path = self.folder / f"{name}.pid"
            if path.exists():
                _end(int(path.read_text()))


def start(folder: Path) -> Cluster:
    """Start a cluster.

    Args:
        folder: is made; its path must be short (a socket's path has at most 107 characters).

    Raises:
        RuntimeError: a daemon did not come up; the end of its log is in the message.
    """
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "jobcomp.txt").touch()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    controller_port, node_port = _free_ports(2)
    text = CONFIG.format(
        host=socket.gethostname().split(".")[0],
        user=getpass.getuser(),
        folder=folder,
        controller_port=controller_port,
        node_port=node_port,
        first_job=random.randrange(10_000, 60_000) * 100,
        cpus=CPUS,
        gpus=GPUS,
        megabytes=GIGABYTES * 1024,
    )
    (folder / "slurm.conf").write_text(text)
    for number in range(GPUS):  # any file will do for SLURM to give it to one job at a time
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    cluster = Cluster(folder)
    daemons = {
        "munged": [
            *("munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"),
            *(
                f"--pid-file={folder}/munged.pid",
                f"--log-file={folder}/munged.log",
                f"--seed-file={folder}/munged.seed",
            ),
        ],
        "slurmctld": ["slurmctld", "-c"],
        "slurmd": ["slurmd", "-c"],
    }
    try:
        for name, command in daemons.items():
            done = subprocess.run(
                command, env=cluster.environment, check=False, text=True, capture_output=True, cwd=folder
            )
            if done.returncode:
                raise RuntimeError(f"{name} did not start: {done.stderr}{_log(folder, name)}")
        _wait_until_idle(cluster)
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _wait_until_idle(cluster: Cluster, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], env=cluster.environment, check=False, text=True, capture_output=True
        )
        if set(asked.stdout.split()) == {"idle"}:
            return
        time.sleep(0.2)
    logs = "\n".join(_log(cluster.folder, name) for name in ("slurmctld", "slurmd"))
    raise RuntimeError(f"The node is not ready after {seconds:.0f} s ({asked.stdout}{asked.stderr}): {logs}")


def _log(folder: Path, name: str) -> str:
    path = folder / f"{name}.log"
    return f"{path}: {path.read_text()[-3000:]}" if path.exists() else ""


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _end(pid: int, seconds: float = 10) -> None:
    """End a process, by force if it does not go."""
    end = time.monotonic() + seconds
    number = signal.SIGTERM
    try:
        while True:
            os.kill(pid, number)
            for _ in range(10):
                time.sleep(0.1)
                os.kill(pid, 0)
            if time.monotonic() > end:
                number = signal.SIGKILL
    except ProcessLookupError:
        return


def main() -> None:
    """The command line."""
    verb, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    if verb == "start":
        own = start(folder).environment
        for name in ("SLURM_CONF", "SLURM_JOBCOMP", "PATH"):
            print(f"export {name}={own[name]}")
    else:
        Cluster(folder).stop()


if __name__ == "__main__":
    main()

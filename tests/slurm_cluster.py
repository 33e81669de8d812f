"""A real SLURM cluster on this one machine, for tests: munge, MariaDB, slurmdbd, slurmctld and several slurmd.

Needs root and Debian's packages munge, slurm-wlm, slurm-wlm-basic-plugins, slurmdbd and mariadb-server. Every node is a
slurmd with a port and a name of its own; they share host, files and processes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from filelock import FileLock

COMMANDS = ("munged", "slurmctld", "slurmd", "slurmdbd", "sbatch", "sacct", "mariadbd", "mariadb-install-db")

_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={run}/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
SwitchType=switch/none
PlugStackConfig={run}/plugstack.conf
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd-%n.pid
SlurmctldLogFile={run}/slurmctld.log
SlurmdLogFile={run}/slurmd-%n.log
StateSaveLocation={run}/state
SlurmdSpoolDir={run}/spool/%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
MaxArraySize={array_size}
EnforcePartLimits=ALL
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MinJobAge=600
SlurmdTimeout=10
MessageTimeout=10
ReturnToService=2
{accounting}
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{node_port}-{last_port}] CPUs={cpus} RealMemory=8000
PartitionName=main Nodes=n[1-{nodes}] Default=YES PriorityTier=10 PreemptMode=OFF MaxTime=2-0 State=UP
PartitionName=low Nodes=n[1-{nodes}] PriorityTier=1 PreemptMode=REQUEUE MaxTime=2-0 State=UP
PartitionName=high Nodes=n[1-{nodes}] PriorityTier=100 PreemptMode=OFF MaxTime=2-0 State=UP
"""

_ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={run}/munge.socket
AccountingStorageEnforce=associations
"""

_DBD = """
AuthType=auth/munge
AuthInfo=socket={run}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
PidFile={run}/slurmdbd.pid
LogFile={run}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""


class Cluster:
    """Nodes n1 to nN in partitions main, low (which the others preempt) and high; the account is `tests`.

    While entered it runs, and SLURM_CONF of this process names it. Its folder is not pytest's, which is closed to the
    users that daemons run as.
    """

    def __init__(self, nodes: int = 3, cpus: int = 2, array_size: int = 200, accounting: bool = True):
        folder = self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.accounting = accounting
        ports = _free_ports(3 + nodes)
        host = socket.gethostname()
        values = {"run": folder, "host": host, "port": ports[0], "nodes": nodes, "cpus": cpus, "array_size": array_size}
        values |= {"node_port": ports[3], "last_port": ports[3] + nodes - 1}
        values["accounting"] = "AccountingStorageType=accounting_storage/none"
        if accounting:
            values["accounting"] = _ACCOUNTING.format(run=folder, port=ports[1])
        for name in ("state", "spool", *(f"spool/{node}" for node in self.nodes)):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        self.conf = folder / "slurm.conf"
        self.conf.write_text(_CONF.format(**values))
        (folder / "plugstack.conf").touch()
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        _private(folder / "munge.key", os.urandom(1024))
        _private(
            folder / "slurmdbd.conf",
            _DBD.format(run=folder, host=host, port=ports[1], sql_port=ports[2]).encode(),
        )
        self._sql_port = ports[2]
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}

    def __enter__(self) -> Cluster:
        self._before = os.environ.get("SLURM_CONF")
        try:
            with FileLock(Path(tempfile.gettempdir()) / "iql-tests-slurm.lock"):  # one at a time comes up
                self._start()
        except BaseException:
            self._stop()
            raise
        os.environ["SLURM_CONF"] = str(self.conf)
        return self

    def __exit__(self, *exception) -> None:
        if self._before is None:
            os.environ.pop("SLURM_CONF")
        else:
            os.environ["SLURM_CONF"] = self._before
        self._stop()

    def _start(self) -> None:
        """Start everything, and wait until every node takes jobs."""
        run = self.folder
        self._daemon(
            *("munged", f"--key-file={run}/munge.key", f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid"),
            *(f"--log-file={run}/munged.log", f"--seed-file={run}/munged.seed"),
        )
        self._until(lambda: self.ask("munge", "-n", "-S", f"{run}/munge.socket"), "munge")
        if self.accounting:
            self._start_accounting()
        self._daemon("slurmctld")
        self._until(lambda: "is UP" in self.ask("scontrol", "ping"), "slurmctld")
        for node in self.nodes:
            self.start_node(node)
        idle = len(self.nodes)
        self._until(lambda: self.ask("sinfo", "-hN", "-p", "main", "-o%T").split() == ["idle"] * idle, "slurmd")

    def _stop(self) -> None:
        """End every process of it; whatever is still running is killed."""
        self.ask("scancel", "--full", "--user=root")
        for daemon in self._daemons():
            daemon.terminate()
        _, left = psutil.wait_procs(self._daemons(), timeout=5)
        for process in left:
            process.kill()
        for process in self._processes(""):
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, *command: str) -> str:
        """What a SLURM command prints; "" if it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() if done.returncode == 0 else ""

    def start_node(self, node: str) -> None:
        self._daemon("slurmd", "-N", node)

    def kill_node(self, node: str, jobs: bool = True) -> None:
        """Power loss: its slurmd and, unless only that died, all that it started go at once."""
        doomed = [psutil.Process(int((self.folder / f"slurmd-{node}.pid").read_text()))]
        if jobs:
            steps = [process for process in psutil.process_iter() if self._is_step(process, node)]
            doomed += [each for step in steps for each in (step, *step.children(recursive=True))]
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _is_step(self, process: psutil.Process, node: str) -> bool:
        """Whether this is a slurmstepd of the node: it writes into the log of the node's slurmd."""
        try:
            log = str(self.folder / f"slurmd-{node}.log")
            return process.name() == "slurmstepd" and any(file.path == log for file in process.open_files())
        except psutil.Error:
            return False

    def jobs_of(self, node: str) -> list[psutil.Process]:
        """The processes of jobs on a node."""
        return self._processes(f"SLURMD_NODENAME={node}")

    def _daemon(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "ab") as out:
            subprocess.run(command, env=self.environment, stdout=out, stderr=out, check=True, timeout=60)

    def _start_accounting(self) -> None:
        run, database = self.folder, self.folder / "mysql"
        sockets = run / "sql"
        for folder in (database, sockets):
            folder.mkdir()
            shutil.chown(folder, "mysql", "mysql")
        with open(run / "mariadb.out", "ab") as out:
            install = ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={database}", "--skip-test-db"]
            install += ["--auth-root-authentication-method=normal"]
            done = subprocess.run(install, stdout=out, stderr=out, timeout=120)
            if done.returncode:
                raise RuntimeError(f"mariadb-install-db failed:\n{(run / 'mariadb.out').read_text()}")
            server = ["mariadbd", "--no-defaults", "--user=mysql", f"--datadir={database}", f"--port={self._sql_port}"]
            server += ["--bind-address=127.0.0.1", f"--socket={sockets}/socket", f"--pid-file={sockets}/pid"]
            server += ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", "--skip-name-resolve"]
            subprocess.Popen(server, stdout=out, stderr=out, start_new_session=True)
        client = ["mariadb", "--no-defaults", f"--socket={sockets}/socket", "--user=root", "-e"]
        self._until(lambda: self.ask(*client, "select 1"), "mariadbd")
        grants = "create database slurm_acct; create user 'slurm'@'127.0.0.1' identified by 'slurm'; "
        grants += "grant all on slurm_acct.* to 'slurm'@'127.0.0.1'"
        subprocess.run([*client, grants], check=True, timeout=60)
        self._daemon("slurmdbd")
        self._until(lambda: "Cluster" in self.ask("sacctmgr", "show", "cluster"), "slurmdbd")
        for entity in ("cluster tests", "account tests", "user root account=tests"):
            self.ask("sacctmgr", "-i", "add", *entity.split())

    def _daemons(self) -> list[psutil.Process]:
        pids = [*self.folder.glob("*.pid"), self.folder / "sql" / "pid"]
        found = []
        for path in pids:
            try:
                found.append(psutil.Process(int(path.read_text())))
            except (OSError, ValueError, psutil.NoSuchProcess):
                continue
        return found

    def _processes(self, mark: str) -> list[psutil.Process]:
        """The processes of this cluster's jobs and steps whose command or environment holds `mark`."""
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                told = [*process.cmdline(), *(f"{key}={value}" for key, value in environment.items())]
            except (psutil.Error, OSError):
                continue
            own = environment.get("SLURM_CONF") == str(self.conf) and "SLURM_JOB_ID" in environment
            if own and any(mark in text for text in told):
                found.append(process)
        return found

    def _until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline:
                logs = sorted(self.folder.glob(f"*{what}*.log")) + sorted(self.folder.glob(f"*{what}*.out"))
                tails = "\n".join(f"{log}:\n{log.read_text(errors='replace')[-2000:]}" for log in logs)
                raise RuntimeError(f"{what} did not come up within a minute\n{tails}")
            time.sleep(0.1)


def missing() -> list[str]:
    """What the machine lacks for a cluster."""
    return [name for name in COMMANDS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]


def _private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _free_ports(count: int) -> list[int]:
    """A row of ports that nobody listens on; processes that look at the same time look at rows of their own."""
    for number in range(800):
        first = 20_000 + (os.getpid() + number) * 50 % 40_000
        row = list(range(first, first + count))
        try:
            for port in row:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return row
        except OSError:
            continue
    raise RuntimeError("no free ports")

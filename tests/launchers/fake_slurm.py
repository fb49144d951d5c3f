"""Slurm's five commands over processes of this machine, as far as submitit and Sprig use them.

`install(folder)` writes them there; FAKE_SLURM in their environment is where they keep their state.
"""

import sys
from pathlib import Path

SBATCH = """
text = open(sys.argv[1]).read()

def option(name, default):
    found = re.search(rf"^#SBATCH --{name}=(\\S+)", text, re.MULTILINE)
    return found[1] if found else default

job = 100 + len(list(state.glob("*.array")))
size = int(re.match(r"0-([0-9]+)", option("array", "0-0"))[1]) + 1
alone = "--array" not in text
(state / f"{job}.array").write_text("" if alone else str(size))
nodes, tasks = int(option("nodes", 1)), int(option("ntasks-per-node", 1))
asked = {"SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NTASKS": str(nodes * tasks), "SLURM_JOB_NODELIST": "localhost"}
for index in range(size):
    raw = str(job) if alone else f"{job}{index:02}"
    array = {} if alone else {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(index)}
    (state / f"{raw}.job").write_text(
        json.dumps({"script": sys.argv[1], "environment": {"SLURM_JOB_ID": raw} | array | asked})
    )
    start(raw)
print(f"Submitted batch job {job}")
"""

SRUN = """
place = sys.argv.index("--output") + 1
name, command = sys.argv[place], sys.argv[place + 1 :]
while command[0].startswith("--"):
    option = command.pop(0)
    if option.startswith("--cpus-per-task="):  # nothing else hands it on, as since Slurm 22.05
        os.environ["SLURM_CPUS_PER_TASK"] = option.partition("=")[2]
job, count, nodes = os.environ["SLURM_JOB_ID"], int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_JOB_NUM_NODES"])
for letter, value in (("%A", "SLURM_ARRAY_JOB_ID"), ("%a", "SLURM_ARRAY_TASK_ID"), ("%j", "SLURM_JOB_ID")):
    name = name.replace(letter, os.environ.get(value, letter))
tasks = []
for rank in range(count):
    each = count // nodes
    places = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % each), "SLURM_NODEID": str(rank // each)}
    with open(name.replace("%t", str(rank)), "a") as file:
        tasks.append(subprocess.Popen(command, env=os.environ | places, stdout=file, stderr=file))
    (state / (f"{job}.{rank}.pid" if rank else f"{job}.pid")).write_text(str(tasks[rank].pid))
while any(task.poll() is None for task in tasks):
    if any(task.poll() for task in tasks):  # --kill-on-bad-exit
        for task in tasks:
            task.kill()
    time.sleep(0.1)
sys.exit(max(abs(task.returncode) for task in tasks))
"""

SACCT = """
print("JobID|State|NodeList")
for array in state.glob("*.array"):
    size = array.read_text()
    for index in range(int(size or 1)):
        raw = f"{array.stem}{index:02}" if size else array.stem
        done = (state / f"{raw}.done").exists()
        print(f"{array.stem}{f'_{index}' if size else ''}|{'COMPLETED' if done else 'RUNNING'}|here")
"""

SCONTROL = """
if sys.argv[1:3] == ["show", "job"]:
    print("JobState=RUNNING")
else:
    (state / f"{sys.argv[2]}.requeue").write_text("")
"""

SCANCEL = """
for pid in state.glob(f"{sys.argv[1].replace('_', '0')}*.pid"):
    os.kill(int(pid.read_text()), 15)
"""

HEAD = f"""#!{sys.executable}
import json, os, re, subprocess, sys, time
from pathlib import Path
state = Path(os.environ["FAKE_SLURM"])

def start(raw):
    job = json.loads((state / f"{{raw}}.job").read_text())
    again = f"while rm {{raw}}.requeue 2> /dev/null; do (cd {{os.getcwd()}} && bash {{job['script']}}); done"
    command = ["bash", "-c", f"cd {{state}}; touch {{raw}}.requeue; {{again}}; touch {{raw}}.done"]
    quiet = {{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
    subprocess.Popen(command, env=os.environ | job["environment"], start_new_session=True, **quiet)
"""


def install(folder: Path) -> None:
    folder.mkdir()
    commands = {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scontrol": SCONTROL, "scancel": SCANCEL}
    for name, body in commands.items():
        (folder / name).write_text(HEAD + body)
        (folder / name).chmod(0o755)

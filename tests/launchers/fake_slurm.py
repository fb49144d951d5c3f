"""Slurm's five commands over processes of this machine, as far as submitit and Sprig use them.

`install(folder)` writes them there; FAKE_SLURM in their environment is where they keep their state.
"""

import sys
from pathlib import Path

SBATCH = """
text = open(sys.argv[1]).read()
job = 100 + len(list(state.glob("*.array")))
size = int(re.search(r"--array=0-([0-9]+)", text)[1]) + 1
(state / f"{job}.array").write_text(str(size))
for index in range(size):
    raw = f"{job}{index:02}"
    environment = {"SLURM_JOB_ID": raw, "SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(index)}
    (state / f"{raw}.job").write_text(json.dumps({"script": sys.argv[1], "environment": environment}))
    start(raw)
print(f"Submitted batch job {job}")
"""

SRUN = """
log = sys.argv[sys.argv.index("--output") + 1]
for letter, name in (("%A", "SLURM_ARRAY_JOB_ID"), ("%a", "SLURM_ARRAY_TASK_ID")):
    log = log.replace(letter, os.environ[name])
command = sys.argv[sys.argv.index("--output") + 2 :]
with open(log.replace("%t", "0"), "a") as file:
    (state / f"{os.environ['SLURM_JOB_ID']}.pid").write_text(str(os.getpid()))
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    os.execvp(command[0], command)
"""

SACCT = """
print("JobID|State|NodeList")
for array in state.glob("*.array"):
    for index in range(int(array.read_text())):
        done = (state / f"{array.stem}{index:02}.done").exists()
        print(f"{array.stem}_{index}|{'COMPLETED' if done else 'RUNNING'}|here")
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
import json, os, re, subprocess, sys
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

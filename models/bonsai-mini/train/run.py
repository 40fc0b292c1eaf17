"""The whole training in order. Every phase resumes from its own checkpoint, so this can be stopped and started again.

    python run.py            all that is missing
    python run.py PHASE ..   only these: scenes vae latents judge half binary last ternary twin

`half` and `binary` learn pictures of half the side, `last` goes on with whole ones. `ternary` and `twin` are short legs from there
with ternary and full-precision block linears. `BONSAI_MINI_FLOW` adds options to every run of flow.py, such as "--bf16 --compile".
"""

import os
import subprocess
import sys

from settings import RUN

EXTRA = os.environ.get("BONSAI_MINI_FLOW", "").split()
# Guidance built in, the sampler's noise levels, full captions, the critic.
GUIDED = ["--guide", "0.5", "--focus", "0.75", "--full", "0.4", "--adversary", "0.4", "--average", "0.99", *EXTRA]
FROM_LAST = [*GUIDED, "--steps", "250", "--decay", "200", "--from", "last"]
HALF_SIDE = ["128x128", "160x112", "112x160"]
SMALLER = ["--sizes", "128x128:0.8,160x112:0.1,112x160:0.1"]
PHASES = {
    "scenes": [["data.py"]],
    "vae": [["vae.py", "train", "--steps", "20000", "--decay", "8000", "--muon", "0.02"]],
    "latents": [["latents.py", "256x256", "320x224", "224x320", *HALF_SIDE]],
    "judge": [["judge.py", "train", "--steps", "2500"]],
    "half": [["flow.py", "half", "--steps", "8000", "--decay", "3000", "--average", "0.998", *SMALLER, *EXTRA]],
    "binary": [["flow.py", "binary", "--from", "half", *SMALLER, *GUIDED, "--steps", "6000", "--decay", "2000"]],
    "last": [["flow.py", "binary", "--to", "last", "--from", "binary", *GUIDED, "--steps", "3500", "--decay", "1500"]],
    "ternary": [["flow.py", "ternary", *FROM_LAST]],
    "twin": [["flow.py", "half", "--to", "twin", *FROM_LAST]],
}


def main(names):
    RUN.mkdir(parents=True, exist_ok=True)
    here = os.path.dirname(os.path.abspath(__file__))
    for name in names or PHASES:
        for command in PHASES[name]:
            print("==", name, *command, flush=True)
            subprocess.run([sys.executable, *command], cwd=here, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])

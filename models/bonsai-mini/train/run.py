"""The whole training in order. Every phase resumes from its own checkpoint, so this can be stopped and started again.

    python run.py            all that is missing
    python run.py PHASE ..   only these: scenes vae latents judge half binary last grow ternary twin

`last`, `ternary` and `twin` are the same last leg, with the same settings and steps, from the binary model on: with 1-bit, ternary
and full-precision block linears. `BONSAI_MINI_FLOW` adds options to every run of flow.py, such as "--bf16 --compile".
"""

import os
import subprocess
import sys

from settings import RUN

EXTRA = os.environ.get("BONSAI_MINI_FLOW", "").split()
# Guidance built in, the sampler's noise levels, full captions, the critic.
GUIDED = ["--guide", "0.5", "--focus", "0.8", "--full", "0.4", "--adversary", "0.4", "--average", "0.99", *EXTRA]
LAST = [*GUIDED, "--steps", "1500", "--decay", "1300", "--from", "binary"]
PHASES = {
    "scenes": [["data.py"]],
    "vae": [["vae.py", "train", "--steps", "20000", "--decay", "8000", "--muon", "0.02"]],
    "latents": [["latents.py", "256x256", "320x224", "224x320"]],
    "judge": [["judge.py", "train", "--steps", "2500"]],
    "half": [["flow.py", "half", "--steps", "8000", "--decay", "3000", "--average", "0.998", *EXTRA]],
    "binary": [["flow.py", "binary", "--from", "half", *GUIDED, "--steps", "6000", "--decay", "2000"]],
    "last": [["flow.py", "binary", "--to", "last", *LAST]],
    "grow": [["grow.py", "pairs", "last"], ["grow.py", "train"]],
    "ternary": [["flow.py", "ternary", *LAST]],
    "twin": [["flow.py", "half", "--to", "twin", *LAST]],
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

"""The whole training in order. Every phase resumes from its own checkpoint, so this can be stopped and started again.

    python run.py            all that is missing
    python run.py PHASE ..   only these: scenes vae latents judge half binary ternary twin
"""

import os
import subprocess
import sys

from settings import RUN

# How the models that are compared end: guidance built in, the sampler's noise levels, the critic.
LAST = ["--guide", "0.5", "--focus", "0.8", "--full", "0.4", "--adversary", "0.4", "--steps", "6000", "--decay", "3000"]
PHASES = {
    "scenes": [["data.py"]],
    "vae": [["vae.py", "train", "--steps", "20000", "--decay", "8000", "--muon", "0.02"]],
    "latents": [["latents.py", "128x128", "160x112", "112x160"]],
    "judge": [["judge.py", "train", "--steps", "2500"]],
    "half": [["flow.py", "half", "--steps", "8000", "--decay", "3000", "--average", "0.998"]],
    "binary": [["flow.py", "binary", "--from", "half", *LAST]],
    "ternary": [["flow.py", "ternary", "--from", "half", *LAST]],
    "twin": [["flow.py", "half", "--from", "half", "--to", "twin", *LAST]],
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

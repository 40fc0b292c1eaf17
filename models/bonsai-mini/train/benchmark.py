"""The benchmark prompts, ../benchmark.json: full captions of scenes from held-in and from held-out combinations.

    {"heads": [{"name", "classes": [words]}], "prompts": [{"prompt", "seed", "held_out", "expect": {head: class index}, "tasks": {task: [heads]}}]}

A task of a prompt is passed when every head it lists is right. Tasks after GenEval (Ghosh et al., 2023).
"""

import json
import random
from pathlib import Path

import captions
import world

FILE = Path(__file__).resolve().parent.parent / "benchmark.json"
TASKS = ["single object", "two objects", "counting", "colours", "position", "binding"]


def tasks(scene, fixed):
    two = scene["count"] == 2 and scene["trees"][0] != scene["trees"][1]
    rows = {"counting": ["count"]}
    if scene["count"] == 1:
        rows["single object"] = ["left_foliage", "right_foliage"]
    if two:
        rows["two objects"] = ["left_foliage", "right_foliage"]
        rows["binding"] = ["left_foliage", "left_pot", "right_foliage", "right_pot"]
    elif scene["extra"] != "none" and "extra" in fixed:
        rows["two objects"] = ["left_foliage", "right_foliage", "extra"]
    if not two and "left_pot" in fixed:
        rows["colours"] = ["left_pot", "right_pot"]
    if "side" in fixed:
        rows["position"] = ["side"]
    return rows


def make(count=512):
    """`count` prompts of each kind, in turn."""
    rng, out = random.Random(2024), []
    for i in range(2 * count):
        held = i % 2 == 1
        scene = world.sample(rng, held)
        text, fixed = captions.caption(rng, scene, full=True)
        names = [h for h, f in zip(world.HEADS, fixed) if f]
        labels = dict(zip(world.HEADS, world.labels(scene)))
        out.append(dict(prompt=text, seed=i, held_out=held, expect={h: labels[h] for h in names}, tasks=tasks(scene, names)))
    return {"heads": [dict(name=h, classes=[str(c) for c in v]) for h, v in world.HEADS.items()], "prompts": out}


def load():
    return json.loads(FILE.read_text())


if __name__ == "__main__":
    made = make()
    rows = ",\n".join(json.dumps(p) for p in made["prompts"])
    FILE.write_text('{"heads": %s,\n"prompts": [\n%s\n]}\n' % (json.dumps(made["heads"]), rows))
    print(len(made["prompts"]), "prompts,", FILE.stat().st_size, "bytes")

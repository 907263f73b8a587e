"""Speed of the miniature world: scenes (image, depth, silhouette), meshes and clips a second.

``python benchmarks/miniature_world.py`` prints one JSON object. Each figure is the best of three passes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable

from recordings.miniature import Scenes, clip, make_stimuli, mesh, render


def rate(work: Callable[[], object], items: int, repeats: int = 3) -> float:
    """Items a second of the fastest of a few passes."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return round(items / min(seconds), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000, help="scenes to render in one batch call")
    parser.add_argument("--solids", type=int, default=24, help="meshes and clips to make")
    options = parser.parse_args()
    scenes = Scenes.sample(options.scenes)
    few = Scenes.sample(options.solids)
    render(scenes[:32])
    rates = {
        "scenes_per_second": rate(lambda: render(scenes), len(scenes)),
        "scenes_one_at_a_time_per_second": rate(lambda: [render(scene) for scene in few], len(few)),
        "scenes_128_pixels_per_second": rate(lambda: render(scenes[:200], size=128), min(200, len(scenes))),
        "stimuli_per_second": rate(lambda: make_stimuli(scenes), len(scenes)),
        "meshes_per_second": rate(lambda: [mesh(few, i) for i in range(len(few))], len(few)),
        "clips_24_frames_per_second": rate(lambda: [clip(few, i) for i in range(len(few))], len(few)),
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({**rates, "cores": os.cpu_count(), "peak_memory_gb": round(peak, 2)}, indent=2))


if __name__ == "__main__":
    main()

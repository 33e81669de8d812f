"""Measure how fast this machine trains: updates/s against the limit of its products, and what else a run costs.

    python scripts/benchmark.py                                        # packs, threads, precisions; costs; families
    python scripts/benchmark.py --packs 1 --threads 1 --precisions float32 --only speed
    python scripts/benchmark.py --only speed --builds native,avx2,x86-64  # the update in C, also for less than the CPU
    python scripts/benchmark.py --only scaling --plot scaling.png      # against pack, width, batch and rows
    python scripts/benchmark.py --only speed,costs,paper               # on a GPU: ten seeds with their evaluations, too

The limit is what the products of an update alone take, at their shapes, into preallocated outputs, with as many
threads as the measured run. Limit and rate are each the fastest of five times in the same process: neighbours on a
machine slow both. Rates are summed over the pack.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from iql.errors import UserError  # noqa: E402

FAMILIES = (
    *("halfcheetah-medium-v2", "hopper-medium-v2", "walker2d-medium-v2", "ant-medium-v2"),
    *("antmaze-umaze-v2", "antmaze-medium-play-v2", "antmaze-large-play-v2", "kitchen-partial-v0"),
    *("door-human-v1", "hammer-human-v1", "pen-human-v1", "relocate-human-v1"),
    *("maze2d-umaze-v1", "maze2d-medium-v1", "maze2d-large-v1"),
)
BUILDS = {"native": "", "avx2": "-mno-avx512f", "x86-64": "-march=x86-64"}
"""What CC is given, so that native.c is compiled for this CPU, without AVX-512, or for any x86-64."""
SCALING = {
    "pack": ("runs in a pack", (1, 2, 4, 8, 16, 32)),
    "hidden": ("width of both hidden layers", (64, 128, 256, 512, 1024)),
    "batch": ("batch size", (64, 128, 256, 512, 1024)),
    "rows": ("rows of the dataset", (100_000, 1_000_000, 10_000_000)),
}


def made_transitions(rows: int, observation_dim: int, action_dim: int) -> Any:
    """Random transitions: what they say is nothing to the clock."""
    from iql.transitions import Transitions

    random = np.random.default_rng(0)
    return Transitions(
        observations=random.standard_normal((rows, observation_dim), np.float32),
        actions=random.uniform(-1, 1, (rows, action_dim)).astype(np.float32),
        rewards=random.standard_normal(rows, np.float32),
        masks=np.ones(rows, np.float32),
        rows=np.arange(rows - 1),
        observation_mean=np.zeros(observation_dim, np.float32),
        observation_std=np.ones(observation_dim, np.float32),
    )


def make_learner(options: argparse.Namespace, pack: int, threads: int, precision: str) -> Any:
    """A pack of the authors' IQL of the asked shape, its path settled."""
    import torch

    from iql.devices import choose, set_precision
    from iql.learner import IQL
    from iql.networks import Policy, TwinQ, Value

    chosen = choose(options.device)
    set_precision(precision, chosen)
    seeds = list(range(pack))
    common = {"seeds": seeds, "hidden_dims": options.hidden, "initialization": "orthogonal"}
    observation_dim, action_dim = options.sizes
    learner = IQL(
        value=Value(observation_dim, **common),
        q=TwinQ(observation_dim, action_dim, **common),
        policy=Policy(
            observation_dim,
            action_dim,
            **common,
            distribution="gaussian",
            mean="tanh",
            dropout=None,
            log_std_range=(-5.0, 2.0),
        ),
        optimizer=partial(torch.optim.Adam, fused=True),
        seeds=seeds,
        **{
            key: [value] * pack
            for key, value in (
                *(("lr", 3e-4), ("tau", 0.7), ("beta", 3.0), ("discount", 0.99)),
                *(("polyak", 0.005), ("advantage_cap", 100.0)),
            )
        },
        fresh_value=True,
        q_loss_scale=1.0,
        policy_schedule="cosine",
        updates=1_000_000,
        device=chosen,
        precision=precision,
    )
    learner.take_path(options.path, options.batch, threads)
    return learner


def updates_per_second(learner: Any, batches: Any, seconds: float) -> float:
    """Summed over the pack, in steady state: the fastest of five parts of the time, as the limit is."""
    block, best = 16, 0.0
    learner.advance(batches, 2 * block)
    for _ in range(5):
        done, began = 0, now(learner.device)
        while (taken := now(learner.device) - began) < seconds / 5:
            learner.advance(batches, block)
            done += block
        best = max(best, len(learner.seeds) * done / taken)
    return best


def now(device: Any) -> float:
    """The clock, once the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def update_products(
    sizes: tuple[int, int], hidden: list[int], batch: int, pack: int, precision: str, device: Any
) -> list[Callable[[], Any]]:
    """The products of one update of `pack` runs, each with weights of its own; on a CPU they share the other operands,
    as the update does, so that these stay in the cache."""
    import torch

    from iql.execution import LOW

    low = LOW[precision] or torch.float32
    observation_dim, action_dim = sizes
    scratch: dict[tuple, Any] = {}

    def random(groups: int, rows: int, columns: int, kind: Any, own: bool = False) -> Any:
        place = (groups, rows, columns, kind)
        if own or device.type == "cuda" or place not in scratch:
            scratch[place] = torch.randn(*place[:3], device=device).to(kind)
        return scratch[place]

    products: list[Callable[[], Any]] = []

    def network(fan_in: int, fan_out: int, copies: int, passes: tuple[tuple[int, bool], ...]) -> None:
        groups, parts = (pack * copies, 1) if device.type == "cuda" else (1, pack * copies)
        widths = [fan_in, *hidden, fan_out]
        for _ in range(parts):
            kinds = [low if 0 < i < len(widths) - 2 else torch.float32 for i in range(len(widths) - 1)]
            pairs = list(zip(widths[:-1], widths[1:], kinds, strict=True))
            kernels = [random(groups, n, m, kind, own=True) for n, m, kind in pairs]
            kernels[-1] = kernels[-1].mT.contiguous().mT  # the form in which few columns are fast
            for rows, back in passes:
                for kernel, (n, m, kind) in zip(kernels, pairs, strict=True):
                    x, y = random(groups, rows, n, kind), random(groups, rows, m, kind)
                    products.append(partial(torch.bmm, x, kernel, out=y))
                for number, (kernel, (n, m, kind)) in enumerate(zip(kernels, pairs, strict=True)):
                    if not back:
                        break
                    x, y = random(groups, rows, n, kind), random(groups, rows, m, kind)
                    turned = number == len(pairs) - 1
                    gradient = random(groups, m, n, kind) if turned else random(groups, n, m, kind)
                    products.append(partial(torch.bmm, *((y.mT, x) if turned else (x.mT, y)), out=gradient))
                    if number:
                        outer = torch.mul if m == 1 else torch.bmm
                        products.append(partial(outer, y, kernel.mT, out=random(groups, rows, n, kind)))

    both = observation_dim + action_dim
    network(both, 1, 2, ((batch, False),))  # the target
    network(observation_dim, 1, 1, ((batch, True), (2 * batch, False)))
    network(observation_dim, action_dim, 1, ((batch, True),))
    network(both, 1, 2, ((batch, True),))
    return products


def limit(
    sizes: tuple[int, int], hidden: list[int], batch: int, pack: int, threads: int, precision: str, device: Any
) -> float:
    """Updates/s, summed, if an update were nothing but its products: the best of five times.

    On a CPU each thread takes whole updates of its own, as members of a pack are trained; on CUDA the pack's are
    taken together, in one graph.
    """
    import torch

    repeats = 30
    if device.type == "cuda":
        products = update_products(sizes, hidden, batch, pack, precision, device)
        return pack / min(_seconds_in_graph(products, repeats, device) for _ in range(5))
    lanes = [update_products(sizes, hidden, batch, 1, precision, device) for _ in range(threads)]
    barrier = threading.Barrier(threads)
    times: list[tuple[float, float]] = []  # taken by the threads themselves: another may get no core while they run

    def work(products: list[Callable[[], Any]]) -> None:
        torch.set_num_threads(1)
        for _ in range(5):
            barrier.wait()
            began = time.perf_counter()
            for product in products * repeats:
                product()
            times.append((began, time.perf_counter()))
            barrier.wait()

    workers = [threading.Thread(target=work, args=(products,)) for products in lanes]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rounds = [times[i : i + threads] for i in range(0, len(times), threads)]
    seconds = [max(end for _, end in each) - min(began for began, _ in each) for each in rounds]
    return threads * repeats / min(seconds)


def _seconds_in_graph(products: list[Callable[[], Any]], repeats: int, device: Any) -> float:
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for product in products:
            product()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for product in products:
            product()
    began = now(device)
    for _ in range(repeats):
        graph.replay()
    return (now(device) - began) / repeats


def speed_row(options: argparse.Namespace, data: Any, pack: int, threads: int, precision: str) -> dict[str, Any]:
    """One line of the speed table."""
    import torch

    from iql.draws import Batches

    learner = make_learner(options, pack, threads, precision)
    reset_peak(learner.device)
    batches = Batches(data, learner.seeds, options.batch, learner.device)
    bound = limit(options.sizes, options.hidden, options.batch, pack, threads, precision, learner.device)
    torch.set_num_threads(1)
    learner = make_learner(options, pack, threads, precision)  # whose path sets the threads
    rate = updates_per_second(learner, batches, options.seconds)
    return {
        "device": str(learner.device),
        "build": "native",
        "precision": precision,
        "path": learner.code_path,
        "threads": threads,
        "pack": pack,
        "updates_per_second": round(rate, 1),
        "limit": round(bound, 1),
        "fraction": round(rate / bound, 3),
        "peak_mib": peak_mib(learner.device),
    }


def rows_of_build(options: argparse.Namespace, build: str) -> list[dict[str, Any]]:
    """The speed table of another build, from a process of its own, with torch's products held to its instructions."""
    less = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    if build == "x86-64":
        less = {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
    compiler = f"{os.environ.get('CC') or 'cc'} {BUILDS[build]}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [
            sys.executable,
            __file__,
            "--only",
            "speed",
            "--builds",
            "native",
            "--out",
            str(out),
            "--device",
            "cpu",
        ]
        command += ["--path", options.path, "--precisions", "float32", "--seconds", str(options.seconds)]
        for name in ("batch", "rows"):
            command += [f"--{name}", str(getattr(options, name))]
        for name in ("sizes", "hidden", "packs", "threads"):
            command += [f"--{name}", ",".join(map(str, getattr(options, name)))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **less, "CC": compiler})
        return [{**row, "build": build} for row in json.loads(out.read_text())["speed"]]


def reset_peak(device: Any) -> None:
    """Count the peak of memory anew from here, where the system lets us (Linux)."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: Any) -> int:
    """Of this process since reset_peak, on CUDA of its tensors."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def costs(options: argparse.Namespace, data: Any) -> dict[str, float]:
    """Seconds, microseconds and MiB of what a run does besides its updates."""
    import h5py
    import torch

    from iql import checkpoints
    from iql.draws import Batches
    from iql.tasks.custom import FileTask

    found: dict[str, float] = {}
    learner = make_learner(options, 1, options.threads[0], "float32")
    batches = Batches(data, [0], options.batch, learner.device)
    learner.advance(batches, 8)
    began = now(learner.device)
    for update in range(1000):
        batches.at(update)
    found["sampling, µs an update"] = round((now(learner.device) - began) * 1e3, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoints.path_of(Path(folder), 8)
        path.parent.mkdir(exist_ok=True)
        began = time.perf_counter()
        for _ in range(5):
            checkpoints.write(path, {"learner": learner.state(0)})
        found["checkpoint, ms"] = round((time.perf_counter() - began) / 5 * 1e3, 1)
        found["checkpoint, MiB"] = round(path.stat().st_size / 2**20, 2)
        began = time.perf_counter()
        checkpoints.read(path)
        found["checkpoint read, ms"] = round((time.perf_counter() - began) * 1e3, 1)
        rows = Path(folder) / "rows.hdf5"
        with h5py.File(rows, "w") as file:
            for name in ("observations", "actions", "rewards"):
                file.create_dataset(name, data=getattr(data, name), compression="gzip", compression_opts=1)
            file["terminals"] = np.zeros(len(data.rewards), bool)
            file["timeouts"] = np.arange(1, len(data.rewards) + 1) % 1000 == 0
        began = time.perf_counter()
        task = FileTask(
            path=str(rows),
            gym_id=None,
            name="rows",
            horizon=1000,
            reward="none",
            ref_min=None,
            ref_max=None,
            normalize=False,
        )
        task.transitions()
        found[f"loading {len(data.rewards):,} rows (gzip), s"] = round(time.perf_counter() - began, 2)
    found["peak memory, MiB"] = peak_mib(torch.device("cpu"))
    return found


def family_rows(rate: float) -> list[dict[str, Any]]:
    """What an evaluation of each family costs on one core, as a share of the training time at `rate` updates/s."""
    import hydra
    from hydra.utils import instantiate

    from iql import config as configuration
    from iql.acting import Perceptron
    from iql.players import step_seconds
    from iql.schema import constructor_arguments

    random = np.random.default_rng(0)
    rows = []
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for name in FAMILIES:
            settings = configuration.read(hydra.compose("config", [f"env={name}"]))[0]
            env, evaluation = settings["env"], settings["evaluation"]
            widths = [env["observation_dim"], 256, 256, env["action_dim"]]
            kernels = [
                random.normal(0, n**-0.5, (n, m)).astype(np.float32) for n, m in zip(widths, widths[1:], strict=False)
            ]
            biases = [np.zeros(m, np.float32) for m in widths[1:]]
            zeros, ones = np.zeros(widths[0], np.float32), np.ones(widths[0], np.float32)
            act = Perceptron(kernels, biases, True, zeros, ones)
            task = instantiate(constructor_arguments("env", env), _convert_="all")
            step = float(np.median([step_seconds(task, act, range(5 * i, 5 * i + 5)) for i in range(3)]))
            seconds = step * env["horizon"] * evaluation["episodes"]
            rows.append(
                {
                    "env": name,
                    "step_us": round(step * 1e6),
                    "episodes": evaluation["episodes"],
                    "seconds": round(seconds, 2),
                    "every": evaluation["every"],
                    "share": round(seconds * rate / evaluation["every"], 3),
                }
            )
            print(rows[-1], file=sys.stderr)
    return rows


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Updates/s as one of pack, width, batch and rows grows and the others stay."""
    from iql.draws import Batches

    found = []
    for what, (_, values) in SCALING.items():
        for value in values:
            own = argparse.Namespace(**vars(options))
            pack = value if what == "pack" else 1
            own.hidden = [value] * 2 if what == "hidden" else options.hidden
            own.batch = value if what == "batch" else options.batch
            data = made_transitions(value if what == "rows" else options.rows, *options.sizes)
            for threads in options.threads:
                learner = make_learner(own, pack, threads, "float32")
                batches = Batches(data, learner.seeds, own.batch, learner.device)
                bound = limit(own.sizes, own.hidden, own.batch, pack, threads, "float32", learner.device)
                learner = make_learner(own, pack, threads, "float32")
                rate = updates_per_second(learner, batches, options.seconds)
                row = {"what": what, "value": value, "threads": threads, "updates_per_second": round(rate, 1)}
                found.append({**row, "limit": round(bound, 1), "device": str(learner.device)})
                print(found[-1], file=sys.stderr)
    return found


def plot_scaling(rows: list[dict[str, Any]], path: Path) -> None:
    """The four curves with their limits; logarithmic where they are steep."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(SCALING), figsize=(15, 3.8), layout="constrained")
    for axis, (what, (label, values)) in zip(axes, SCALING.items(), strict=True):
        for color, threads in enumerate(sorted({row["threads"] for row in rows})):
            own = [row for row in rows if row["what"] == what and row["threads"] == threads]
            x = [row["value"] for row in own]
            name = f"{threads} thread{'s' * (threads > 1)}" if own[0]["device"] == "cpu" else own[0]["device"]
            axis.plot(x, [row["updates_per_second"] for row in own], "o-", color=f"C{color}", label=name)
            axis.plot(x, [row["limit"] for row in own], "--", color=f"C{color}", alpha=0.6, label="its products alone")
        steep = what in ("hidden", "batch")
        axis.set(xscale="log", yscale="log" if steep else "linear", xlabel=label)
        if not steep:
            axis.set_ylim(bottom=0)
        axis.set_xticks(values, [f"{value:,}" for value in values])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("updates/s, summed over the pack")
    axes[1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def paper_rate(options: argparse.Namespace) -> dict[str, Any]:
    """Ten seeds of hopper with the paper's evaluations: 100,000 updates with 20 of them, extrapolated to 1,000,000."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.hdf5"
        import h5py

        data = made_transitions(1_000_000, 11, 3)
        with h5py.File(rows, "w") as file:
            for name in ("observations", "actions", "rewards"):
                file[name] = getattr(data, name)
            file["terminals"] = np.zeros(len(data.rewards), bool)
            file["timeouts"] = np.arange(1, len(data.rewards) + 1) % 1000 == 0
        command = [sys.executable, str(ROOT / "train.py"), "env=hopper-medium-v2", f"env.path={rows}", "updates=100000"]
        command += ["seed=[0,1,2,3,4,5,6,7,8,9]", f"device={options.device}", "tracker=none", f"runs={folder}/runs"]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - began
        summaries = [json.loads(path.read_text()) for path in Path(folder).glob("runs/**/summary.json")]
    wall = max(summary["wall_seconds"] for summary in summaries)
    return {
        "seconds for 100,000 updates of 10 seeds, 20 evaluations": round(wall, 1),
        "with start and end": round(seconds, 1),
        "minutes for 1,000,000, extrapolated": round(wall * 10 / 60, 2),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [
        " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()) for row in rows
    ]
    return "\n".join(f"| {line} |" for line in lines)


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """A parser of comma-separated values."""

    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = "comma-separated list"
    return parse


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers(int), default=[11, 3], help="observation and action entries (hopper's)")
    parser.add_argument("--hidden", type=numbers(int), default=[256, 256], help="widths of the hidden layers")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the dataset")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured for each line")
    parser.add_argument("--packs", type=numbers(int), default=[1, 2, 4, 8, 16, 32])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=numbers(int), default=sorted({1, min(2, cores), cores}))
    parser.add_argument("--precisions", type=numbers(str), help="default: float32, and bf16 where the device has it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--path", default="auto", choices=("auto", "plain", "fused", "native"), help="code path")
    parts = ("speed", "costs", "families", "scaling", "paper")
    parser.add_argument(
        "--builds",
        type=numbers(str),
        help=f"of {', '.join(BUILDS)}; default: native, and avx2 where the CPU has AVX-512",
    )
    parser.add_argument("--only", type=numbers(str), default=list(parts[:3]), help=f"of {', '.join(parts)}")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where a picture of the scaling goes")
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(parts):
        parser.error(f"--only knows {', '.join(parts)}, not {', '.join(sorted(unknown))}")
    if unknown := set(options.builds or ()) - set(BUILDS):
        parser.error(f"--builds knows {', '.join(BUILDS)}, not {', '.join(sorted(unknown))}")
    if len(options.sizes) != 2 or min([*options.sizes, *options.hidden, options.batch, *options.packs]) < 1:
        parser.error(
            "--sizes takes two whole numbers >= 1, e.g. 11,3; --hidden, --batch and --packs whole numbers >= 1"
        )
    return options


def main() -> int:
    options = parsed()
    try:
        figures = measure(options)
    except UserError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\nfigures in {options.out}")
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every part that was asked for, printed as it is known."""
    import torch

    from iql.devices import choose, has_bf16

    figures: dict[str, Any] = {"machine": machine(), "options": {k: str(v) for k, v in vars(options).items()}}
    device = choose(options.device)
    if device.type == "cuda":
        options.threads = options.threads[:1]
    options.precisions = options.precisions or ["float32"] + ["bf16"] * has_bf16(device)
    in_c = device.type == "cpu" and options.path in ("auto", "native")
    avx512 = in_c and torch.backends.cpu.get_cpu_capability() == "AVX512"
    builds = (options.builds or ["native"] + ["avx2"] * avx512) if in_c else ["native"]
    data = made_transitions(options.rows, *options.sizes)
    for part in options.only:
        if part == "speed":
            figures[part] = []
            for precision in options.precisions if "native" in builds else ():
                for threads in options.threads:
                    for pack in options.packs:
                        figures[part].append(speed_row(options, data, pack, threads, precision))
                        print(figures[part][-1], file=sys.stderr)
            for build in builds:
                if build != "native":
                    figures[part] += rows_of_build(options, build)
            print(table(figures[part]))
        elif part == "costs":
            figures[part] = costs(options, data)
            print("\n".join(f"{name}: {value:,}" for name, value in figures[part].items()))
        elif part == "families":
            figures[part] = family_rows(rate=300.0)
            print(table(figures[part]))
        elif part == "scaling":
            figures[part] = scaling(options)
            print(table(figures[part]))
            if options.plot:
                plot_scaling(figures[part], options.plot)
        elif part == "paper":
            figures[part] = paper_rate(options)
            print("\n".join(f"{name}: {value:,}" for name, value in figures[part].items()))
    return figures


def machine() -> dict[str, Any]:
    import torch

    found = {"python": platform.python_version(), "torch": torch.__version__, "cores": len(os.sched_getaffinity(0))}
    found["cpu"] = torch.backends.cpu.get_cpu_capability()
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


if __name__ == "__main__":
    sys.exit(main())

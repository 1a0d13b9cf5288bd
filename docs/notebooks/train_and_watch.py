# %% [markdown]
# # Train a loop and watch it
#
# A looped transformer runs one block again and again on its own output. This notebook trains a
# small one through the Python API and looks at what matters in a loop: does the loss fall, does
# the state settle, and does the answer get better when the loop runs for longer than in training?
#
# Everything takes about a minute on two cores; no GPU is needed, and nothing is downloaded but
# packages. The first cell installs the checkout that this notebook is in.

# %% tags=["skip-execution"]
# %pip install "../..[plot]"
# Once the package is published: %pip install "eqloop[plot]"

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console

import eqloop

# %% [markdown]
# ## A task and a spec
#
# The task is prefix sums: cell i of the answer is the parity of the first i + 1 bits. A cell
# attends to two cells on each side, so one iteration moves information by two cells, and a string
# of n bits needs about n / 2 iterations. This makes it a good first task: you know how long the
# loop has to run.
#
# A *spec* says all that a run depends on. `resolve` begins with a preset and changes single
# fields. `quick` is the preset of the first command of the README; here strings have 10 bits in
# place of 32, and the model is half as wide, so that training takes seconds. `eqloop fields` in a
# terminal lists all fields with their meaning.

# %%
settings = [
    "task.length=10",  # bits of a training string
    "task.validation_length=20",
    "task.hard_length=40",  # four times as long as in training
    "task.rows=800",
    "task.test_rows=100",
    "model.width=32",
    "model.heads=4",
    "solver.steps=6",  # iterations that the loss sees ...
    "train.burn_in=14",  # ... after up to 14 without a gradient
    "train.steps=240",
    "train.batch=32",
    "train.lr=5e-3",
    "train.warmup=20",
    "train.ema=0.98",
    "train.seed=2",
    "train.validate_every=60",
    "train.validation_rows=50",
    "train.validation_iterations=48",
]
spec = eqloop.run.resolve("prefix-sums", "quick", settings, make_task=eqloop.tasks.make_task)
task = eqloop.tasks.make_task(spec.task_name, spec.task_fields)
splits = task.load().splits
for name, split in splits.items():
    print(f"{name:10} {len(split):5} strings of {split.inputs.shape[1]} bits")

# %% [markdown]
# An example: the bits, and below them their running parity, which the model has to find.

# %%
print("bits ", *splits["test"].inputs[0])
print("sums ", *splits["test"].targets[0])

# %% [markdown]
# ## Training
#
# `train` writes a run folder (here `runs/prefix-sums-001`, or the next number that is free): the
# spec, a log with one line per step, and checkpoints. A run that is stopped goes on with
# `resume=True`. The console shows progress; leave it out for silence.

# %%
outcome = eqloop.train.train(spec, task, None, console=Console())
print(outcome.status, "after", outcome.step, "steps:", outcome.run.path)

# %% [markdown]
# ## What the log says
#
# Each step logs the loss, the share of cells that are right after the last iteration, and the
# *relative residual* `|z_t - z_(t-1)| / |z_t|` of the last iteration: how much the state still
# moves. Each validation runs the loop on longer strings and for more iterations than training.
#
# Look at three things:
#
# - The loss should fall and then flatten. It jumps from step to step here: a step with little
#   burn-in counts the first iterations, after which no loop can know the answer yet.
# - Whole strings are solved late and suddenly, because all their cells have to be right.
# - The residual of the validation says whether the loop settles. Before it has learnt anything it
#   settles on nothing of use, so a small residual alone is no success; but a loop that keeps
#   moving after many iterations has no answer to settle on.

# %%
log = eqloop.run.read_metrics(outcome.run.path / "metrics.jsonl")
steps = [line for line in log if line["kind"] == "train"]
checks = [line for line in log if line["kind"] == "validation"]
number = [line["step"] for line in steps]
checked = [line["step"] for line in checks]

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
left.plot(number, [line["loss"] for line in steps], color="C0")
left.set(title="loss", ylim=(0, None))
middle.plot(number, [line["cells"] for line in steps], color="C0", label="cells, 10 bits")
middle.plot(
    checked, [line["exact"][-1] for line in checks], "o-", color="C1", label="strings, 20 bits"
)
middle.set(title="share right", ylim=(0, 1.02))
middle.legend(frameon=False, loc="lower right")
right.semilogy(number, [line["residual"] for line in steps], color="C0", label="in training")
right.semilogy(
    checked,
    [line["residual"][-1] for line in checks],
    "o-",
    color="C1",
    label="20 bits, 48 iterations",
)
right.set(title="relative residual")
right.set_ylim(1e-9, 1)
right.legend(frameon=False, loc="lower left")
for axes in (left, middle, right):
    axes.set_xlabel("optimiser step")
    axes.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## Accuracy over iterations
#
# `load` reads the best checkpoint of the run (`which="last"` for the last one). `evaluate` then
# runs the loop for up to 64 iterations and scores the answer on the way. The shaded band is the
# range of iterations in training, the dotted line the number of iterations that the task needs at
# least.
#
# A good loop climbs and stays up. If a curve falls again to the right, the model *overthinks*:
# its answer appears on the way and is lost, because it was no fixed point. A run as short as this
# one differs by seed and machine: of seeds 0, 1 and 2, two solved 93 and 100 % of the long
# strings, and one 26 %. The preset `quick` as it is trains for longer, and solved all on each of
# these seeds.

# %%
model, task, spec = eqloop.load(outcome.run.path)
curves, depths = {}, {}
for name in ("test", "hard"):
    split = splits[name]
    result = eqloop.evaluate.evaluate(model, task, split, iterations=64)
    label = f"{name}, {split.inputs.shape[1]} bits"
    curves[label], depths[label] = result.overall.exact, result.overall.known_depth
    print(
        f"{label}: {result.overall.last:.0%} of the strings are solved after 64 iterations, "
        f"{result.overall.converged[-1]:.0%} of the loops have converged"
    )

eqloop.report.accuracy_figure(
    curves,
    result.iterations,
    trained=eqloop.run.trained_iterations(spec),
    depths=depths,
    score="strings solved",
)

# %% [markdown]
# ## One string, iteration by iteration
#
# `trace` keeps the answer after each iteration. Each row of the picture is one iteration, each
# column a cell of one string of 40 bits. Above the line no cell can know the first bit yet: what
# is blue there is right by chance. Below it the right answer spreads from the left, at most by
# two cells per iteration. This is the algorithm that the loop has learnt, and a longer string
# only takes more of it.

# %%
hard = splits["hard"].take(slice(0, 1))
trace = eqloop.evaluate.trace(model, task, hard.inputs[0], iterations=64, rtol=1e-4)
is_right = trace.predictions == hard.targets[0]

figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
last = len(is_right)
axes.imshow(
    is_right,
    aspect="auto",
    cmap="RdYlBu",
    vmin=-0.3,
    vmax=1.3,
    interpolation="nearest",
    extent=(-0.5, 39.5, last + 0.5, 0.5),
)
cells = np.arange(40)
axes.plot(cells, cells / 2, color="black", linewidth=1.5)
axes.set(xlabel="cell", ylabel="iteration", ylim=(last + 0.5, 0.5))
axes.set_title("blue: right; red: wrong; line: two cells per iteration", loc="left", fontsize=10)
axes.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## Where to go from here
#
# The same run is open to all commands, here as lines of a notebook:
#
# - `!eqloop eval runs/prefix-sums-001 --iterations 256` measures accuracy, residual and
#   convergence;
# - `!eqloop solve runs/prefix-sums-001 0110100110010110` shows one string as the loop fills it
#   in;
# - `!eqloop stability runs/prefix-sums-001` writes a page on fixed points, with a player;
# - `!eqloop gradients runs/prefix-sums-001` compares the gradients of the trained loop.

# %% [markdown]
# # A task of your own, from the first line to a report
#
# A task is one class: it says what an example looks like and makes examples. Training,
# evaluation, pictures, reports and all commands then work with it. This notebook writes a task,
# looks at its examples, trains a loop on it, tests whether the loop has learnt the rule or only
# the length of its training examples, and writes a report.
#
# It takes about a minute on two cores, and needs no GPU and no data. The first cell installs the
# checkout that this notebook is in.

# %% tags=["skip-execution"]
# %pip install "../..[plot]"
# Once the package is published: %pip install "eqloop[plot]"

# %%
# %matplotlib inline
import dataclasses
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from rich.console import Console

import eqloop

# %% [markdown]
# ## The task: dominoes
#
# A row of cells, each with a standing domino `|`, a gap `.` or a domino that is pushed to the
# right `>`. A pushed domino falls; a standing one falls if its left neighbour falls; a gap stops
# it. The model predicts for each cell whether something falls there: `x`. The rule is local, and
# a chain may be long, so this is work for a loop: one rule, applied again and again.
#
# Five members are needed: `grid`, `channels`, `classes`, `generate` and `encode`. The others here
# are optional:
#
# - `attention = 5`: a cell sees two cells on each side, so a loop is needed to see farther;
# - `harder`: the task of the split `hard`, here rows four times as long, to test extrapolation;
# - `difficulty` of an example (here its longest chain) and `bands`: accuracy by difficulty in
#   tables;
# - `known_depth`: how many iterations the rule needs at least, if you know it; figures show it.
#
# `generate` must be a pure function of the fields and the seed. Fields of the dataclass are
# settings of the task.

# %%
STANDING, GAP, PUSHED = 0, 1, 2


@eqloop.tasks.register
@dataclasses.dataclass(frozen=True)
class Dominoes(eqloop.Task):
    """Which dominoes of a row fall?"""

    length: int = 16

    channels, classes, attention = 3, 2, 5
    labels = ("row", "falls")

    @property
    def grid(self):
        return (self.length,)

    def generate(self, rows, seed, *, progress=None):
        random = np.random.default_rng(seed)
        row = random.choice(3, (rows, self.length), p=[0.8, 0.1, 0.1])
        falls = np.zeros_like(row)
        falling, chain, longest = np.zeros((3, rows), int)
        for cell in range(self.length):
            falling = (row[:, cell] == PUSHED) | ((row[:, cell] == STANDING) & (falling == 1))
            chain = np.where(row[:, cell] == STANDING, (chain + 1) * falling, 0)
            longest = np.maximum(longest, chain)
            falls[:, cell] = falling
        return eqloop.Split.of(row, falls, difficulty=longest)

    def encode(self, tokens):
        return jax.nn.one_hot(tokens, 3)

    def harder(self):
        return dataclasses.replace(self, length=4 * self.length)

    def bands(self, split):
        long = split.difficulty >= 8
        return {"chains below 8": ~long, "chains from 8": long}

    def known_depth(self, split, attention):
        return None if attention == "full" else split.difficulty / (attention // 2)


# %% [markdown]
# Look at examples before you train: most faults of a task are seen here. The longest chain of a
# row needs half as many iterations as it has dominoes.


# %%
def row_of(split, number):
    return "".join("|.>"[token] for token in split.inputs[number])


def falls_of(answer):
    return "".join(".x"[value] for value in answer)


examples = Dominoes().generate(4, seed=0)
for number in range(4):
    print(row_of(examples, number), f"  longest chain {examples.difficulty[number]:.0f}")
    print(falls_of(examples.targets[number]))
    print()

# %% [markdown]
# ## Training
#
# A task without a preset of its own begins with a general `quick`. The model here is half as wide
# as that. `train` makes the splits from the generator, and writes the run folder
# `runs/dominoes-001`.
#
# `train.burn_in` decides whether the loop keeps its answer when it runs for longer: the loss
# begins at a random iteration up to this one, so the model has to be right from states that are
# nearly done, too. With 6 in place of 12 the share of long rows solved was 91 % after 16
# iterations and 62 % after 64; with 12 it stays.

# %%
settings = [
    "task.rows=2000",
    "model.width=32",
    "solver.steps=6",  # iterations that the loss sees ...
    "train.burn_in=12",  # ... after up to 12 without a gradient
    "train.steps=150",
    "train.batch=32",
    "train.lr=3e-3",
    "train.warmup=20",
    "train.ema=0.95",
    "train.validate_every=75",
    "train.validation_rows=50",
    "train.validation_iterations=32",
]
make_task = eqloop.tasks.make_task
spec = eqloop.run.resolve("dominoes", "quick", settings, make_task=make_task)
task = make_task(spec.task_name, spec.task_fields)
outcome = eqloop.train.train(spec, task, None, console=Console())
run = outcome.run
print(outcome.status, "after", outcome.step, "steps:", run.path)

# %% [markdown]
# ## Has it learnt the rule?
#
# `measure` runs the trained loop on a split and keeps the result in the run folder, where the
# report finds it. The test split has rows as long as in training, the hard split rows four times
# as long, with longer chains. A loop that has learnt the rule solves them too if it runs for
# longer; one that has learnt rows of 16 cells does not, however long it runs.

# %%
model, task, spec = eqloop.load(run.path)
splits = task.load().splits
results = {
    name: eqloop.evaluate.measure(
        run, outcome.best.step, model, task, name, splits[name], iterations=64, rows=100
    )
    for name in ("test", "hard")
}
for name, result in results.items():
    bands = ", ".join(f"{band}: {curve.last:.0%}" for band, curve in result.bands.items())
    print(f"{name}: {result.overall.last:.0%} of the rows solved after 64 iterations ({bands})")

# %%
eqloop.report.accuracy_figure(
    {name: result.overall.exact for name, result in results.items()},
    results["test"].iterations,
    trained=eqloop.run.trained_iterations(spec),
    depths={name: result.overall.known_depth for name, result in results.items()},
    score="rows solved",
)

# %% [markdown]
# ## Watch one row fall
#
# The row of the hard split with the longest chain. Each line of the picture is the answer after
# one more iteration: the chains grow to the right by at most two cells at a time, and stop at
# gaps.

# %%
longest = int(np.argmax(splits["hard"].difficulty))
row = splits["hard"].take(slice(longest, longest + 1))
trace = eqloop.evaluate.trace(model, task, row.inputs[0], iterations=32, rtol=1e-4)
print(row_of(row, 0))
print(falls_of(trace.predictions[-1]))
print("right" if task.check(row, trace.predictions[-1])[0] else "wrong")

picture = trace.predictions.astype(int)  # 0 stands, 1 falls
picture[:, row.inputs[0] == GAP] = 2
picture[(picture == 1) & (row.inputs[0] == PUSHED)] = 3
colours = ListedColormap(["#d6e4f0", "#e07b39", "#ffffff", "#8c2d04"])
figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
axes.imshow(
    picture,
    aspect="auto",
    cmap=colours,
    vmin=0,
    vmax=3,
    interpolation="nearest",
    extent=(-0.5, 63.5, len(picture) + 0.5, 0.5),
)
axes.set_title("dark: pushed; orange: falls; blue: stands; white: gap", loc="left", fontsize=10)
axes.set(xlabel="cell", ylabel="iteration")
axes.set_xticks(np.arange(-0.5, 64), minor=True)
axes.grid(which="minor", axis="x", color="white", linewidth=1)
axes.tick_params(which="minor", length=0)

# %% [markdown]
# ## A report
#
# `read_results` takes runs and sweeps; `write_results` writes tables (Markdown, CSV, LaTeX,
# JSON), figures, and one page, `report.html`, that opens from disk. With several runs, for
# example three seeds, every number has its interval.

# %%
report = eqloop.report.read_results([run.path])
files = eqloop.report.write_results(report, Path("report"))
print(*files, sep="\n")
print()
print(Path("report", "results.md").read_text().split("## By difficulty")[0])

# %% [markdown]
# ## With the commands
#
# Save the cell of the class, with its imports, as `dominoes.py`. All commands then take it by
# file and class:
#
# - `!eqloop train --task dominoes.py:Dominoes --set task.rows=2000 --set model.width=32`
# - `!eqloop stability runs/dominoes-002 --task dominoes.py:Dominoes` for fixed points and a
#   player.
#
# A run records the hash of that file, and runs no code that you do not name.

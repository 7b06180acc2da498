"""What a training step costs: work counted from its settings, times a rate for each kind of work.

`work` counts, for the busiest process: floating-point operations, bytes read and moved,
layers launched, samples handled. It is arithmetic, the same on every machine. `Rates` says
what one of each costs in seconds, and a step is the sum of products; nothing overlaps.
`fit` finds the rates of the machine that a table was measured on, `Card.rates` writes those
of a GPU down from its data sheet. `memory` is the same for bytes.

Left out: waiting for the slowest rank or for rewards, evaluation, checkpoints, the spread
of lengths (all completions are as long as the mean; drawing goes on to the longest).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from grpo_core.passes import micro_batches
from grpo_core.passes.head import KEEP
from grpo_core.rollout.reading import packing_pays

# --- what is asked for ------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A Llama-like model. Widths in values."""

    layers: int
    hidden: int
    intermediate: int
    width: int
    """Of all heads together."""
    key_value_width: int
    """Of all key heads together, as of all value heads."""
    vocabulary: int
    tied: bool = False

    @property
    def body(self) -> int:
        """Parameters that every token read goes through."""
        attention = 2 * self.hidden * (self.width + self.key_value_width)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head(self) -> int:
        """Parameters that every token drawn or learnt from goes through as well."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        return self.body + self.head * (1 if self.tied else 2)

    @property
    def kept(self) -> int:
        """Values of one token that a layer keeps for the backward pass: both norms (in
        float32: twice), queries and keys before and after rotation, values, the heads'
        output, the residual between, and the four of the gated feed-forward."""
        return 7 * self.hidden + 3 * self.width + 3 * self.key_value_width + 4 * self.intermediate


@dataclass(frozen=True)
class Load:
    """One step, and how it is divided. Lengths in tokens."""

    prompts: int
    """Groups a step, of all processes together."""
    group: int
    prompt: int
    completion: int
    """The longest."""
    mean: float | None = None
    """Of the completions; None: all are as long as the longest."""
    processes: int = 1
    budget: int = 768
    """`train.tokens_per_micro_batch`."""
    batch: int = 256
    """`rollout.batch_size`."""
    iterations: int = 1
    """`grpo.iterations`: visits to the rollout, each with one optimizer step."""
    checkpointing: bool = False
    """`train.gradient_checkpointing`."""

    @property
    def samples(self) -> int:
        return self.prompts * self.group

    @property
    def groups(self) -> int:
        """Of the process that has most of them: a group is never split."""
        return math.ceil(self.prompts / self.processes)

    @property
    def length(self) -> float:
        return self.completion if self.mean is None else self.mean

    @property
    def abreast(self) -> int:
        """Completions that are drawn as one row, behind one cache of their prompt."""
        return self.group if packing_pays(self.group, self.prompt, self.completion) else 1


@dataclass(frozen=True)
class Storage:
    """In which form a process holds the model. Bytes a parameter."""

    weight: int = 4
    gradient: int = 4
    optimizer: int = 8
    """AdamW: two moments in float32."""
    drawing: int = 4
    """Weights, and values in the cache, while completions are drawn."""
    sharded: bool = False
    """FSDP2: of weights, gradients and optimizer each process holds its part."""


DDP = Storage()
"""A whole copy in every process, in float32 (the config's default)."""
FSDP2 = Storage(drawing=2, sharded=True)
"""Parts in float32, gathered in bfloat16."""

# --- counting ---------------------------------------------------------------------------

DRAW = ("decode_layers", "draw_flops", "weights_read", "cache_read", "draw_moved")
UPDATE = ("pass_layers", "train_flops", "attention_flops", "updated", "moved", "messages")
REST = ("steps", "samples", "exchanged")
BUCKET = 25 * 2**20
"""Bytes of gradients that DDP sends at once (torch's default)."""


def work(shape: Shape, load: Load, storage: Storage = DDP) -> dict[str, float]:
    """How much of each kind of work the busiest process has in one step.

    | | |
    | --- | --- |
    | `decode_layers` | layers started one after the other while drawing, token after token |
    | `draw_flops` | prompts read once a group, every completion token once |
    | `weights_read` | bytes: all weights once a decode step |
    | `cache_read` | bytes: at every token drawn, keys and values of all before it in its row: one completion, or those of a group behind one prompt |
    | `draw_moved` | bytes received to have whole weights for drawing (sharded) |
    | `pass_layers` | layers started in forward and backward passes |
    | `train_flops` | linear layers and head, forward and backward |
    | `attention_flops` | the square of each packed row |
    | `updated` | parameters times optimizer steps |
    | `moved` | bytes a process receives: gradients once an update (DDP); weights twice and gradients once a *pass* (sharded) |
    | `messages` | one after the other in those collectives, as a ring makes them |
    | `steps`, `samples` | 1, and all samples: every process handles the whole rollout |
    | `exchanged` | bytes of other processes' samples that a process receives |
    """
    others = (load.processes - 1) / load.processes
    groups, rows = load.groups, load.groups * load.group
    batches = math.ceil(groups / max(1, load.batch // load.group))
    drawn = rows * load.length
    decode = batches * load.completion
    # In a row of several completions each is compared with the tokens of all, and the
    # prompt is read for all at once
    pairs = drawn * (load.prompt + load.abreast * load.length / 2)
    read_tokens = pairs / load.abreast
    prefill = groups * load.prompt
    parameters = shape.parameters
    passes = rows_of_passes(shape, load)
    read = sum(count * length for count, length, _ in passes)
    squares = sum(count * length**2 for count, length, _ in passes)
    again = 4 / 3 if load.checkpointing else 1.0
    head = sum(
        (8 if targets * shape.vocabulary > KEEP else 6) * shape.head * targets
        for _, _, targets in passes
    )
    visits = load.iterations
    if storage.sharded:
        moved = others * parameters * (2 * storage.drawing + storage.gradient) * len(passes)
        messages = 3 * (load.processes - 1) * (shape.layers + 1) * len(passes)
    else:
        size = parameters * storage.gradient
        moved = 2 * others * size
        messages = 2 * (load.processes - 1) * math.ceil(size / BUCKET)
    held = parameters / load.processes if storage.sharded else parameters
    return {
        "decode_layers": shape.layers * decode,
        "draw_flops": 2 * shape.body * (prefill + drawn)
        + 2 * shape.head * drawn
        + 4 * shape.layers * shape.width * (pairs + prefill * load.prompt / 2),
        "weights_read": storage.drawing * (shape.body + shape.head) * decode,
        "cache_read": cache_bytes(shape, storage) * read_tokens,
        "draw_moved": others * storage.drawing * parameters if storage.sharded else 0.0,
        "pass_layers": visits * shape.layers * len(passes),
        "train_flops": visits * (6 * again * shape.body * read + head),
        "attention_flops": visits * again * 12 * shape.layers * shape.width * squares,
        "updated": visits * held,
        "moved": visits * moved,
        "messages": visits * messages,
        "steps": 1.0,
        "samples": load.samples,
        "exchanged": others * load.samples * sample_bytes(load),
    }


def rows_of_passes(shape: Shape, load: Load) -> list[tuple[int, float, float]]:
    """Of each pass of the busiest process: rows, tokens in each, tokens learnt from.

    Cut by the engine's own `micro_batches`, groups packed behind one prompt.
    """
    length = max(1, round(load.length))
    cut = micro_batches(
        [load.prompt] * load.groups,
        [[length] * load.group] * load.groups,
        load.budget,
        "mask",
        hidden_size=shape.hidden,
    )
    return [
        (
            len(entries),
            load.prompt + max(len(indices) for _, indices in entries) * (load.length - 1),
            load.length * sum(len(indices) for _, indices in entries),
        )
        for entries in cut
    ]


def cache_bytes(shape: Shape, storage: Storage) -> int:
    """Of keys and values of one token."""
    return 2 * shape.layers * shape.key_value_width * storage.drawing


def sample_bytes(load: Load) -> float:
    """Of one sample as processes send it to each other, a pickle of Python objects: 9 bytes
    each for log-probability and entropy of a token, 3 for its number, about 4 for its text;
    the prompt's numbers and text once a group (docs/distributed.md has it measured)."""
    return 430 + 26 * load.length + 7 * load.prompt / load.group


# --- seconds ----------------------------------------------------------------------------

Rates = Mapping[str, float]
"""Seconds one unit of each kind of `work` takes; what is missing takes none."""


@dataclass(frozen=True)
class Seconds:
    """Of one step."""

    draw: float
    update: float
    rest: float
    """Exchange, advantages, metrics, samples on disk."""

    @property
    def total(self) -> float:
        return self.draw + self.update + self.rest


def seconds(amounts: Mapping[str, float], rates: Rates) -> Seconds:
    """The model: each part of a step is a sum of amounts times rates."""

    def part(names: Sequence[str]) -> float:
        return sum(amounts[name] * rates.get(name, 0.0) for name in names)

    return Seconds(part(DRAW), part(UPDATE), part(REST))


# --- memory -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """Bytes that are not known from the settings alone."""

    fixed: float = 0.0
    """Whatever the step: libraries, the allocator's slack."""
    activation: float = 4.0
    """Of one value kept for the backward pass."""
    cache: float = 1.0
    """Of one byte of keys and values, copies made on the way included."""


@dataclass(frozen=True)
class Phases:
    """Bytes that are needed besides, while drawing and while learning."""

    state: float
    """Gradients, optimizer, communication buffers."""
    cached: float
    """Keys and values of a full batch."""
    gathered: float
    """Whole weights for drawing, where they are sharded."""
    values: float
    """Kept for the backward pass of the largest pass."""
    logits: float


def phases(shape: Shape, load: Load, storage: Storage = DDP) -> Phases:
    share = 1 / load.processes if storage.sharded else 1.0
    state = shape.parameters * (storage.gradient + storage.optimizer) * share
    if load.processes > 1 and not storage.sharded:
        state += shape.parameters * storage.gradient  # DDP's buckets
    rows = min(load.batch // load.group, load.groups) * load.group
    passes = rows_of_passes(shape, load)
    tokens, targets = max((count * length, targets) for count, length, targets in passes)
    layers = shape.layers * (shape.hidden if load.checkpointing else shape.kept)
    if load.checkpointing:
        layers += shape.kept  # of the one layer that is made again
    return Phases(
        state,
        rows * (load.prompt / load.abreast + load.completion) * cache_bytes(shape, storage),
        shape.parameters * storage.drawing if storage.sharded else 0.0,
        tokens * layers,
        8 * min(targets * shape.vocabulary, KEEP),
    )


def memory(found: Phases, held: Held) -> float:
    """Peak bytes of a process above the loaded weights: drawing and learning take turns."""
    drawing = held.cache * found.cached + found.gathered
    return held.fixed + found.state + max(drawing, held.activation * found.values + found.logits)


# --- fitting ----------------------------------------------------------------------------

FITTED = {
    "draw": ("decode_layers", "draw_flops", "cache_read"),
    "update": ("pass_layers", "train_flops", "attention_flops", "updated", "moved"),
    "rest": ("steps", "samples", "exchanged"),
}
"""What a table of one model can tell apart: reading the weights goes with the decode steps,
messages with the bytes they carry."""


def fit(measured: Sequence[tuple[Mapping[str, float], Seconds]]) -> dict[str, float]:
    """The rates, none negative, that come nearest to measured steps, in relative terms."""
    found: dict[str, float] = {}
    for part, names in FITTED.items():
        target = np.array([getattr(spent, part) for _, spent in measured])
        rows = np.array([[amounts[name] for name in names] for amounts, _ in measured])
        weight = 1 / np.maximum(target, 1e-9)
        rates = least_squares(rows * weight[:, None], target * weight)
        found |= dict(zip(names, map(float, rates), strict=True))
    return found


def fit_memory(measured: Sequence[tuple[Phases, float]]) -> Held:
    """The same for bytes. Which phase is the higher one depends on the answer: guess, fit,
    look again, until it stays; guessing that drawing is higher at none of the points, at the
    one with the largest cache beside its activations, at the two, and so on."""
    seen: list[tuple[float, Held]] = []
    target = np.array([peak - found.state for found, peak in measured])
    weight = 1 / np.array([peak for _, peak in measured])
    order = sorted(found.cached / max(found.values, 1.0) for found, _ in measured)
    for highest in [math.inf, *reversed(order)]:
        learning = [found.cached / max(found.values, 1.0) < highest for found, _ in measured]
        for _ in range(20):
            rows, known = [], []
            for (found, _), learns in zip(measured, learning, strict=True):
                rows.append([1.0, found.values if learns else 0.0, 0.0 if learns else found.cached])
                known.append(found.logits if learns else found.gathered)
            held = Held(
                *map(
                    float,
                    least_squares(np.array(rows) * weight[:, None], (target - known) * weight),
                )
            )
            if held.cache == 0:  # drawing was the higher phase nowhere
                held = Held(held.fixed, held.activation, 1.0)
            miss = [memory(found, held) / peak - 1 for found, peak in measured]
            seen.append((float(np.square(miss).sum()), held))
            again = [
                held.activation * found.values + found.logits
                >= held.cache * found.cached + found.gathered
                for found, _ in measured
            ]
            if again == learning:
                break
            learning = again
    return min(seen, key=lambda each: each[0])[1]


def least_squares(
    rows: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    target: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """x >= 0 with the least ||rows x - target||: the best of the unbounded solutions over
    every set of columns, which is the exact answer and quick for a handful of them."""
    scale = np.abs(rows).max(0)
    columns = [i for i in range(rows.shape[1]) if scale[i] > 0]
    best, least = np.zeros(rows.shape[1]), float(target @ target)
    for size in range(1, len(columns) + 1):
        for chosen in map(list, combinations(columns, size)):
            part = rows[:, chosen] / scale[chosen]
            x = np.linalg.lstsq(part, target, rcond=None)[0]
            miss = float(np.square(part @ x - target).sum())
            if (x >= 0).all() and miss < least * (1 - 1e-9):
                best, least = np.zeros(rows.shape[1]), miss
                best[chosen] = x / scale[chosen]
    return best


# --- a card from its data sheet -----------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """A GPU and the network around it: published figures, and what is assumed of them."""

    name: str = "H100 SXM"
    bfloat16: float = 989e12
    """FLOP/s, dense (NVIDIA H100 data sheet)."""
    float32: float = 67e12
    """FLOP/s (same)."""
    memory: float = 80e9
    """Bytes (same)."""
    bandwidth: float = 3.35e12
    """Bytes/s of its memory (same)."""
    nvlink: float = 450e9
    """Bytes/s in one direction, half of the 900 GB/s of the data sheet."""
    node: int = 8
    """GPUs that NVLink connects."""
    infiniband: float = 8 * 50e9
    """Bytes/s in and out of a node: eight adapters of 400 Gb/s (NVIDIA DGX H100 data sheet)."""
    used: float = 0.4
    """Assumed share of the FLOP/s; Llama 3 reached 0.38 to 0.43 (arXiv 2407.21783, table 4)."""
    reached: float = 0.7
    """Assumed share of every bandwidth."""
    decode_layer: float = 0.5e-3
    """Assumed seconds to start a layer's kernels from Python, a decode step."""
    message: float = 10e-6
    """Assumed seconds of one message of a collective."""
    network: float = 1e9
    """Assumed bytes/s of the gloo exchange."""
    unpack: float = 93e6
    """Bytes/s at which a core reads the pickles it received; measured (docs/distributed.md)."""
    sample: float = 0.5e-3
    """Assumed seconds of Python a sample that every process spends."""
    step: float = 0.05
    """Assumed seconds a step, whatever its size."""
    held: Held = field(default_factory=lambda: Held(2e9, 3.0, 1.0))
    """Assumed: 2 GB of context and slack; activations in bfloat16, the norms' in float32."""

    def rates(self, storage: Storage, processes: int) -> dict[str, float]:
        """Seconds a unit of `work`. Launches of training passes hide behind their arithmetic."""
        link = self.nvlink if processes <= self.node else min(self.nvlink, self.infiniband)
        drawing = self.bfloat16 if storage.drawing == 2 else self.float32
        moved = 1 / (link * self.reached)
        read = 1 / (self.bandwidth * self.reached)
        learning = 1 / (self.bfloat16 * self.used)
        return {
            "decode_layers": self.decode_layer,
            "draw_flops": 1 / (drawing * self.used),
            "weights_read": read,
            "cache_read": read,
            "draw_moved": moved,
            "train_flops": learning,
            "attention_flops": learning,
            # weights, gradients and moments are read once, all but gradients written
            "updated": (2 * storage.weight + storage.gradient + 2 * storage.optimizer) * read,
            "moved": moved,
            "messages": self.message,
            "steps": self.step,
            "samples": self.sample,
            "exchanged": 1 / self.network + 1 / self.unpack,
        }


H100 = Card()
SMALL = Shape(24, 896, 4864, 896, 128, 151_936, tied=True)
"""Qwen2.5-0.5B."""
LARGE = Shape(28, 3584, 18_944, 3584, 512, 152_064)
"""Qwen2.5-7B."""

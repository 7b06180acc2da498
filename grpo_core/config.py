"""The config: YAML, overridden on the command line, checked before a model is loaded.

OmegaConf reads and merges, pydantic checks. Every mistake is a ConfigError of
one line. No torch here: a mistake is reported in well under a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from grpo_core.errors import ConfigError, from_validation, nearest
from grpo_core.plugins import Host, load_plugins
from grpo_core.rubric import Rubric, RubricConfig

BACKENDS = ("continuous", "vllm")
"""Values of `rollout.backend` that need no plugin."""
OBJECTIVES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")


class Section(BaseModel):
    """A section of the config: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class LoraConfig(Section):
    """Low-rank adapters in place of training all weights (peft; arXiv 2106.09685)."""

    rank: int = Field(default=16, gt=0)
    """Of the adapters."""
    alpha: int = Field(default=32, gt=0)
    """The adapters' output is scaled by alpha / rank."""
    targets: str | list[str] = "all-linear"
    """The modules that get one: names, or all linear ones but the head."""


class ModelConfig(Section):
    """The policy to start from."""

    name: str
    """A directory saved with `save_pretrained`, or a model id of the Hub."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights. In bfloat16 small updates are rounded away; `train.precision`
    makes the arithmetic fast without that."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """The implementation of attention; transformers' own choice when not given."""
    lora: LoraConfig | None = None
    """Train adapters instead of the weights; the reference is then the model without them."""


def _check_prompt(value: object) -> object:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence) and value:
        for message in value:
            if not (isinstance(message, dict) and set(message) == {"role", "content"}):
                break
        else:
            return value
    raise PydanticCustomError(
        "prompt", "expected a template, or a list of messages with role and content"
    )


Prompt = Annotated[str | list[dict[str, str]] | None, BeforeValidator(_check_prompt)]


class DataConfig(Section):
    """Where rows come from, and how a row becomes a prompt."""

    path: str
    """A .jsonl, .json or .parquet file, or a dataset id of the Hub; what `loader` makes of it."""
    loader: str | None = None
    """A plugin's data loader, by name, in place of the built-in ones."""
    split: str = "train"
    """Of a Hub dataset."""
    subset: str | None = None
    """Of a Hub dataset: its configuration's name."""
    prompt: Prompt = None
    """A template over the columns, `{question}`, for a plain prompt; a list of
    messages with templates for a chat prompt, rendered by the tokenizer's chat
    template. Not given: the column `prompt`, a string or a list of messages."""
    limit: int | None = Field(default=None, gt=0)
    """Use only the first so many rows."""


class GrpoConfig(Section):
    """The objective; `algorithm/` says what each term means."""

    group_size: int = Field(default=8, ge=2)
    """Completions drawn for each prompt."""
    objective: str = "dapo"
    """The loss: grpo, bnpo, dr_grpo, dapo, luspo, cispo, sapo, vespo (docs/engine.md tells
    them apart), or one that a plugin registers."""
    level: Literal["token", "sequence"] = "token"
    """Whether ratios are taken a token or a whole sequence (GSPO)."""
    epsilon: float = Field(default=0.2, gt=0)
    """How far below 1 a ratio still counts."""
    epsilon_high: float | None = Field(default=None, gt=0)
    """How far above 1; `epsilon` when not given. For cispo the cap on ratios itself."""
    delta: float | None = Field(default=None, gt=1)
    """Two-sided clipping: ratios are first capped here."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL to the frozen reference; 0 loads no reference."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """The estimate of the KL: log-ratio, half its square, or the one that is never negative."""
    kl_bias_correction: bool = False
    """Multiply the KL estimate by the ratio, for exact gradients off-policy."""
    sync_reference_every: int = Field(default=0, ge=0)
    """Steps after which the reference becomes the policy (iterative GRPO); 0: never."""
    entropy_coef: float = 0.0
    """Weight of the bonus on the mean entropy of the tokens learnt from."""
    top_entropy: float = Field(default=1.0, gt=0, le=1)
    """Learn only from this share of tokens, those drawn from the highest entropies."""
    iterations: int = Field(default=1, ge=1)
    """Updates on the same rollouts (DeepSeekMath's mu)."""
    minibatches: int = Field(default=1, ge=1)
    """Parts of whole groups that a rollout is cut into, one update each."""
    dynamic_sampling: int = Field(default=0, ge=0)
    """Rounds in which groups without signal are replaced by fresh prompts (DAPO)."""
    scale: Literal["group", "batch", "none"] = "group"
    """What advantages are divided by: the group's or batch's deviation, or nothing."""
    mask_truncated: bool = False
    """Leave completions that were cut off out of the loss."""


class CorrectionConfig(Section):
    """Importance weights for tokens that another program drew (docs/rollouts.md)."""

    how: Literal["auto", "none", "truncate", "mask"] = "auto"
    """Ratios of the trainer's probability to the sampler's weigh the loss: limited to
    [floor, cap], or 0 beyond. `auto`: none for the built-in sampler, truncate for others."""
    level: Literal["token", "sequence"] = "token"
    """The ratio of each token, or the product over a completion at all of its tokens."""
    cap: float | None = Field(default=2.0, gt=0)
    """The largest ratio; none: no limit."""
    floor: float | None = Field(default=None, ge=0)
    """The smallest ratio."""


class RolloutConfig(Section):
    """How completions are drawn."""

    backend: str | None = None
    """In place of the built-in sampler: `continuous` (transformers' continuous batching),
    `vllm` (a server), or a plugin's backend, by name."""
    server: str | None = Field(default=None, pattern=r"^https?://[^/]")
    """Of the backend vllm: where it listens, as in http://localhost:8000."""
    weights_dir: str | None = None
    """Of the backend vllm: a folder that it sees under the same path, for the weights after
    each update (/dev/shm/NAME on one machine); the run's folder when not given."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Of the backend vllm: what one request may take."""
    patience_s: float = Field(default=120.0, ge=0)
    """Of the backend vllm: how long after its first failure a request is tried again."""
    correction: CorrectionConfig = CorrectionConfig()
    """What is done about it when the sampler's probabilities are not the trainer's."""
    max_tokens: int = Field(default=256, gt=0)
    """Tokens a completion may have."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits, in drawing and in training alike."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest tokens that together reach this probability."""
    top_k: int = Field(default=0, ge=0)
    """Draw among the k likeliest tokens; 0: among all."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Draw among tokens at least this share as likely as the likeliest (arXiv 2407.01082)."""
    batch_size: int = Field(default=256, gt=0)
    """Completions drawn at a time; bounds the memory of the cache."""

    @property
    def corrects(self) -> bool:
        """Whether tokens get importance weights."""
        how = self.correction.how
        return self.backend is not None if how == "auto" else how != "none"


class EngineConfig(Section):
    """What makes the engine fast. Each changes how long a step takes, not what it learns."""

    shared_prompt: Literal["auto", "blocks", "mask", "key_value", "plain"] = "auto"
    """How a group's prompt is read in training: once in a row with all its completions (where
    attention computes only blocks that are seen, or goes by a mask), once as a cache, or with
    each completion. `auto`: the first of these that a check at the start
    finds exact for the model."""
    fused_head: bool = True
    """Logits only where a completion token is predicted, in chunks, never kept whole."""
    shared_prefill: bool = True
    """Read a group's prompt once in drawing."""
    drop_finished: bool = True
    """Completions that have ended leave the batch being drawn."""
    packed_weights: bool = True
    """On a CPU, copy the weights once a rollout into the layout that few rows are multiplied by
    fastest; takes as much memory as the weights while completions are drawn."""
    skip_silent: bool = True
    """No passes for samples that can change nothing (advantage 0, no KL, no entropy bonus)."""
    sort_by_length: bool = True
    """Put samples of similar length into one pass."""


class TrainConfig(Section):
    """The loop."""

    prompts_per_step: int = Field(default=16, gt=0)
    """Groups a step learns from."""
    steps: int = Field(default=500, gt=0)
    """Rollouts, each followed by `grpo.iterations` updates."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Of AdamW, after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises to its full value."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """What the learning rate does after the warm-up, to zero at the last step."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are shortened to this."""
    tokens_per_micro_batch: int | None = Field(default=None, gt=0)
    """Padded tokens in one forward and backward pass; bounds memory, changes no result. When
    not given 16,384, and 832 on a CPU, where memory is the tighter; more behind prompts of over
    half of that, so that a group's passes do not read its prompt too often."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the arithmetic in training. `auto`: bfloat16 where the hardware has it fast."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the training passes (torch.compile); pays on a GPU."""
    seed: int = 0
    """Of the rows' order and of every drawn token."""
    save_every: int = Field(default=50, ge=0)
    """Steps between checkpoints; 0: only at the end."""
    keep: int = Field(default=3, gt=0)
    """How many checkpoints stay."""
    stall_s: float | None = Field(default=None, gt=0)
    """Of several processes: seconds without any progress, beyond twice the longest deadline of
    a reward, after which the run is ended with the reason. Not given: 40, and 300 with
    `compile`, since a compilation is no progress."""
    max_failures: float = Field(default=0.5, gt=0, le=1)
    """Stop when more than this share of a step's scores end in error or invalid, or of its samples
    is excluded because a reward failed or timed out."""
    output_dir: str | None = None
    """Instead of `runs/<name>`; relative to where you are."""
    trackers: list[Literal["tensorboard", "wandb"]] = []
    """Where metrics go besides metrics.jsonl, through accelerate."""


class EvalConfig(Section):
    """Held-out data: judged before, during and after training."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    path: str
    """As in `data`."""
    loader: str | None = None
    """As in `data`."""
    split: str = "test"
    """As in `data`."""
    subset: str | None = None
    """As in `data`."""
    prompt: Prompt = None
    """As in `data`, whose template is used when none is given here."""
    limit: int | None = Field(default=None, gt=0)
    """As in `data`."""
    every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0: only before and after."""
    pass_: str | None = Field(default=None, alias="pass")
    """pass@1 is the share of samples on which this reward gives its maximum (1.0
    where it states no range); the first reward of the rubric when not given."""


class ScoringConfig(Section):
    """How rewards are run."""

    workers: int | None = Field(default=None, gt=0)
    """Worker processes; as many as cores when not given."""
    memory_mb: int = Field(default=2048, ge=0)
    """Of memory that a worker may use; 0: no limit."""
    executor: Literal["local", "ray"] = "local"
    """Where workers run: on this machine, or as actors of a Ray cluster."""


class PluginsConfig(Section):
    """Which plugins are loaded."""

    block: list[str] = []
    """Names of plugins that are not loaded."""


class Config(Section):
    """A whole config."""

    name: str | None = Field(default=None, pattern=r"^[^/]+$")
    """Of the run, whose folder is `runs/<name>`; the config file's name when not given."""
    model: ModelConfig
    data: DataConfig
    rubric: RubricConfig
    grpo: GrpoConfig = GrpoConfig()
    rollout: RolloutConfig = RolloutConfig()
    engine: EngineConfig = EngineConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig | None = None
    scoring: ScoringConfig = ScoringConfig()
    plugins: PluginsConfig = PluginsConfig()


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config file as a mapping, `key.path=value` overrides applied.

    Raises ConfigError when the file is missing, is not YAML, or an override
    does not fit into it.
    """
    if not path.is_file():
        raise ConfigError("there is no such config file", file=str(path))
    try:
        config = OmegaConf.load(path)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"not valid YAML: {' '.join(str(error).split())}", file=str(path)
        ) from None
    if not OmegaConf.is_dict(config):
        raise ConfigError("expected a mapping of sections at the top", file=str(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r} is no override; write key.path=value")
        try:
            OmegaConf.update(config, key, OmegaConf.create({"value": yaml_value(value)}).value)
        except (OmegaConfBaseException, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"override {override!r} does not fit: {str(error).splitlines()[0]}", (key,)
            ) from None
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0], file=str(path)) from None
    return cast(dict[str, Any], plain)


def yaml_value(text: str) -> Any:
    """A command-line value as YAML reads it, numbers such as 1e-6 included."""
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
    except (OmegaConfBaseException, yaml.YAMLError):
        return text


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a config. Raises ConfigError with file and key path."""
    raw = read(path, overrides)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise from_validation(error, Config).within(file=str(path)) from None
    try:
        _check_together(config)
    except ConfigError as error:
        raise error.within(file=str(path)) from None
    return config


def _check_together(config: Config) -> None:
    """Refuse what makes no sense of values that are right one by one."""
    grpo = config.grpo
    if grpo.objective == "cispo" and grpo.epsilon_high is None:
        raise ConfigError("cispo needs it, the cap on ratios (as in 5.0)", ("grpo", "epsilon_high"))
    _check_rollout(config.rollout)
    if grpo.top_entropy < 1 and config.rollout.backend in BACKENDS:
        raise ConfigError(
            f"needs entropies, and rollout.backend {config.rollout.backend} tells none",
            ("grpo", "top_entropy"),
        )
    if grpo.minibatches > config.train.prompts_per_step:
        raise ConfigError(
            f"{grpo.minibatches} parts of whole groups need as many prompts, and "
            f"train.prompts_per_step is {config.train.prompts_per_step}",
            ("grpo", "minibatches"),
        )
    if grpo.sync_reference_every and not grpo.beta:
        raise ConfigError(
            "there is no reference to synchronise: grpo.beta is 0", ("grpo", "sync_reference_every")
        )
    if grpo.sync_reference_every and config.model.lora:
        raise ConfigError(
            "with model.lora the reference is the model without adapters and cannot move",
            ("grpo", "sync_reference_every"),
        )


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A dumped config with dotted keys and plain values."""
    dotted: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            dotted |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float, str, bool)):
            dotted[f"{prefix}{key}"] = value
        else:
            dotted[f"{prefix}{key}"] = str(value)
    return dotted


def _check_rollout(rollout: RolloutConfig) -> None:
    if rollout.backend == "vllm" and rollout.server is None:
        raise ConfigError("vllm needs it, as in http://localhost:8000", ("rollout", "server"))
    if rollout.backend != "vllm" and rollout.server is not None:
        raise ConfigError("is of rollout.backend: vllm alone", ("rollout", "server"))
    if rollout.backend in BACKENDS:
        for key, neutral in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
            if getattr(rollout, key) != neutral:
                raise ConfigError(
                    f"rollout.backend {rollout.backend} draws from all tokens: the "
                    "log-probabilities it gives would be of those left over",
                    ("rollout", key),
                )
    cap, floor = rollout.correction.cap, rollout.correction.floor
    if cap is not None and floor is not None and floor > cap:
        raise ConfigError(f"is above the cap, {cap:g}", ("rollout", "correction", "floor"))


def host_for(config: PluginsConfig) -> Host:
    """The plugins a config allows."""
    return load_plugins(block=config.block)


def rubric_of(config: Config, path: Path, host: Host) -> Rubric:
    """The rubric of a checked config whose file is `path`."""
    try:
        return Rubric.from_config(config.rubric, host=host, base_dir=path.resolve().parent)
    except ConfigError as error:
        raise error.within("rubric", file=str(path)) from None


def load_rubric(path: Path, overrides: Sequence[str] = ()) -> Rubric:
    """The rubric of a config file that may hold no other section (`grpo score`)."""
    raw = read(path, overrides)
    if "rubric" not in raw:
        raise ConfigError(f"has no section 'rubric'{nearest('rubric', raw)}", file=str(path))
    try:
        rubric = RubricConfig.model_validate(raw["rubric"])
        plugins = PluginsConfig.model_validate(raw.get("plugins") or {})
    except ValidationError as error:
        is_rubric = error.title == RubricConfig.__name__
        raise from_validation(error, RubricConfig if is_rubric else PluginsConfig).within(
            "rubric" if is_rubric else "plugins", file=str(path)
        ) from None
    try:
        return Rubric.from_config(rubric, host=host_for(plugins), base_dir=path.resolve().parent)
    except ConfigError as error:
        raise error.within("rubric", file=str(path)) from None

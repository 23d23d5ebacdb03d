"""The training loop: transformers' Trainer, watched.

After each epoch the validation rows are judged in fp32 and the best epoch's parameters, a few
hundred KB, are kept in memory: no checkpoint of the frozen base is ever written.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from bertd.bitfit import classifier, problems, rows, scores
from bertd.bitfit.config import Progress, TrainConfig

JUDGE_ROWS = 64

Floats = NDArray[np.float32]
Report = Callable[[Progress], None]


@dataclass(slots=True, kw_only=True)
class Best:
    """The metric after each epoch, and the parameters and number of the best (the first such)."""

    history: list[float] = field(default_factory=list)
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    epoch: int = 0


def fit(
    model: classifier.Classifier,
    learn: rows.Examples,
    value: Callable[[], float],
    pad: rows.Pad,
    config: TrainConfig,
    report: Report | None = None,
    *,
    metric: str = "accuracy",
) -> Best:
    """Trains the model in place and leaves it with the parameters of its best epoch.

    `value` judges the model as it is by `metric`; the epoch after which it is highest (for an
    error, lowest) is the best.
    """
    watch = _Watch(model, value, report, metric)
    with tempfile.TemporaryDirectory(prefix="bertd-train-") as scratch:
        trainer = _Trainer(
            model=model,
            args=_arguments(config, scratch),
            train_dataset=learn,
            data_collator=pad,
            optimizers=(_optimizer(model, config), None),
            callbacks=[watch],
            batches=rows.LengthBatches(learn.lengths(), config.batch_rows, config.seed),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    model.load_state_dict(watch.best.parameters, strict=False)
    return watch.best


def judge(
    model: classifier.Classifier,
    examples: rows.Examples,
    pad: rows.Pad,
    rule: problems.Rule | None = None,
) -> dict[str, float]:
    """Every metric over the examples, computed in fp32 and rounded to six digits."""
    problem, rule = examples.problem, rule or problems.Rule()
    found = logits(model, examples, pad)
    decided = [problem.decide(logits_nC, examples.names, rule) for logits_nC in found]
    measured = problem.measure(examples.truth, decided, examples.names)
    return {name: round(value, 6) for name, value in measured.items()}


def logits(model: classifier.Classifier, examples: rows.Examples, pad: rows.Pad) -> list[Floats]:
    """The logits [n, C] that answer for every example, in their order: one row, or one a word."""
    order = sorted(range(len(examples)), key=examples.lengths().__getitem__)
    device = next(model.parameters()).device
    found: list[Floats] = [np.empty(0, np.float32)] * len(order)
    model.eval()
    for start in range(0, len(order), JUDGE_ROWS):
        part = order[start : start + JUDGE_ROWS]
        batch = {name: x.to(device) for name, x in pad([examples[row] for row in part]).items()}
        del batch["labels"]
        with torch.inference_mode():
            answers = model(**batch)["logits"].cpu().numpy()
        for row, answer in zip(part, answers, strict=True):
            logits_LC = answer.reshape(-1, answer.shape[-1])
            found[row] = problems.pick(logits_LC, examples.rows[row].picks)
    return found


def _arguments(config: TrainConfig, scratch: str) -> transformers.TrainingArguments:
    return transformers.TrainingArguments(
        output_dir=scratch,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_rows,
        warmup_steps=config.warmup,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        seed=config.seed,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def _optimizer(model: classifier.Classifier, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW without weight decay: decay would pull biases towards 0, not towards the base."""
    learned = model.trainable()
    heads = [p for name, p in learned.items() if name.startswith("head.")]
    biases = [p for name, p in learned.items() if not name.startswith("head.")]
    groups = [
        {"params": biases, "lr": config.bias_rate},
        {"params": heads, "lr": config.head_rate},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.0)


class _Watch(transformers.TrainerCallback):
    """Judges after each epoch, keeps the best parameters, tells how far the run is."""

    def __init__(
        self,
        model: classifier.Classifier,
        value: Callable[[], float],
        report: Report | None,
        metric: str,
    ) -> None:
        self.best = Best()
        self._metric = metric
        self._sign = -1 if metric in scores.LOWER_IS_BETTER else 1
        self._model = model
        self._value = value
        self._report = report or (lambda progress: None)

    def on_step_end(
        self, args: object, state: transformers.TrainerState, control: object, **_: Any
    ) -> None:
        """Tells the step."""
        self._tell(state, None)

    def on_epoch_end(
        self, args: object, state: transformers.TrainerState, control: object, **_: Any
    ) -> None:
        """Judges, and keeps a copy if no epoch before was as good."""
        value = self._value()
        best = self.best
        if not best.history or all(self._sign * (value - old) > 0 for old in best.history):
            best.parameters = {n: p.detach().clone() for n, p in self._model.trainable().items()}
            best.epoch = len(best.history) + 1
        best.history.append(value)
        self._tell(state, value)

    def _tell(self, state: transformers.TrainerState, value: float | None) -> None:
        epoch = len(self.best.history) + (value is None)
        self._report(
            Progress(
                metric=self._metric,
                step=state.global_step,
                steps=state.max_steps,
                epoch=epoch,
                validation=value,
            )
        )


class _Trainer(transformers.Trainer):
    """The Trainer, fed with batches of like length in an order that depends on their seed alone."""

    def __init__(self, *, batches: rows.LengthBatches, **rest: Any) -> None:
        super().__init__(**rest)
        self._examples: rows.Examples = rest["train_dataset"]
        self._batches = batches

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[rows.Example]:
        """One pass over the training rows."""
        return torch.utils.data.DataLoader(
            self._examples, batch_sampler=self._batches, collate_fn=self.data_collator
        )

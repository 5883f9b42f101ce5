"""The figures at the head of the report, each beside what no skill would reach."""

from satray.evaluate.quality import Quality
from satray.report.page import (
    Headline,
)

NAMES = {
    "map": "mAP",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "ROC AUC",
    "f1_macro": "F1, mean of classes",
    "f2_samples": "F2, mean of tiles",
    "log_loss": "log loss",
    "ece": "calibration error",
}
BY_TASK = {
    "binary": ("map", "auc", "accuracy", "balanced_accuracy", "f1_macro", "log_loss", "ece"),
    "multilabel": (
        "map", "auc", "accuracy", "balanced_accuracy", "f1_macro", "f2_samples", "log_loss", "ece",
    ),
    "multiclass": ("accuracy", "balanced_accuracy", "map", "auc", "f1_macro", "log_loss", "ece"),
}  # fmt: skip


def headlines(quality: Quality) -> list[Headline]:
    """The task's headline figures."""
    task = quality.scored.task
    one = quality.scored.labels.shape[1] == 1
    names = dict(NAMES)
    if one:
        names |= {"map": "average precision", "f1_macro": "F1"}
    if task == "multiclass":
        names["accuracy"] = "accuracy, top-1"
    base = quality.document["baselines"]
    beside = {
        "map": f"{base['map']:.3f} by chance",
        "auc": "0.500 by chance",
        "accuracy": f"{quality.metrics['baseline_accuracy']:.3f} always saying the majority",
        "balanced_accuracy": f"{base['balanced_accuracy']:.3f} by chance",
        "f1_macro": f"{base['f1_macro']:.3f} always saying "
        f"{'the majority' if task == 'multiclass' else 'yes'}",
        "f2_samples": "",
        "log_loss": f"{base['log_loss']:.3f} from prevalence alone",
        "ece": "0 is perfect",
    }
    return [
        Headline(names[name], quality.metrics[name], quality.intervals.get(name), beside[name])
        for name in BY_TASK[task]
    ]

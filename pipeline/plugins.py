"""Your own losses, metrics, transforms, heads and optimizers, in a file of yours.

    from pipeline.plugins import loss

    @loss
    def focal(logits, target): ...

With `plugins: mine.py` in an experiment, `train.loss: focal` is that function (docs/plugins.md).
The file runs where YAML, or the record of a model that was trained with it, names it, and nowhere
else; its digest is part of what a run is.
"""

from pipeline.base.plugins import head, loss, metric, optimizer, transform

__all__ = ["head", "loss", "metric", "optimizer", "transform"]

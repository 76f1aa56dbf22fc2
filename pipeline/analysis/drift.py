"""Do the test pictures look like the training pictures? And where do pictures lie to each other?"""

from typing import NamedTuple

import numpy as np

WIDTH = 50  # principal components: more fit noise, and take minutes


class Drift(NamedTuple):
    """How well a classifier tells test from training pictures it has not seen.

    `auc` is .5 where it cannot; `train` [n] and `test` [m] are its probabilities of "test".
    """

    auc: float
    train: np.ndarray
    test: np.ndarray


def drift(train: np.ndarray, test: np.ndarray) -> Drift:
    """Adversarial validation on features [n, d] and [m, d]: logistic regression in 5 folds."""
    from sklearn.linear_model import LogisticRegression  # late: scikit-learn
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x = np.concatenate([train, test])[:, :WIDTH].astype(np.float64)
    x /= x[:, :1].std() + 1e-12  # one scale for all: small components stay small
    y = np.repeat([0, 1], [len(train), len(test)])
    folds = StratifiedKFold(min(5, len(train), len(test)), shuffle=True, random_state=0)
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=200)
    prob = cross_val_predict(model, x, y, cv=folds, method="predict_proba")[:, 1]
    return Drift(float(roc_auc_score(y, prob)), prob[: len(train)], prob[len(train) :])


def layout(features: np.ndarray) -> np.ndarray:
    """Places float32 [n, 2] in 0..1 where alike pictures lie side by side: t-SNE of features.

    van der Maaten and Hinton 2008. Distances between far clusters mean nothing.
    """
    from sklearn.manifold import TSNE  # late: scikit-learn

    perplexity = min(30.0, max(1.0, (len(features) - 1) / 4))
    tsne = TSNE(perplexity=perplexity, init="pca", max_iter=400, random_state=0)
    places = tsne.fit_transform(features[:, :WIDTH])
    low, high = places.min(0), places.max(0)
    return ((places - low) / np.maximum(high - low, 1e-9)).astype(np.float32)

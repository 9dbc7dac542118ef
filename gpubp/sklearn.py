"""scikit-learn's MLPClassifier and MLPRegressor, trained by gpubp: one changed import.

    from gpubp.sklearn import MLPClassifier, MLPRegressor

Parameters, their defaults, attributes and methods are scikit-learn 1.9's. With the same
``random_state`` the initial weights, the order of examples and so the fitted weights are
scikit-learn's, up to rounding. What follows its definitions, not ours:

* alpha is the coefficient of 1/2 ||w||^2 beside the *sum* of the costs of a mini-batch: our l2 is
  alpha / (examples of the mini-batch, or the sum of their weights);
* Adam's epsilon stands beside sqrt(s) before the bias correction (``epsilon_hat``);
* the squared error reported in ``loss_`` is the mean over outputs, while its gradient is that of
  their sum.

Where scikit-learn clips probabilities in the reported log-loss, ours is computed from z, exactly.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import accuracy_score, check_scoring, r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import LabelBinarizer
    from sklearn.utils import check_random_state, column_or_1d, shuffle
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import (
        check_classification_targets,
        type_of_target,
        unique_labels,
    )
    from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"gpubp.sklearn needs scikit-learn 1.6 or newer ({error}): pip install 'gpubp[sklearn]'"
    ) from error

from .activation import Activation
from .alone import training_alone
from .arrays import as_csr, as_input, as_targets, check_count, check_number, row_chunks
from .backprop import backprop
from .cost import Cost, get_cost
from .errors import DivergenceError
from .examples import Examples
from .formats.sklearn import EXP, POISSON
from .interrupt import Terminated, deferred_interrupt
from .network import Network
from .optimizer import SGD, Adam, Optimizer, get_optimizer
from .progress import Bar
from .settings import Settings
from .sgd import Run
from .training import Training
from .weighting import ClassWeight, check_weights

_LOGISTIC = "logistic"  # scikit-learn's name of sigmoid


class _Run(Run):
    """gpubp's loop with scikit-learn's scaling of alpha, whose optimizer may have made ``before``
    steps already, and the mean over ``outputs`` in the reported cost."""

    alpha = 0.0
    before = 0
    outputs = 1

    def begin(self) -> None:
        state = self.parameters.state
        super().begin()
        if self.before:
            self.parameters.state[...] = state

    def numbers(self, count: int) -> Any:
        t, m = self.training, self.plan.batch_size
        first = self.before + t.epoch * t.steps + t.step + 1
        numbers = self.settings.update.numbers(first, self.rates(t.step, count))
        if self.plan.rule.penalised:
            starts = m * np.arange(t.step, t.step + count)
            if self.examples.weights is None:
                totals = np.minimum(starts + m, t.examples) - starts
            else:
                weights = self.examples.weights[self.order()]
                totals = np.add.reduceat(weights, m * np.arange(t.steps))[t.step :][:count]
            l2 = np.divide(self.alpha, totals, out=np.zeros(count), where=totals > 0)
            numbers[:, self.plan.rule.numbers.index("l2")] = l2
        return numbers

    def epoch(self, interrupted: Callable[[], bool], bar: Bar) -> None:
        if self.outputs == 1:
            return super().epoch(interrupted, bar)
        # The objective minus its penalty is to be divided by the outputs: a mini-batch at a time,
        # as the penalty is that of the weights before its update.
        self.prepare()
        m, rule = self.plan.batch_size, self.plan.rule
        with closing(self.pieces(interrupted, bar)) as pieces:
            for piece in pieces:
                costs = []
                for i, numbers in enumerate(piece.numbers):
                    rows = piece.order[i * m : (i + 1) * m]
                    penalty = len(rows) * rule.penalty(
                        self.network.backend.xp, self.parameters, numbers
                    )
                    (cost,) = self.stepper.run(*self.asked(rows, numbers[None]))
                    costs.append((cost - penalty) / self.outputs + penalty)
                piece.costs = np.array(costs)
        return None


class _Arrays(list[Any]):
    """A list of arrays; assigning to one copies the values into the network."""

    def __setitem__(self, i: Any, value: Any) -> None:
        self[i][...] = value


class _Perceptron(BaseEstimator):
    """What both estimators share: parameters, the two solvers, and the fitted attributes."""

    network_: Network
    best_loss_: Any
    _kept: tuple[str, ...]

    def _check_parameters(self) -> list[int]:
        """The hidden layers' sizes, after a look at all parameters."""
        given = self.hidden_layer_sizes
        sizes = list(given) if np.iterable(given) else [given]
        if not all(isinstance(n, int | np.integer) and n > 0 for n in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        for name in ("alpha", "power_t", "tol"):
            check_number(getattr(self, name), name)
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must not be negative")
        check_number(self.learning_rate_init, "learning_rate_init")
        if self.learning_rate_init <= 0:
            raise ValueError(f"learning_rate_init={self.learning_rate_init!r} must be above 0")
        for name in ("max_iter", "max_fun"):
            check_count(getattr(self, name), name)
        if self.n_iter_no_change != np.inf:
            check_count(self.n_iter_no_change, "n_iter_no_change")
        if self.batch_size != "auto":
            check_count(self.batch_size, "batch_size")
        check_number(self.validation_fraction, "validation_fraction")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction!r} must be at least 0 and below 1"
            )
        rates = ("constant", "invscaling", "adaptive")
        if self.learning_rate not in rates:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be one of {rates}")
        for name in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False")
        return [int(n) for n in sizes]

    def _chosen_optimizer(self) -> Optimizer:
        if self.solver == "sgd":
            return SGD(self.momentum, bool(self.nesterovs_momentum and self.momentum))
        if self.solver == "adam":
            return Adam(self.beta_1, self.beta_2, self.epsilon, epsilon_hat=True)
        return get_optimizer(self.solver)

    @property
    def _is_lbfgs(self) -> bool:
        return isinstance(self.solver, str) and self.solver == "lbfgs"

    def _network(self, sizes: list[int], dtype: Any) -> Network:
        """A new network with scikit-learn's initial weights, drawn from ``_random_state``."""
        draws = self._random_state
        factor = 2.0 if isinstance(self.activation, str) and self.activation == _LOGISTIC else 6.0

        def glorot(_: Any, n_out: int, n_in: int) -> tuple[Any, Any]:
            bound = np.sqrt(factor / (n_in + n_out))
            w = draws.uniform(-bound, bound, (n_in, n_out))
            return w.T, draws.uniform(-bound, bound, n_out)

        hidden = self.activation
        if isinstance(hidden, str) or not np.iterable(hidden):
            hidden = [hidden] * (len(sizes) - 2)
        if len(hidden) != len(sizes) - 2:
            raise ValueError(
                f"activation lists {len(hidden)} for {len(sizes) - 2} hidden layers: give one for "
                "all of them, or one for each"
            )
        hidden = ["sigmoid" if isinstance(h, str) and h == _LOGISTIC else h for h in hidden]
        output, cost = self._output()
        network = Network(
            sizes, activation=[*hidden, output], cost=cost, backend=self.backend, rng=0,
            init=glorot, dtype=self.dtype or dtype,
        )  # fmt: skip
        name = network.activations[-1].name
        self.out_activation_ = _LOGISTIC if name == "sigmoid" else name
        return network

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, validation_data: Any, incremental: bool
    ) -> Any:
        hidden = self._check_parameters()
        if validation_data is not None and (self._is_lbfgs or not self.early_stopping):
            raise ValueError(
                "validation_data is for early_stopping=True with a stochastic solver: set that, or "
                "leave validation_data out"
            )
        if not self._is_lbfgs:
            self._chosen_optimizer()
        anew = not hasattr(self, "network_") or not (self.warm_start or incremental)
        X, y = self._checked(X, y, incremental, reset=anew)
        if sample_weight is not None:
            sample_weight = check_weights(np, sample_weight, X.shape[0])
        if (by_class := getattr(self, "class_weight", None)) is not None:
            of_class = compute_sample_weight(by_class, self._labels(y))
            sample_weight = of_class if sample_weight is None else of_class * sample_weight
        self.n_outputs_ = y.shape[1]
        sizes = [X.shape[1], *hidden, self.n_outputs_]
        self._random_state = check_random_state(self.random_state)
        if anew:
            self.network_ = self._network(sizes, X.dtype)
            self.n_layers_, self.n_iter_, self.t_ = len(sizes), 0, 0
            self._steps = 0
        elif list(self.network_.sizes) != sizes:
            raise ValueError(
                f"this estimator holds a network of sizes {list(self.network_.sizes)}, but its "
                f"parameters and data ask for {sizes}: pass warm_start=False to fit, or a clone"
            )
        early = bool(self.early_stopping)
        # Also where a warm start goes on by another solver, or with early stopping or without it.
        if not self._is_lbfgs and (
            anew or not hasattr(self, "loss_curve_") or (self.best_loss_ is None) != early
        ):
            self._best: Any = None
            self._no_improvement_count = 0
            self.loss_curve_: list[float] = []
            self.validation_scores_: list[float] | None = [] if early else None
            self.best_validation_score_: Any = -np.inf if early else None
            self.best_loss_ = None if early else np.inf
        with training_alone([self.network_]), self.network_.backend.device():
            if self._is_lbfgs:
                self._fit_lbfgs(X, y, sample_weight)
            else:
                self._fit_stochastic(X, y, sample_weight, validation_data, incremental)
        if not np.isfinite(self.network_.backend.asnumpy(self.network_.parameters.flat)).all():
            raise ValueError(_NOT_FINITE)
        return self

    def _input(self, X: Any) -> Any:
        """X as the network's Stepper takes it."""
        dtype = self.network_.dtype
        return as_csr(X, dtype, "X") if hasattr(X, "tocsr") else np.ascontiguousarray(X, dtype)

    # L-BFGS

    def _fit_lbfgs(self, X: Any, y: Any, weights: Any) -> None:
        """min over w, b of sum_i s_i C_i / sum_i s_i + alpha/2 ||w||^2 / sum_i s_i, by SciPy's
        L-BFGS-B on the gradient of BP1-BP4; the examples pass in chunks of bounded memory."""
        import scipy.optimize

        net, n = self.network_, X.shape[0]
        p, xp, asnumpy = net.parameters, net.backend.xp, net.backend.asnumpy
        x, targets = self._input(X), self._targets(y)
        total = float(n if weights is None else weights.sum())
        l2, outputs = self.alpha / total, self._averaged_outputs

        def parts(flat: Any) -> tuple[float, float, Any]:
            p.flat[...] = xp.asarray(flat.astype(net.dtype))
            cost, gradient = 0.0, xp.zeros_like(p.flat)
            nabla_w, nabla_b = p.views(gradient)
            for rows in row_chunks(n, 3 * sum(net.sizes) * p.flat.itemsize):
                s = None if weights is None else xp.asarray(weights[rows], net.dtype)
                g = backprop(
                    xp, net.backend.kernels, net.weights, net.biases, net.activations, net.cost,
                    as_input(xp, x[rows], net.dtype),
                    as_targets(xp, targets[rows], net.sizes[-1], net.dtype), s,
                )  # fmt: skip
                share = len(g.a[0]) / total
                cost += share * g.cost
                for whole, part in zip([*nabla_w, *nabla_b], [*g.nabla_w, *g.nabla_b], strict=True):
                    whole += share * part
            gradient[: p.n_weights] += l2 * p.all_weights
            squares = float(xp.sum(xp.square(p.all_weights, dtype=float)))
            return cost, 0.5 * l2 * squares, asnumpy(gradient).astype(float)

        def objective(flat: Any) -> tuple[float, Any]:
            cost, penalty, gradient = parts(flat)
            return cost + penalty, gradient

        iteration = 0

        def said(intermediate_result: Any) -> None:
            nonlocal iteration
            iteration += 1
            print(f"Iteration {iteration}, loss = {intermediate_result.fun:.8f}")

        with np.errstate(over="ignore", invalid="ignore"):
            found = scipy.optimize.minimize(
                objective, asnumpy(p.flat).astype(float), method="L-BFGS-B", jac=True,
                callback=said if self.verbose else None,
                options={"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol},
            )  # fmt: skip
            cost, penalty, _ = parts(found.x)
        self.n_iter_, self.loss_ = min(int(found.nit), self.max_iter), cost / outputs + penalty
        if not found.success:
            warnings.warn(
                f"L-BFGS-B has not converged after {found.nit} iterations and {found.nfev} "
                f"evaluations ({found.message}): increase max_iter or max_fun, or scale the data",
                ConvergenceWarning,
                stacklevel=4,
            )

    # Mini-batch SGD and its relatives

    def _fit_stochastic(
        self, X: Any, y: Any, weights: Any, validation_data: Any, incremental: bool
    ) -> None:
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        self._validation: Any = None
        if self.early_stopping and validation_data is None:
            X, y, weights = self._split(X, y, weights)
        elif validation_data is not None:
            self._validation = self._checked_validation(validation_data)
        n = X.shape[0]
        if self.batch_size != "auto" and self.batch_size > n:
            warnings.warn(
                f"batch_size={self.batch_size} is larger than the {n} examples: it is going to be "
                "clipped",
                stacklevel=5,
            )
        batch_size = min(200 if self.batch_size == "auto" else self.batch_size, n)
        optimizer = self._chosen_optimizer()
        kept = optimizer.rule.state  # another rule's state is none of this one's
        if not incremental or self._steps == 0 or self._kept != kept:
            self._rate, self._steps, self._kept = float(self.learning_rate_init), 0, kept
        order = np.arange(n)

        def ordered(_rng: Any, _n: int) -> Any:
            nonlocal order
            order = shuffle(order, random_state=self._random_state)
            return order

        net = self.network_
        settings = Settings(
            1 if incremental else self.max_iter, batch_size, lambda epoch: self._rate, optimizer,
            l2=self.alpha, shuffle=ordered if self.shuffle else False,
        )  # fmt: skip
        run = _Run(
            net, Examples(self._input(X), self._targets(y), weights=weights), None, settings,
            callbacks=[self._after_epoch, *(self.callbacks or ())], resume=False,
        )  # fmt: skip
        run.alpha, run.before, run.outputs = self.alpha, self._steps, self._averaged_outputs
        self.n_iter_ = 0
        run.prepare()
        run.begin()
        bar = Bar(bool(self.progress), [run.training])
        with deferred_interrupt() as interrupted, np.errstate(over="ignore", invalid="ignore"):
            try:
                while run.unfinished:
                    run.epoch(interrupted, bar)
            except DivergenceError as error:
                self._diverged(error)
            except KeyboardInterrupt:
                if isinstance(interrupted.exception(), Terminated):
                    raise
                warnings.warn("Training interrupted by user.", stacklevel=5)
            finally:
                bar.close()
                t = run.training
                self._steps += t.epoch * t.steps + t.step
        if self.early_stopping:
            net.parameters.flat[...] = self._best
        if not (incremental or run.training.stopped) and self.n_iter_ == self.max_iter:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                "optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _split(self, X: Any, y: Any, weights: Any) -> tuple[Any, Any, Any]:
        """The examples to train on; those held out become ``_validation``."""
        arrays = (X, y) if weights is None else (X, y, weights)
        train: list[Any] = []
        held: list[Any] = []
        parts = train_test_split(
            *arrays, random_state=self._random_state, test_size=self.validation_fraction,
            stratify=y if self._stratified else None,
        )  # fmt: skip
        for i, part in enumerate(parts):
            (held if i % 2 else train).append(part)
        if held[0].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        weight = held[2] if len(held) > 2 else None
        self._validation = held[0], self._labels(held[1]), weight
        return train[0], train[1], train[2] if len(train) > 2 else None

    def _checked_validation(self, given: Any) -> tuple[Any, Any, Any]:
        """(X, y, sample_weight or None) of one's own, checked before training."""
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
        X, y = given[:2]
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        check_consistent_length(X, *given[1:])
        weight = given[2] if len(given) > 2 else None
        return X, y, None if weight is None else check_weights(np, weight, X.shape[0])

    def _after_epoch(self, training: Training) -> None:
        """Record the epoch, and stop or lower the rate as scikit-learn's rules say."""
        self.n_iter_ += 1
        self.loss_ = training.history[-1].cost
        self.t_ += training.examples
        self.loss_curve_.append(self.loss_)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        if self.early_stopping:
            better = self._judged(self._validation_score(), training)
        else:
            better = self.loss_ <= self.best_loss_ - self.tol
            self.best_loss_ = min(self.best_loss_, self.loss_)
        self._no_improvement_count = 0 if better else self._no_improvement_count + 1
        sgd = self.solver == "sgd"
        if sgd and self.learning_rate == "invscaling":
            self._rate = self.learning_rate_init / (self.t_ + 1) ** self.power_t
        if self._no_improvement_count <= self.n_iter_no_change:
            return
        what = "Validation score" if self.early_stopping else "Training loss"
        why = (
            f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} "
            "consecutive epochs."
        )
        if sgd and self.learning_rate == "adaptive" and self._rate > 1e-6:
            self._rate /= 5.0
            self._no_improvement_count = 0
            then = f"Setting learning rate to {self._rate:f}"
        else:
            training.stop()
            then = "Stopping."
        if self.verbose:
            print(f"{why} {then}")

    def _validation_score(self) -> float:
        """Of the examples held out or given: by ``scoring``, or accuracy or R2; NaN where the
        outputs are not finite."""
        X, y, weight = self._validation
        if self.scoring is not None:
            scorer = check_scoring(self, scoring=self.scoring)
            more = {} if weight is None else {"sample_weight": weight}
            return float(scorer(self, X, y, **more))
        outputs = self._outputs(X)
        if not np.isfinite(outputs).all():
            return math.nan
        return float(self._metric(y, self._decided(outputs), sample_weight=weight))

    def _judged(self, score: float, training: Training) -> bool:
        """Keep this score, and the weights where it is the best."""
        assert self.validation_scores_ is not None
        self.validation_scores_.append(score)
        if self.verbose:
            print(f"Validation score: {score:f}")
        better = not score < self.best_validation_score_ + self.tol
        if self._best is None or score > self.best_validation_score_:
            self._best = training.network.parameters.flat.copy()
        if score > self.best_validation_score_:
            self.best_validation_score_ = score
        return better

    def _diverged(self, error: DivergenceError) -> None:
        """scikit-learn trains on with NaN and then says so; with early stopping the best weights
        remain. What is reported is the same, without training on."""
        if not self.early_stopping or self._best is None:
            raise ValueError(_NOT_FINITE) from error
        self.n_iter_ += 1
        self.loss_ = math.nan
        self.loss_curve_.append(math.nan)
        assert self.validation_scores_ is not None
        self.validation_scores_.append(math.nan)
        warnings.warn(
            f"Training diverged and ended early, with the best weights before: {error}",
            ConvergenceWarning,
            stacklevel=6,
        )

    # What has been fitted

    def _outputs(self, X: Any) -> Any:
        """a^L (n, n_L) on the CPU for X that scikit-learn has checked."""
        net = self.network_
        with net.backend.device(), np.errstate(over="ignore", invalid="ignore"):
            found = [net.backend.asnumpy(a) for _, _, a in net._forward_chunks(self._input(X))]
        return np.concatenate(found)

    def predict(self, X: Any) -> Any:
        """The classes, or the values, of X (n, n_features): (n,) or (n, outputs)."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        return self._decided(self._outputs(X))

    @property
    def coefs_(self) -> list[Any]:
        """w of each layer, (n_in, n_out): the network's weights transposed, as views of them on
        the CPU."""
        arrays = self._fitted("weights")
        return _Arrays(w.T for w in arrays)

    @coefs_.setter
    def coefs_(self, value: Sequence[Any]) -> None:
        for i, w in enumerate(value):
            self.network_.weights[i] = np.asarray(w).T

    @property
    def intercepts_(self) -> list[Any]:
        """b of each layer, (n_out,)."""
        return _Arrays(self._fitted("biases"))

    @intercepts_.setter
    def intercepts_(self, value: Sequence[Any]) -> None:
        for i, b in enumerate(value):
            self.network_.biases[i] = b

    def _fitted(self, name: str) -> list[Any]:
        if "network_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no {name} before fit")
        net = self.network_
        if net.backend.xp is np:
            return list(getattr(net, name))
        copies = [net.backend.asnumpy(array) for array in getattr(net, name)]
        for copy in copies:
            copy.setflags(write=False)  # a change would not reach the network
        return copies

    def _can_partial_fit(self) -> bool:
        if self._is_lbfgs:
            raise AttributeError("partial_fit is for stochastic solvers, and lbfgs is not one")
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.backend != "cuda"
        return tags


_NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


class MLPClassifier(ClassifierMixin, _Perceptron):
    """A multilayer perceptron that classifies, as scikit-learn's MLPClassifier.

    The cost is the log-loss: softmax with log-likelihood for three classes and more, sigmoid with
    cross-entropy for two and for several labels at once.

    Args:
        hidden_layer_sizes: neurons of each hidden layer.
        activation: of the hidden layers: scikit-learn's identity, logistic, tanh, relu, or any of
            gpubp's, a formula in z, an :class:`~gpubp.Activation`, or one for each of them.
        solver: "adam", "sgd", "lbfgs", or another of :mod:`gpubp.optimizer`, by name or object.
        alpha: coefficient of 1/2 ||w||^2, divided by the examples of the mini-batch.
        batch_size: examples of a mini-batch; "auto" is min(200, examples).
        learning_rate: of "sgd": "constant"; "invscaling", learning_rate_init / (t_ + 1)^power_t
            after each epoch; "adaptive", a fifth each time that n_iter_no_change epochs were no
            better by tol.
        learning_rate_init, power_t: eta at first, and that exponent.
        max_iter: epochs at most, or iterations of "lbfgs"; max_fun its evaluations at most.
        shuffle: draw a new order of the examples each epoch.
        random_state: int, ``RandomState`` or None: of initial weights, orders, and the examples
            held out.
        tol, n_iter_no_change: training stops after so many epochs in which the loss, or the
            validation score, was no better by tol. For "lbfgs" tol is the gradient's largest
            component.
        verbose: print the loss of each epoch.
        warm_start: fit goes on from the weights that are there.
        momentum, nesterovs_momentum: of "sgd"; momentum lies in [0, 1).
        beta_1, beta_2, epsilon: of "adam".
        early_stopping, validation_fraction: hold out a part of the examples (of classes,
            stratified), stop by its score, keep the best weights.
        backend: "cpu", "cuda" or "reference".
        dtype: "float32" or "float64"; None is that of X.
        cost: of gpubp, in place of scikit-learn's loss.
        class_weight: {class: weight}, or "balanced".
        scoring: of the validation, a scorer or its name; None is accuracy or R2.
        callbacks: of gpubp, called after each epoch.
        progress: show a progress bar.

    Attributes: ``network_``, the :class:`~gpubp.Network`, for ``gpubp.explain`` and the rest; and
    scikit-learn's: coefs_, intercepts_, loss_, best_loss_, loss_curve_, validation_scores_,
    best_validation_score_, n_iter_, t_, n_layers_, n_outputs_, out_activation_, n_features_in_,
    feature_names_in_.

    Raises ``ValueError`` for parameters and data that cannot be, or weights that diverged.
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str | Optimizer = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        backend: str = "cpu",
        dtype: str | None = None,
        cost: str | Cost | None = None,
        class_weight: ClassWeight = None,
        scoring: Any = None,
        callbacks: Sequence[Any] | None = None,
        progress: bool = False,
    ) -> None:
        for name, value in list(locals().items()):
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    _averaged_outputs = 1
    _metric = staticmethod(accuracy_score)

    @property
    def _stratified(self) -> bool:
        return bool(self.n_outputs_ == 1)

    def _output(self) -> tuple[str, str | Cost]:
        several = self._label_binarizer.y_type_ == "multiclass"
        if self.cost is None:
            return ("softmax", "log_likelihood") if several else ("sigmoid", "cross_entropy")
        cost = get_cost(self.cost)
        return "softmax" if several and cost.name == "log_likelihood" else "sigmoid", cost

    def _checked(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        """X, and y as 0 and 1 of each output (n, n_L)."""
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True,
            dtype=(np.float64, np.float32), reset=reset,
        )  # fmt: skip
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            found, known = unique_labels(y), self.classes_
            if self.warm_start and set(found) != set(known):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the "
                    f"previous call to fit. Previously got {known}, `y` has {found}"
                )
            if len(np.setdiff1d(found, known)):
                raise ValueError(f"`y` has classes {found}, of which `self.classes_` has {known}")
        return X, self._label_binarizer.transform(y).astype(bool)

    def _targets(self, y: Any) -> Any:
        """What the network is trained on: labels (n,) of one class in several, else 0 and 1."""
        if self._label_binarizer.y_type_ == "multiclass":
            return y.argmax(axis=1)
        return np.ascontiguousarray(y, self.network_.dtype)

    def _labels(self, y: Any) -> Any:
        return self._label_binarizer.inverse_transform(y)

    def _decided(self, outputs: Any) -> Any:
        return self._label_binarizer.inverse_transform(
            outputs.ravel() if self.n_outputs_ == 1 else outputs
        )

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None
    ) -> MLPClassifier:
        """Train on X (n, n_features), dense or sparse, and the labels y, (n,) of any sortable kind
        or (n, labels) of 0 and 1; ``sample_weight`` (n,) weighs the examples' costs.
        ``validation_data`` (X, y[, sample_weight]) takes the place of the examples that
        ``early_stopping`` holds out."""
        fitted: MLPClassifier = self._fit(X, y, sample_weight, validation_data, False)
        return fitted

    @available_if(lambda estimator: estimator._can_partial_fit())
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> MLPClassifier:
        """One epoch over X and y, from the weights and the optimizer's state that are there;
        ``classes`` are all that will come, needed in the first call."""
        if not hasattr(self, "classes_"):
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            several = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if several else classes)
            self.classes_ = self._label_binarizer.classes_
        elif classes is not None and not np.array_equal(self.classes_, unique_labels(classes)):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{self.classes_!r}"
            )
        fitted: MLPClassifier = self._fit(X, y, sample_weight, None, True)
        return fitted

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class (n, classes), in the order of ``classes_``; of several
        labels at once, each by itself."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        a = self._outputs(X)
        if a.shape[1] == 1:
            return np.hstack([1 - a, a])
        if self._label_binarizer.y_type_ == "multiclass" and self.out_activation_ != "softmax":
            a = a + np.finfo(a.dtype).tiny  # rows of zeros become uniform
            a = a / a.sum(axis=1, keepdims=True)
        return a

    def predict_log_proba(self, X: Any) -> Any:
        """log of ``predict_proba``."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _Perceptron):
    """A multilayer perceptron for real targets, as scikit-learn's MLPRegressor.

    ``loss`` is "squared_error", 1/2 ||y - a||^2 with outputs a = z, or "poisson", half the Poisson
    deviance with a = exp(z) and y >= 0. The other parameters and the attributes are
    :class:`MLPClassifier`'s, without ``class_weight``.
    """

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str | Optimizer = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        backend: str = "cpu",
        dtype: str | None = None,
        cost: str | Cost | None = None,
        scoring: Any = None,
        callbacks: Sequence[Any] | None = None,
        progress: bool = False,
    ) -> None:
        for name, value in list(locals().items()):
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    _stratified = False
    _metric = staticmethod(r2_score)

    @property
    def _averaged_outputs(self) -> int:
        squared = self.cost is None and self.loss == "squared_error"
        return int(self.n_outputs_) if squared else 1

    def _output(self) -> tuple[str | Activation, str | Cost]:
        if self.cost is not None:
            return "identity", self.cost
        return (EXP, POISSON) if self.loss == "poisson" else ("identity", "quadratic")

    def _checked(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        """X, and y (n, n_L)."""
        if self.loss not in ("squared_error", "poisson"):
            raise ValueError(
                f"loss={self.loss!r} must be 'squared_error' or 'poisson'; another is given as cost"
            )
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, y_numeric=True,
            dtype=(np.float64, np.float32), reset=reset,
        )  # fmt: skip
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if self.loss == "poisson" and self.cost is None and y.min() < 0:
            raise ValueError(f"y holds {y.min():g}, but loss='poisson' is for y >= 0")
        return X, y.reshape(len(y), -1)

    def _targets(self, y: Any) -> Any:
        return np.ascontiguousarray(y, self.network_.dtype)

    def _labels(self, y: Any) -> Any:
        return y

    def _decided(self, outputs: Any) -> Any:
        return outputs.ravel() if outputs.shape[1] == 1 else outputs

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None
    ) -> MLPRegressor:
        """Train on X (n, n_features), dense or sparse, and y, (n,) or (n, outputs);
        ``sample_weight`` (n,) weighs the examples' costs. ``validation_data``
        (X, y[, sample_weight]) takes the place of the examples that ``early_stopping`` holds
        out."""
        fitted: MLPRegressor = self._fit(X, y, sample_weight, validation_data, False)
        return fitted

    @available_if(lambda estimator: estimator._can_partial_fit())
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """One epoch over X and y, from the weights and the optimizer's state that are there."""
        fitted: MLPRegressor = self._fit(X, y, sample_weight, None, True)
        return fitted
